"""Programs printed as Python source, for torch."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

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
    muls, adds = program.operations
    lines = [f"def {name}({', '.join(program.inputs)}):", f"    # {muls} multiplications, {adds} additions"]
    lines += [f"    {', '.join(symbols)}, = {group}" for group, symbols in program.inputs.items()]
    lines += [f"    {line}" for symbol, value in program.statements for line in assignment(symbol, value)]
    outputs = [symbol for group in program.outputs.values() for symbol in group]
    lines.append(f"    return {', '.join(outputs)},")
    return "\n".join(lines) + "\n"


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
    kind = "_".join(["grad", *wrt]) if wrt else "forward"
    return _torch_module(expression, algebra, wrt, kind).__dict__[kind]


def _torch_module(expression: str, algebra: Algebra, wrt: tuple[str, ...], kind: str) -> ModuleType:
    def generate() -> str:
        forward, vjp = programs(expression, algebra, wrt)
        what = f"the gradients of {expression} with respect to {', '.join(wrt)}" if wrt else expression
        return (
            f'"""{what}, in {algebra.name}: {EXPRESSIONS[expression].function.__doc__}"""\n\n'
            "from torch import addcmul\n\nfrom cliffnn.elementary import normal_cdf, normal_pdf\n\n\n"
            + function_source(kind, vjp or forward)
        )

    return cache.load(file_name(expression, algebra.name, kind, "torch"), generate)
