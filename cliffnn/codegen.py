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


# Functions that are torch's own, and write where they are told to.
_INTO = frozenset(
    {"abs", "cos", "cosh", "exp", "log", "reciprocal", "rsqrt", "sigmoid", "sin", "sinh", "sqrt", "tan", "tanh"}
)


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
    return _function(name, program, _groups(program), [*body, f"return {', '.join(outputs)},"])


def _last(program: Program) -> str:
    """The last name of the cut."""
    return next(symbol for symbol, _ in reversed(program.statements) if symbol in program.cut)


def _assignment(name: str, value) -> list[str]:
    """Lines that compute a polynomial or a call: a term that is a plain product is added in one operation."""
    if hasattr(value, "function"):
        return [f"{name} = {call(value)}"]
    # a positive term first saves a negation; a constant is no tensor to add to
    terms = sorted(value.args, key=lambda monomial: (_is_constant(monomial[1:]), monomial[0] < 0))
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


def call(value, *options: str) -> str:
    """A function applied to names, as both kinds of source write it."""
    constants = ["TOLERANCE"] if value.function == "sign" else []
    return f"{value.function}({', '.join([*value.arguments, *constants, *options])})"


def buffered_source(name: str, program: Program) -> tuple[str, int]:
    """A function that writes all it computes into given tensors, and how many it needs beside the outputs.

    Allocating each intermediate result anew costs a CPU more than computing it: fresh memory is neither mapped nor in
    the cache. So a result gets the buffer of one that nobody needs any more. What a row has one of is small.
    """
    from cliffnn.schedule import operands_of, scheduled

    outputs = {symbol for group in program.outputs.values() for symbol in group}
    terms = scheduled(program)
    last_use = {operand: index for index, term in enumerate(terms) for operand in operands_of(term.value)}
    buffers: dict[str, str] = {}
    free: list[str] = []
    body: list[str] = []
    count = 0
    for index, (symbol, value, first) in enumerate(terms):
        if symbol in program.uniform and symbol not in outputs:
            body.append(_small(symbol, value, first))
        else:
            if first and symbol in outputs:
                buffers[symbol] = symbol
            elif first:
                if not free:
                    free.append(f"buffer{count}")
                    count += 1
                buffers[symbol] = free.pop()
            small = program.uniform.issuperset(operands_of(value))
            body.append(_into(buffers[symbol], symbol, value, small) if first else _added(symbol, value))
        for operand in operands_of(value):
            if last_use[operand] == index and operand in buffers and operand not in outputs:
                free.append(buffers.pop(operand))
    groups = {**_groups(program), **program.outputs, "buffers": tuple(f"buffer{index}" for index in range(count))}
    return _function(name, program, groups, body), count


def _small(name: str, value, first: bool) -> str:
    """The line that computes a term of what a row has one of."""
    if hasattr(value, "function"):
        return f"{name} = {call(value)}"
    coefficient, *factors = value
    text = " * ".join([str(float(coefficient)), *factors] if coefficient != 1 or not factors else factors)
    return f"{name} = {text}" if first else f"{name} = {name} + {text}"


def _into(buffer: str, name: str, value, small: bool) -> str:
    """The line that computes the first term of a name in its buffer; ``small``: from what a row has one of."""
    if hasattr(value, "function"):
        if value.function in _INTO and not small:
            return f"{name} = {call(value, f'out={buffer}')}"
        return f"{name} = {buffer}.copy_({call(value)})"
    coefficient, *factors = value
    if len(factors) < 2:
        function = "fill_" if _is_constant(factors) else "copy_"
        text = f"{buffer}.{function}({factors[0] if factors else 1})"
    else:
        text = f"mul({factors[0]}, {factors[1]}, out={buffer})" + "".join(f".mul_({factor})" for factor in factors[2:])
    scale = "" if coefficient == 1 else ".neg_()" if coefficient == -1 else f".mul_({float(coefficient)})"
    return f"{name} = {text}{scale}"


def _is_constant(factors: Iterable[str]) -> bool:
    """Whether a product of names is a number instead of a tensor."""
    from cliffnn.statements import CONSTANTS

    return all(factor in CONSTANTS for factor in factors)


def _added(name: str, value) -> str:
    """The line that adds a further term."""
    coefficient, *factors = value
    if not factors:
        return f"{name}.add_({float(coefficient)})"
    scale = "" if coefficient == 1 else f", {'alpha' if len(factors) == 1 else 'value'}={float(coefficient)}"
    if len(factors) == 1:
        return f"{name}.add_({factors[0]}{scale})"
    return f"{name}.addcmul_({' * '.join(factors[:-1])}, {factors[-1]}{scale})"


def _groups(program: Program) -> dict[str, tuple[str, ...]]:
    """The inputs that are used."""
    return {name: group for name, group in program.inputs.items() if not program.used.isdisjoint(group)}


def _function(name: str, program: Program, groups: Mapping[str, tuple[str, ...]], body: list[str]) -> str:
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
        return _header(operation, "addcmul, stack", program) + function_source("run", program)

    module = cache.load(file_name(operation.text, operation.algebra.name, "torch"), generate)
    return module.__dict__["run"], module.__dict__["INPUTS"]


def buffered_function(operation: Operation) -> tuple[Callable, tuple[str, ...], int]:
    """The same, writing into tensors that it is given, and how many it needs; see `buffered_source`."""

    def generate() -> str:
        program = program_of(operation)
        source, count = buffered_source("run", program)
        return _header(operation, "mul", program, f"BUFFERS = {count}") + source

    module = cache.load(file_name(operation.text, operation.algebra.name, "buffered"), generate)
    return module.__dict__["run"], module.__dict__["INPUTS"], module.__dict__["BUFFERS"]


def _functions(program: Program) -> list[str]:
    return sorted({"zero", *(value.function for _, value in program.statements if hasattr(value, "function"))})


def _header(operation: Operation, functions: str, program: Program, *constants: str) -> str:
    lines = "\n".join([f"INPUTS = {tuple(_groups(program))}", *constants])
    return (
        f'"""{operation.text} in {operation.algebra.name}: {operation.expression.function.__doc__}"""\n\n'
        f"from torch import {functions}\n\n"
        f"from cliffnn.elementary import {', '.join(_functions(program))}\n\n{lines}\n\n\n"
    )
