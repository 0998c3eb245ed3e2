"""Straight-line programs: what an expression becomes once an algebra is chosen, and their derivatives.

A program is a list of assignments, each a polynomial in earlier names or an elementary function of one of them.
Programs are closed under reverse-mode differentiation (`Program.vjp`), so second derivatives need no new idea.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from kingdon.polynomial import Polynomial, RationalPolynomial

if TYPE_CHECKING:
    from kingdon import MultiVector

    from cliffnn.algebra import Algebra
    from cliffnn.expressions import Expression


@dataclass(frozen=True)
class Call:
    """An elementary function applied to a name."""

    function: str
    argument: str


Value: TypeAlias = Polynomial | Call
Statement: TypeAlias = tuple[str, Value]

# The derivative of each elementary function, as a polynomial in its argument, its value, and calls of others.
DERIVATIVES: dict[str, Callable[[Builder, str, str], Polynomial]] = {
    "normal_cdf": lambda builder, x, value: _symbol(builder.call("normal_pdf", x)),
    "normal_pdf": lambda builder, x, value: -_symbol(x) * _symbol(value),
}


def _symbol(name: str) -> Polynomial:
    return Polynomial([[1, name]])


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

    def call(self, function: str, argument: str) -> str:
        return self.let(f"{function}_{argument}", Call(function, argument))

    def _fresh(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self._taken:
            count += 1
            candidate = f"{name}_{count}"
        return candidate


class Trace:
    """What an expression writes its intermediate results to: they stay factored instead of being multiplied out."""

    def __init__(self, algebra: Algebra):
        self.algebra = algebra
        self.inputs: dict[str, tuple[str, ...]] = {}
        self._keys = tuple(algebra.kingdon.canon2bin.values())
        self._position = {key: index for index, key in enumerate(self._keys)}
        self.builder = Builder(taken=set())

    def multivector(self, name: str) -> MultiVector:
        symbols = self._declare(name, len(self._keys))
        return self.algebra.kingdon.multivector(keys=self._keys, values=symbols)

    def coefficients(self, name: str, count: int) -> list[RationalPolynomial]:
        return self._declare(name, count)

    def let(self, name: str, mv: MultiVector) -> MultiVector:
        """Name each coefficient of ``mv`` and go on with the names."""
        values = [
            RationalPolynomial.fromname(self.builder.let(f"{name}_{self._position[key]}", _polynomial(value)))
            for key, value in mv.items()
        ]
        return self.algebra.kingdon.multivector(keys=tuple(mv.keys()), values=values)

    def apply(self, function: str, scalar: MultiVector) -> RationalPolynomial:
        """An elementary function of a scalar."""
        (value,) = scalar.values()
        argument = self.builder.let("argument", _polynomial(value))
        return RationalPolynomial.fromname(self.builder.call(function, argument))

    def finish(self, name: str, mv: MultiVector) -> dict[str, tuple[str, ...]]:
        """Assign the coefficients of the result, in the order of the blades."""
        coefficients = {self._position[key]: _polynomial(value) for key, value in mv.items()}
        names = tuple(f"{name}{index}" for index in range(len(self._keys)))
        for index, symbol in enumerate(names):
            if not coefficients.get(index):
                blade = self.algebra.blades[index]
                raise NotImplementedError(f"the {blade} blade of an expression is always zero: it cannot be generated")
            self.builder.assign(symbol, coefficients[index])
        return {name: names}

    def _declare(self, name: str, count: int) -> list[RationalPolynomial]:
        self.inputs[name] = tuple(f"{name}{index}" for index in range(count))
        self.builder._taken.update(self.inputs[name])
        return [RationalPolynomial.fromname(symbol) for symbol in self.inputs[name]]


def _polynomial(value: RationalPolynomial | int | float) -> Polynomial:
    if not isinstance(value, RationalPolynomial):
        return Polynomial([[value]] if value else [])
    if value.denom != 1:
        raise NotImplementedError(f"an expression divides by {value.denom}: only polynomials can be generated")
    return value.numer


@dataclass(frozen=True)
class Program:
    """Assignments from named groups of scalars to named groups of scalars.

    Attributes
    ----------
    inputs, outputs : mapping of str to tuple of str
        Groups, as ``{"x": ("x0", "x1", ...)}``: one scalar a blade, or a path.
    statements : tuple
        ``(name, value)`` in order of execution.
    """

    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, tuple[str, ...]]
    statements: tuple[Statement, ...]

    @classmethod
    def of(cls, expression: Expression, algebra: Algebra) -> Program:
        """Write out an expression in an algebra."""
        trace = Trace(algebra)
        rows = [trace.multivector(name) for name in expression.rows]
        params = [trace.coefficients(name, len(algebra.paths)) for name in expression.params]
        outputs = trace.finish("out", expression.function(trace, *rows, *params))
        return cls(trace.inputs, outputs, tuple(trace.builder.statements))

    def vjp(self, wrt: tuple[str, ...]) -> Program:
        """The vector-Jacobian product, by reverse mode over the statements.

        A program from the inputs and one cotangent an output (group ``grad_out``) to the gradients with respect to
        the groups named in ``wrt`` (groups ``grad_x``, ...).
        """
        taken = {name for group in self.inputs.values() for name in group} | {name for name, _ in self.statements}
        builder = Builder(taken, self.statements)
        cotangents = {f"grad_{name}": tuple(f"grad_{s}" for s in group) for name, group in self.outputs.items()}
        adjoints = {symbol: _symbol(f"grad_{symbol}") for group in self.outputs.values() for symbol in group}
        taken.update(f"grad_{symbol}" for symbol in adjoints)

        needed = self._depending_on({symbol for name in wrt for symbol in self.inputs[name]})
        for name, value in reversed(self.statements):
            adjoint = adjoints.get(name)
            if adjoint is None or name not in needed:
                continue
            bar = _symbol(builder.let(f"grad_{name}", adjoint))
            for argument in _arguments(value):
                if argument in needed:
                    if isinstance(value, Call):
                        slope = DERIVATIVES[value.function](builder, argument, name)
                    else:
                        slope = value.diff(argument)
                    adjoints[argument] = adjoints.get(argument, Polynomial([])) + slope * bar

        outputs = {}
        for name in wrt:
            outputs[f"grad_{name}"] = tuple(f"grad_{symbol}" for symbol in self.inputs[name])
            for symbol in self.inputs[name]:
                builder.assign(f"grad_{symbol}", adjoints.get(symbol, Polynomial([])))
        return Program({**self.inputs, **cotangents}, outputs, tuple(builder.statements)).pruned()

    def pruned(self) -> Program:
        """Without the statements that no output needs."""
        live = {name for group in self.outputs.values() for name in group}
        kept = []
        for name, value in reversed(self.statements):
            if name in live:
                kept.append((name, value))
                live.update(_arguments(value))
        return Program(self.inputs, self.outputs, tuple(reversed(kept)))

    def _depending_on(self, symbols: set[str]) -> set[str]:
        found = set(symbols)
        for name, value in self.statements:
            if not found.isdisjoint(_arguments(value)):
                found.add(name)
        return found

    @property
    def operations(self) -> tuple[int, int]:
        """Multiplications and additions, an elementary function counting as neither."""
        polynomials = [value for _, value in self.statements if isinstance(value, Polynomial)]
        muls = sum(max(len(m) - 2, 0) + (abs(m[0]) != 1 and len(m) > 1) for p in polynomials for m in p.args)
        return muls, sum(max(len(p) - 1, 0) for p in polynomials)


def _arguments(value: Value) -> tuple[str, ...]:
    if isinstance(value, Call):
        return (value.argument,)
    return tuple(dict.fromkeys(factor for monomial in value.args for factor in monomial[1:]))
