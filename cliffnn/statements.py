"""Statements: what a program is a list of. Each gives a name to a polynomial in earlier names, or to a call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from kingdon.polynomial import Polynomial


@dataclass(frozen=True)
class Call:
    """A function applied to names, and to whole numbers that say which function of a family."""

    function: str
    arguments: tuple[str, ...]


Value: TypeAlias = Polynomial | Call
Statement: TypeAlias = tuple[str, Value]

# Numbers that a program takes beside its inputs: what norms add to what they divide by, and how small a quadratic form
# may be before its sign counts as zero.
CONSTANTS = ("EPS", "TOLERANCE")


class Builder:
    """Collects statements; an equal value gets one name, and a value that is a name gets none."""

    def __init__(self, taken: set[str], statements: tuple[Statement, ...] = ()):
        self.statements = list(statements)
        self._taken = taken
        self._names: dict[Value, str] = {value: name for name, value in statements}

    def let(self, name: str, value: Value) -> str:
        if isinstance(value, Polynomial) and len(value) == 1 and len(value[0]) == 2 and value[0][0] == 1:
            return value[0][1]
        if value not in self._names:
            self.assign(self._fresh(name), value)
        return self._names[value]

    def assign(self, name: str, value: Value) -> None:
        """Assign under just this name, for an output."""
        self._taken.add(name)
        self.statements.append((name, value))
        self._names.setdefault(value, name)

    def call(self, function: str, *arguments: str) -> str:
        return self.let("_".join((function, *arguments)), Call(function, arguments))

    def _fresh(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self._taken:
            count += 1
            candidate = f"{name}_{count}"
        return candidate


def operands(value: Value) -> tuple[str, ...]:
    """The names that a value is computed from."""
    if isinstance(value, Call):
        return tuple(argument for argument in value.arguments if argument.isidentifier())
    return tuple(dict.fromkeys(factor for monomial in value.args for factor in monomial[1:]))


def variable(name: str) -> Polynomial:
    return Polynomial([[1, name]])


def summed(values: Iterable[Polynomial]) -> Polynomial:
    return sum(values, Polynomial([]))


def numbered(name: str, indices: Iterable[int]) -> tuple[str, ...]:
    return tuple(f"{name}{index}" for index in indices)
