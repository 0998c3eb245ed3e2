"""Triton kernels printed as source, for a person to read.

A program of a kernel goes over tiles of ``ROWS`` rows and ``CHANNELS`` channels, together ``LANES`` multivectors. All
blades of a tile come in one memory operation and are taken apart by `tl.split`: the compiler's time grows with memory
operations times arithmetic. The number of channels is a constant, so blades lie at constant distances.

What a row has one of is ``(ROWS,)``: means over its channels, and what is computed from these alone. Where a tile
holds whole rows they are summed within a program, between two stages of the arithmetic; where it holds blocks of
channels, a kernel for each depth of means sums them first, and the last one reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from cliffnn.codegen import call, file_name, program_of
from cliffnn.kernels.plan import power_of_two
from cliffnn.kernels.tiles import load, offset, stack, store, sums_over_channels, unstack
from cliffnn.operation import Operation

if TYPE_CHECKING:
    from cliffnn.program import Program

_HEADER = '''"""{title}

Written by cliffnn.
"""

import triton
import triton.language as tl

from cliffnn.kernels.device import {functions}

TENSORS = {tensors}
CONSTANTS = {constants}
MEANS = {means}


'''


@dataclass(frozen=True)
class Kernel:
    """What the source of a kernel depends on.

    Attributes
    ----------
    operation : Operation
    outputs : tuple of str
        Those that it computes.
    depth : int or None
        In place of outputs, the sums over channels that the means of this depth are made of.
    whole_rows : bool
        Whether a tile holds all channels, so that means over the channels need no other kernel.
    recompute : bool
        Whether a derivative computes the normalised result anew instead of reading it.
    loop : bool
        Whether a program goes over many tiles of rows; else it has one, and takes fewer registers.
    """

    operation: Operation
    outputs: tuple[str, ...] = ()
    depth: int | None = None
    whole_rows: bool = True
    recompute: bool = False
    loop: bool = True

    @property
    def name(self) -> str:
        options = [
            "norecompute" if self.operation.saved and not self.recompute else "",
            "rows" if self.whole_rows else "blocks",
            "" if self.depth is None else f"sums{self.depth}",
            "loop" if self.loop else "",
        ]
        return file_name(self.operation.text, self.operation.algebra.name, *self.outputs, *filter(None, options))

    @cached_property
    def program(self) -> Program:
        """What it computes; means that other kernels have summed are inputs, ``means0`` for the first depth."""
        program = program_of(self.operation, self.recompute)
        known = () if self.whole_rows and self.depth is None else program.means[: self.depth]
        for depth, of_depth in enumerate(known):
            program = program.given({f"means{depth}": of_depth}, of_depth)
        if self.depth is None:
            return program.only({name: program.outputs[name] for name in self.outputs})
        return program.only({"sums": tuple(program_of(self.operation, self.recompute).means[self.depth].values())})


def kernel_source(kernel: Kernel) -> str:
    """The source of a kernel, as a module."""
    operation, program = kernel.operation, kernel.program
    groups = {name: symbols for name, symbols in program.inputs.items() if not program.used.isdisjoint(symbols)}
    kinds = {name: operation.inputs[name].kind if name in operation.inputs else "scalars" for name in groups}
    kinds |= {name: operation.outputs[name].kind for name in kernel.outputs}
    totals = {name: symbols for name, symbols in program.outputs.items() if kinds.get(name) == "shared"}
    # a program writes its share of all totals side by side
    tensors = [*groups, *(name for name in program.outputs if name not in totals), *(["totals"] if totals else [])]

    before = _offsets(symbols for name, symbols in {**groups, **program.outputs}.items() if kinds.get(name) == "rows")
    # from the second derivative on, coefficients would fill registers that sums over the rows need
    again = operation.order > 1
    shared = [_load_shared(name, symbols) for name, symbols in groups.items() if kinds[name] == "shared"]
    before += [line for lines in shared for line in lines if not again]
    before += [f"{symbol} = tl.zeros((LANES,), COMPUTE)" for symbols in totals.values() for symbol in symbols]

    body = [line for lines in shared for line in lines if again]
    for name, symbols in groups.items():
        if kinds[name] == "rows":
            body += load(name, symbols)
    for name, symbols in groups.items():
        if kinds[name] == "scalars":
            body += _load_scalars(name, symbols)
    body += _arithmetic(kernel, program, totals)
    if kernel.depth is not None:
        sums = tuple(f"sum{index}" for index in range(len(program.outputs["sums"])))
        body += sums_over_channels(sums, [_lanes(program, symbol) for symbol in program.outputs["sums"]])
        body += _store_scalars("sums", sums, table=True)
    for name, symbols in program.outputs.items():
        if kinds.get(name) == "rows":
            body += store(name, [_lanes(program, symbol) for symbol in symbols])
        elif kinds.get(name) == "scalars":
            body += _store_scalars(name, symbols)

    after: list[str] = []
    for name, symbols in totals.items():
        after += _store_total(name, symbols, operation)
    # one that follows another with the same rows begins with the last, which the cache may still hold
    last_first = kernel.depth is None and not kernel.whole_rows
    lines = _kernel([*tensors], _constants(program), before, body, after, kernel.loop, last_first)
    what = "" if kernel.depth is None else f"sums over channels, at depth {kernel.depth}, of "
    title = f"{what}{operation.text} in {operation.algebra.name}: {operation.expression.function.__doc__}"
    means = tuple(len(of_depth) for of_depth in program_of(operation, kernel.recompute).means)
    header = _HEADER.format(
        title=title, tensors=(*tensors,), constants=_constants(program), means=means, functions=_functions(program)
    )
    return header + lines


def _kernel(
    tensors: list[str],
    constants: tuple[str, ...],
    before: list[str],
    body: list[str],
    after: list[str],
    loop: bool,
    last_first: bool,
) -> str:
    """A kernel that goes over tiles of rows, with lines before and after the loop, and the tensors that it takes."""
    signature = [
        *(f"{tensor}_ptr" for tensor in tensors),
        "rows",
        "channels: tl.constexpr",
        *(f"{name}: tl.constexpr" for name in (*constants, "ROWS", "CHANNELS", "VECTOR", "STAGES", "COMPUTE")),
    ]
    lines = [
        # a batch size that is 1 or a multiple of 16 would else compile anew
        '@triton.jit(do_not_specialize=["rows"])',
        f"def kernel({', '.join(signature)}):",
        "    LANES: tl.constexpr = ROWS * CHANNELS",
        "    lane = tl.arange(0, LANES)",
        "    row = lane // CHANNELS",
        # with no more neighbours at once than a thread computes with, it loads all blades of its lanes itself
        "    channel = tl.multiple_of(tl.program_id(1) * CHANNELS + lane % CHANNELS, VECTOR)",
        "    exists = channel < channels",
        *(f"    {line}" for line in before),
        "    for tile in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0), num_stages=STAGES):"
        if loop
        else "    tile = tl.program_id(0)",
    ]
    indent = "        " if loop else "    "
    # under the interpreter a loop variable is a plain int, which has no method to widen it
    lines += [
        f"{indent}first = tl.full((), ROWS, tl.int64) * {'(tl.cdiv(rows, ROWS) - 1 - tile)' if last_first else 'tile'}",
        f"{indent}base = first * channels",
        f"{indent}valid = first + row < rows",
        f"{indent}mask = (valid & exists)[None, :]",
        *(f"{indent}{line}" for line in body),
        *(f"    {line}" for line in after),
    ]
    return "\n".join(lines) + "\n"


def _arithmetic(kernel: Kernel, program: Program, totals: Mapping[str, Iterable[str]]) -> list[str]:
    """All statements, in stages with the sums over channels between them."""
    from cliffnn.program import SINGULAR
    from cliffnn.schedule import scheduled

    muls, adds = program.operations
    lines = [f"# {muls} multiplications, {adds} additions"]
    stages = _stages(program)
    summed = {symbol for symbols in totals.values() for symbol in symbols}
    singular = any(getattr(value, "function", "") in SINGULAR for _, value in program.statements)
    wide = _needed_in_lanes(program)
    lines += [_widened(symbol) for group in program.inputs.values() for symbol in group if symbol in wide]
    means = program.means
    for stage in range(len(means) + 1):
        if stage:
            of_stage = means[stage - 1]
            sums = [f"{name}_sum" for name in of_stage]
            lines += sums_over_channels(sums, [_lanes(program, symbol) for symbol in of_stage.values()])
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
    found |= {symbol for name, group in program.outputs.items() if name != "scales" for symbol in group}
    return (found & program.uniform) - set(CONSTANTS)


def _lanes(program: Program, symbol: str) -> str:
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
        return call(replace(value, arguments=tuple(_lanes(program, a) for a in value.arguments))), False
    coefficient, *factors = value
    if not factors:
        return f"tl.full((LANES,), {float(abs(coefficient))}, COMPUTE)", coefficient < 0
    return _product((coefficient, *(_lanes(program, factor) for factor in factors)))


def _product(monomial) -> tuple[str, bool]:
    coefficient, *factors = monomial
    if abs(coefficient) != 1:
        factors = [str(float(abs(coefficient))), *factors]
    return " * ".join(factors) or "1.0", coefficient < 0


def _functions(program: Program) -> str:
    found = {value.function for _, value in program.statements if hasattr(value, "function")} - {"mean"}
    return ", ".join(sorted({*found, "to_lanes"}))


def _constants(program: Program) -> tuple[str, ...]:
    found = ["EPS"] if "EPS" in program.used else []
    signs = any(getattr(value, "function", "") == "sign" for _, value in program.statements)
    return (*found, *(["TOLERANCE"] if signs else []))


def _offsets(groups: Iterable[tuple[str, ...]]) -> list[str]:
    return [line for size in dict.fromkeys(len(symbols) for symbols in groups) for line in offset(size)]


def _load_shared(name: str, symbols: tuple[str, ...]) -> list[str]:
    """Coefficients: every lane has those of its channel."""
    length = power_of_two(len(symbols))
    return [
        f"number = tl.arange(0, {length})[:, None]",
        f"{name}_tile = tl.load({name}_ptr + number * channels + channel[None, :], "
        f"(number < {len(symbols)}) & exists[None, :], 0.0)",
        f"{name}_tile = tl.trans({name}_tile).to(COMPUTE)",
        *unstack(f"{name}_tile", symbols),
    ]


def _load_scalars(name: str, symbols: tuple[str, ...]) -> list[str]:
    """What each row has one of, in one memory operation; of means, their sums."""
    size = len(symbols)
    length = power_of_two(size)
    row, number = "(first + tl.arange(0, ROWS))[:, None]", f"tl.arange(0, {length})[None, :]"
    lines = [
        f"{name}_tile = tl.load({name}_ptr + {row} * {size} + {number}, ({row} < rows) & ({number} < {size}), 0.0)",
        *unstack(f"{name}_tile", symbols, "(ROWS,)"),
    ]
    return lines + [f"{symbol} = {symbol} / channels" for symbol in symbols if name.startswith("means")]


def _store_scalars(name: str, symbols: tuple[str, ...], table: bool = False) -> list[str]:
    """Store what each row has one of; sums over a block of channels go to a table of its own.

    Where blocks of channels have programs of their own, all of them write the same.
    """
    size = len(symbols)
    place = f" + tl.full((), {size}, tl.int64) * rows * tl.program_id(1)" if table else ""
    row = "(first + tl.arange(0, ROWS))"
    return [
        f"tl.store({name}_ptr + ({row} * {size} + {index}){place}, {symbol}, {row} < rows)"
        for index, symbol in enumerate(symbols)
    ]


def _store_total(name: str, symbols: tuple[str, ...], operation: Operation) -> list[str]:
    """Sum over the rows that a program went over, after the totals before it."""
    size, length = len(symbols), power_of_two(len(symbols))
    totals = operation.totals
    before = sum(totals[other] for other in [*totals][: [*totals].index(name)])
    return [
        *stack(f"{name}_tile", symbols),
        f"{name}_tile = tl.sum(tl.reshape({name}_tile, (ROWS, CHANNELS, {length})), 0)",
        f"number = tl.arange(0, {length})[:, None]",
        "own = tl.multiple_of(tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS), VECTOR)[None, :]",
        f"tl.store(totals_ptr + (tl.program_id(0) * {sum(totals.values())} + {before} + number) * channels + own, "
        f"tl.trans({name}_tile), (own < channels) & (number < {size}))",
    ]
