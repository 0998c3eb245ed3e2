"""Programs printed as Python source: one text for torch and Triton alike."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from cliffnn import cache
from cliffnn.algebra import Algebra
from cliffnn.expressions import EXPRESSIONS


def format_value(value) -> str:
    """A polynomial or a call, as ``x1*y2 - x2*y1`` or ``normal_cdf(x0)``."""
    if hasattr(value, "function"):
        return f"{value.function}({value.argument})"
    terms = [(monomial[0], monomial[1:]) for monomial in value.args]
    # a positive term first saves a negation
    terms.sort(key=lambda term: term[0] < 0)
    text = ""
    for coefficient, factors in terms:
        parts = [str(abs(coefficient))] if abs(coefficient) != 1 or not factors else []
        text += (" - " if coefficient < 0 else " + ") + " * ".join([*parts, *factors])
    if not text:
        return "0.0"
    return text.removeprefix(" + ") if text.startswith(" + ") else "-" + text.removeprefix(" - ")


def function_source(name: str, program, decorator: str = "") -> str:
    """A function from one tuple of scalars a group to a tuple of all outputs."""
    lines = [decorator] if decorator else []
    muls, adds = program.operations
    lines += [f"def {name}({', '.join(program.inputs)}):", f"    # {muls} multiplications, {adds} additions"]
    lines += [f"    {', '.join(symbols)}, = {group}" for group, symbols in program.inputs.items()]
    lines += [f"    {symbol} = {format_value(value)}" for symbol, value in program.statements]
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
            "from cliffnn.elementary import normal_cdf, normal_pdf\n\n\n" + function_source(kind, vjp or forward)
        )

    return cache.load(file_name(expression, algebra.name, kind, "torch"), generate)
