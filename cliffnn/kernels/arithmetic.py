"""The arithmetic of a kernel's source: statements in the order and the stages in which they are computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from cliffnn.codegen import call
from cliffnn.kernels.tiles import sums_over_channels

if TYPE_CHECKING:
    from cliffnn.program import Program


def arithmetic(program: Program, totals: Mapping[str, Iterable[str]], singular: bool) -> list[str]:
    """All statements, in stages with the sums over channels between them.

    Parameters
    ----------
    program : Program
    totals : mapping of str to iterable of str
        The outputs that are sums over all rows.
    singular : bool
        Whether rows that do not exist may give something that is not finite.
    """
    from cliffnn.schedule import scheduled

    muls, adds = program.operations
    lines = [f"# {muls} multiplications, {adds} additions"]
    stages = _stages(program)
    summed = {symbol for symbols in totals.values() for symbol in symbols}
    wide = _needed_in_lanes(program)
    lines += [_widened(symbol) for group in program.inputs.values() for symbol in group if symbol in wide]
    means = program.means
    for stage in range(len(means) + 1):
        if stage:
            of_stage = means[stage - 1]
            sums = [f"{name}_sum" for name in of_stage]
            lines += sums_over_channels(sums, [lanes(program, symbol) for symbol in of_stage.values()])
            lines += [f"{name} = {name}_sum / channels" for name in of_stage]
        small = [
            (name, value)
            for name, value in program.statements
            if name in program.uniform and program.levels[name] == stage and not any(name in m for m in means)
        ]
        for name, value in small:
            lines += _plain(name, value)
        ready = [name for name, _ in small] + ([*means[stage - 1]] if stage else [])
        lines += [_widened(name) for name in ready if name in wide]
        chosen = tuple(s for s in program.statements if s[0] not in program.uniform and stages[s[0]] == stage)
        # what comes before the cut is done with before the rest begins: fewer values are alive at once
        early = program.needed_by(program.cut)
        for part in (tuple(s for s in chosen if s[0] in early), tuple(s for s in chosen if s[0] not in early)):
            for term in scheduled(program.part(part)):
                text, negative = _term(program, term.value)
                if singular and term.name in summed:
                    # rows beyond the last are computed from zeros, which need not give something finite
                    text = f"tl.where(valid, {text}, 0.0)"
                if term.first and term.name not in summed:
                    lines.append(f"{term.name} = {'-' if negative else ''}{text}")
                else:
                    lines.append(f"{term.name} {'-' if negative else '+'}= {text}")
    return lines


def _stages(program: Program) -> dict[str, int]:
    """When each name is computed: as late as its users allow, so that few values wait for a sum over channels."""
    from cliffnn.statements import operands

    last = len(program.means)
    stages = dict.fromkeys((symbol for group in program.outputs.values() for symbol in group), last)
    for depth, means in enumerate(program.means):
        for symbol in means.values():
            stages[symbol] = min(stages.get(symbol, last), depth)
    for name, value in reversed(program.statements):
        for operand in operands(value):
            if not any(name in means for means in program.means):
                stages[operand] = min(stages.get(operand, last), stages[name])
    # what a sum needs of a name that belongs to an earlier stage
    return {name: max(stage, program.levels.get(name, 0)) for name, stage in stages.items()}


def _needed_in_lanes(program: Program) -> set[str]:
    """The names, one a row, that are needed for each of its channels."""
    from cliffnn.statements import CONSTANTS, operands

    users = [value for name, value in program.statements if name not in program.uniform]
    found = {operand for value in users for operand in operands(value)}
    found |= {symbol for means in program.means for symbol in means.values()}
    found |= {
        symbol for name, group in program.outputs.items() if name not in ("scales", "means", "kept") for symbol in group
    }
    return (found & program.uniform) - set(CONSTANTS)


def lanes(program: Program, symbol: str) -> str:
    """What a name is called where each channel of a row needs it."""
    from cliffnn.statements import CONSTANTS

    return f"{symbol}_lanes" if symbol in program.uniform and symbol not in CONSTANTS else symbol


def _widened(symbol: str) -> str:
    return f"{symbol}_lanes = to_lanes({symbol}, CHANNELS)"


def _plain(name: str, value) -> list[str]:
    """The line that computes what a row has one of; one, so that constants are as precise as what they are added to."""
    if hasattr(value, "function"):
        return [f"{name} = {call(value)}"]
    text = ""
    for monomial in value.args:
        term, negative = _product(monomial)
        text += f" {'-' if negative else '+'} {term}"
    return [f"{name} = {text.removeprefix(' + ').strip()}"]


def _term(program: Program, value) -> tuple[str, bool]:
    if hasattr(value, "function"):
        return call(replace(value, arguments=tuple(lanes(program, a) for a in value.arguments))), False
    coefficient, *factors = value
    if not factors:
        return f"tl.full((LANES,), {float(abs(coefficient))}, COMPUTE)", coefficient < 0
    return _product((coefficient, *(lanes(program, factor) for factor in factors)))


def _product(monomial) -> tuple[str, bool]:
    coefficient, *factors = monomial
    if abs(coefficient) != 1:
        factors = [str(float(abs(coefficient))), *factors]
    return " * ".join(factors) or "1.0", coefficient < 0
