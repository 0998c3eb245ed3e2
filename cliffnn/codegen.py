"""Programs printed as Python source, for torch."""

from __future__ import annotations

from collections.abc import Callable

from cliffnn import cache
from cliffnn.algebra import Algebra
from cliffnn.expressions import EXPRESSIONS


def assignment(name: str, value) -> list[str]:
    """Lines that compute a polynomial or a call: a term that is a plain product is added in one operation."""
    if hasattr(value, "function"):
        return [f"{name} = {value.function}({value.argument})"]
    # a positive term first saves a negation
    terms = sorted(value.args, key=lambda monomial: monomial[0] < 0)
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


def function_source(name: str, program) -> str:
    """A function from one tuple of scalars a group to a tuple of all outputs."""
    outputs = [symbol for group in program.outputs.values() for symbol in group]
    body = [line for symbol, value in program.statements for line in assignment(symbol, value)]
    return _function(name, program, program.inputs, [*body, f"return {', '.join(outputs)},"])


def buffered_source(name: str, program) -> tuple[str, int]:
    """A function that writes all it computes into given tensors, and how many it needs beside the outputs.

    Allocating each intermediate result anew costs a CPU more than computing it: fresh memory is neither mapped nor in
    the cache. So a result gets the buffer of one that nobody needs any more.
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
        if first and symbol in outputs:
            buffers[symbol] = symbol
        elif first:
            if not free:
                free.append(f"buffer{count}")
                count += 1
            buffers[symbol] = free.pop()
        body.append(_into(buffers[symbol], symbol, value) if first else _added(symbol, value))
        for operand in operands_of(value):
            if last_use[operand] == index and operand in buffers and operand not in outputs:
                free.append(buffers.pop(operand))
    groups = {**program.inputs, **program.outputs, "buffers": tuple(f"buffer{index}" for index in range(count))}
    return _function(name, program, groups, body), count


def _into(buffer: str, name: str, value) -> str:
    """The line that computes the first term of a name in its buffer."""
    if hasattr(value, "function"):
        return f"{name} = {buffer}.copy_({value.function}({value.argument}))"
    coefficient, *factors = value
    if len(factors) < 2:
        text = f"{buffer}.copy_({factors[0]})" if factors else f"{buffer}.fill_(1)"
    else:
        text = f"mul({factors[0]}, {factors[1]}, out={buffer})" + "".join(f".mul_({factor})" for factor in factors[2:])
    scale = "" if coefficient == 1 else ".neg_()" if coefficient == -1 else f".mul_({float(coefficient)})"
    return f"{name} = {text}{scale}"


def _added(name: str, value) -> str:
    """The line that adds a further term."""
    coefficient, *factors = value
    if not factors:
        return f"{name}.add_({float(coefficient)})"
    scale = "" if coefficient == 1 else f", {'alpha' if len(factors) == 1 else 'value'}={float(coefficient)}"
    if len(factors) == 1:
        return f"{name}.add_({factors[0]}{scale})"
    return f"{name}.addcmul_({' * '.join(factors[:-1])}, {factors[-1]}{scale})"


def _function(name: str, program, groups, body: list[str]) -> str:
    muls, adds = program.operations
    lines = [f"def {name}({', '.join(groups)}):", f"    # {muls} multiplications, {adds} additions"]
    lines += [f"    {', '.join(symbols)}, = {group}" for group, symbols in groups.items() if symbols]
    return "\n".join([*lines, *(f"    {line}" for line in body)]) + "\n"


def programs(expression: str, algebra: Algebra, wrt: tuple[str, ...] = ()):
    """The program of an expression and, if ``wrt`` names groups, its vector-Jacobian product."""
    from cliffnn.program import Program

    forward = Program.of(EXPRESSIONS[expression], algebra)
    return forward, forward.vjp(wrt) if wrt else None


def file_name(*parts: str) -> str:
    """A name that tells expression, algebra and kind, and is a Python identifier."""
    return "_".join(parts).replace(",", "_")


def torch_function(expression: str, algebra: Algebra, wrt: tuple[str, ...] = ()) -> Callable:
    """The generated torch function of an expression, or of its vector-Jacobian product."""
    name = _function_name(wrt)

    def generate() -> str:
        return _header(expression, algebra, wrt, "addcmul") + function_source(name, _program(expression, algebra, wrt))

    return cache.load(file_name(expression, algebra.name, name, "torch"), generate).__dict__[name]


def buffered_function(expression: str, algebra: Algebra, wrt: tuple[str, ...] = ()) -> tuple[Callable, int]:
    """The same, writing into tensors that it is given, and how many it needs; see `buffered_source`."""
    name = _function_name(wrt)

    def generate() -> str:
        source, count = buffered_source(name, _program(expression, algebra, wrt))
        return f"{_header(expression, algebra, wrt, 'mul')}BUFFERS = {count}\n\n\n{source}"

    module = cache.load(file_name(expression, algebra.name, name, "buffered"), generate)
    return module.__dict__[name], module.__dict__["BUFFERS"]


def _function_name(wrt: tuple[str, ...]) -> str:
    return "_".join(["grad", *wrt]) if wrt else "forward"


def _program(expression: str, algebra: Algebra, wrt: tuple[str, ...]):
    forward, vjp = programs(expression, algebra, wrt)
    return vjp or forward


def _header(expression: str, algebra: Algebra, wrt: tuple[str, ...], function: str) -> str:
    what = f"the gradients of {expression} with respect to {', '.join(wrt)}" if wrt else expression
    return (
        f'"""{what}, in {algebra.name}: {EXPRESSIONS[expression].function.__doc__}"""\n\n'
        f"from torch import {function}\n\nfrom cliffnn.elementary import normal_cdf, normal_pdf\n\n\n"
    )
