"""Programs printed as Python source, for torch."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from cliffnn import cache
from cliffnn.operation import Operation

if TYPE_CHECKING:
    from cliffnn.program import Program


@functools.lru_cache(maxsize=4)
def program_of(operation: Operation, recompute: bool = False) -> Program:
    """The program of an operation; a derivative reads what was saved, or computes the result anew."""
    from cliffnn.program import Program

    program = Program.of(operation)
    known = [name for name in operation.saved if not (recompute and name == "out")]
    groups = {name: [f"{name}{index}" for index in operation.inputs[name].indices] for name in known}
    scalars = [symbol for name in known if operation.inputs[name].kind == "scalars" for symbol in groups[name]]
    return program.given(groups, scalars).flattened() if groups else program


def function_source(name: str, program: Program) -> str:
    """A function from one tuple of tensors a group to a tuple of all outputs."""
    outputs = [symbol for group in program.outputs.values() for symbol in group]
    body: list[str] = []
    for symbol, value in program.statements:
        body += _assignment(symbol, value)
        if program.cut and symbol == _last(program):
            cut = ", ".join(program.cut)
            body += [
                "# kept in memory: a compiler would compute it wherever it is used, and then keep far more",
                f"{cut}, = stack(({cut},), 1).unbind(1)",
            ]
    return function_text(name, program, used_groups(program), [*body, f"return {', '.join(outputs)},"])


def _last(program: Program) -> str:
    """The last name of the cut."""
    return next(symbol for symbol, _ in reversed(program.statements) if symbol in program.cut)


def _assignment(name: str, value) -> list[str]:
    """Lines that compute a polynomial or a call: a term that is a plain product is added in one operation."""
    if hasattr(value, "function"):
        return [f"{name} = {call(value)}"]
    # a positive term first saves a negation; a constant is no tensor to add to
    terms = sorted(value.args, key=lambda monomial: (is_constant(monomial[1:]), monomial[0] < 0))
    lines: list[str] = []
    for coefficient, *factors in terms or [(0,)]:
        plain = abs(coefficient) == 1 and factors
        text = " * ".join(factors if plain else [str(float(abs(coefficient))), *factors])
        if not lines:
            lines.append(f"{name} = {'-' if coefficient < 0 else ''}{text}")
        elif plain and len(factors) == 2:
            sign = ", value=-1" if coefficient < 0 else ""
            lines.append(f"{name} = addcmul({name}, {factors[0]}, {factors[1]}{sign})")
        else:
            lines.append(f"{name} = {name} {'-' if coefficient < 0 else '+'} {text}")
    return lines


def is_constant(factors: Iterable[str]) -> bool:
    """Whether a product of names is a number instead of a tensor."""
    from cliffnn.statements import CONSTANTS

    return all(factor in CONSTANTS for factor in factors)


def call(value, *options: str) -> str:
    """A function applied to names, as both kinds of source write it."""
    constants = ["TOLERANCE"] if value.function == "sign" else []
    return f"{value.function}({', '.join([*value.arguments, *constants, *options])})"


def used_groups(program: Program) -> dict[str, tuple[str, ...]]:
    """The inputs that are used."""
    return {name: group for name, group in program.inputs.items() if not program.used.isdisjoint(group)}


def function_text(name: str, program: Program, groups: Mapping[str, tuple[str, ...]], body: list[str]) -> str:
    """A function of tuples, one for each group."""
    muls, adds = program.operations
    lines = [
        f"def {name}({', '.join([*groups, 'EPS', 'TOLERANCE'])}):",
        f"    # {muls} multiplications, {adds} additions",
    ]
    lines += [f"    {', '.join(symbols)}, = {group}" for group, symbols in groups.items() if symbols]
    return "\n".join([*lines, *(f"    {line}" for line in body)]) + "\n"


def file_name(*parts: str) -> str:
    """A Python identifier, of bearable length, that tells what is in a file; other parts have another name."""
    whole = " ".join(parts)
    return f"{re.sub(r'[^a-zA-Z0-9]+', '_', whole)[:80]}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def torch_function(operation: Operation) -> tuple[Callable, tuple[str, ...]]:
    """The generated torch function of an operation, and the inputs that it takes, by name."""

    def generate() -> str:
        program = program_of(operation)
        return header(operation, "addcmul, stack", program) + function_source("run", program)

    module = cache.load(file_name(operation.text, operation.algebra.name, "torch"), generate)
    return module.__dict__["run"], module.__dict__["INPUTS"]


def _functions(program: Program) -> list[str]:
    return sorted({"zero", *(value.function for _, value in program.statements if hasattr(value, "function"))})


def header(operation: Operation, functions: str, program: Program, *constants: str) -> str:
    """What stands above a generated function; ``functions`` of torch are those that it calls."""
    lines = "\n".join([f"INPUTS = {tuple(used_groups(program))}", *constants])
    return (
        f'"""{operation.text} in {operation.algebra.name}: {operation.expression.function.__doc__}"""\n\n'
        f"from torch import {functions}\n\n"
        f"from cliffnn.elementary import {', '.join(_functions(program))}\n\n{lines}\n\n\n"
    )
