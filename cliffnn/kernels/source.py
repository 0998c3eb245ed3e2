"""Triton kernels printed as source, for a person to read.

A program of a kernel goes over tiles of ``ROWS`` rows and ``CHANNELS`` channels, together ``LANES`` multivectors. All
blades of a tile come in one memory operation and are taken apart by `tl.split`: the compiler's time grows with memory
operations times arithmetic. The number of channels is a constant, so blades lie at constant distances.

What a row has one of is ``(ROWS,)``: means over its channels, and what is computed from these alone. Where a tile
holds whole rows they are summed within a program, between two stages of the arithmetic; where it holds blocks of
channels, a kernel for each depth of means sums them first, and the last one reads them.

Where registers hold no more, outputs are computed in parts, one after the other: of a first derivative in sections,
which leave each other values in registers; of others each loads what it needs from the cache, and the first hands to
the others what they all need, in memory that a program has for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cliffnn.codegen import file_name, program_of
from cliffnn.kernels.arithmetic import arithmetic, lanes
from cliffnn.kernels.places import (
    BLOCK,
    coefficients_at,
    each_scalar_at,
    load_scalars,
    load_shared,
    one_round,
    scalars_at,
    store_scalars,
    store_total,
    straight,
    total_at,
)
from cliffnn.kernels.tiles import load, offset, store, sums_over_channels
from cliffnn.operation import Operation, gradient_name

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
HANDED = {handed}


'''

# Kinds of groups that come as tiles of blades and lanes.
_IN_TILES = ("rows", "handed")
# Groups that one part of a kernel leaves in registers for others.
_INSIDE = ("means", "kept")


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
    apart : bool
        Whether memory operations stand in a loop of one round, and outputs of a derivative are computed in parts, one
        after the other.
    """

    operation: Operation
    outputs: tuple[str, ...] = ()
    depth: int | None = None
    whole_rows: bool = True
    recompute: bool = False
    loop: bool = True
    apart: bool = False

    @property
    def name(self) -> str:
        options = [
            "norecompute" if self.operation.saved and not self.recompute else "",
            "rows" if self.whole_rows else "blocks",
            "" if self.depth is None else f"sums{self.depth}",
            "loop" if self.loop else "",
            "apart" if self.apart else "",
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
            return program.giving(*self.outputs)
        return program.only({"sums": tuple(program_of(self.operation, self.recompute).means[self.depth].values())})

    @cached_property
    def parts(self) -> tuple[Program, ...]:
        """What it computes, one after the other."""
        from cliffnn.kernels.parts import handing_parts
        from cliffnn.kernels.sections import sections

        program, totals = self.program, [*self.operation.totals]
        if not (self.apart and self.operation.order):
            return (program,)
        factors = {name: self._tangents(name) for name in program.outputs}
        coefficients = {s for name, group in program.inputs.items() if self.kind(name) == "shared" for s in group}
        if self.sectioned:
            return sections(program, totals, factors, coefficients)
        by_the_way = [name for name in program.outputs if name.startswith(gradient_name(self.operation.order, "grad"))]
        return handing_parts(program, totals, by_the_way, factors, coefficients)

    def _tangents(self, gradient: str) -> tuple[str, ...]:
        """An input and the cotangents of all its gradients, which take its place in products, by its gradient."""
        order = self.operation.order
        name = gradient.removeprefix(gradient_name(order, ""))
        names = [name, *(gradient_name(n, gradient_name(n - 1, name)) for n in range(2, order + 1))]
        return tuple(symbol for each in names for symbol in self.program.inputs.get(each, ()))

    @property
    def sectioned(self) -> bool:
        """Whether its parts leave values in registers for each other."""
        return self.apart and self.operation.order == 1

    @property
    def again(self) -> bool:
        """Whether all memory operations stand in a loop of one round, those of coefficients too: these are loaded for
        each tile, and fill no registers that sums over the rows need.
        """
        return self.operation.order > 1 or self.apart

    def kind(self, name: str) -> str:
        """Of a group: as an operation has it; ``"handed"``, what a program has for itself; ``"kept"``, what it has in
        registers; else scalars.
        """
        groups = {**self.operation.inputs, **self.operation.outputs}
        return groups[name].kind if name in groups else name if name in ("handed", "kept") else "scalars"


def kernel_source(kernel: Kernel) -> str:
    """The source of a kernel, as a module."""
    operation, parts = kernel.operation, kernel.parts
    loaded = {name: symbols for part in parts for name, symbols in _loaded(part).items()}
    outputs = {name: symbols for part in parts for name, symbols in part.outputs.items() if name not in _INSIDE}
    totals = {name: symbols for name, symbols in outputs.items() if kernel.kind(name) == "shared"}
    stored = {name: symbols for name, symbols in outputs.items() if name not in totals}
    # a program writes its share of all totals side by side
    tensors = [*dict.fromkeys((*loaded, *stored)), *(["totals"] if totals else [])]

    tiles = {name: symbols for name, symbols in {**loaded, **stored}.items() if kernel.kind(name) in _IN_TILES}
    before = [line for size in dict.fromkeys(map(len, tiles.values())) for line in offset(size)]
    if not kernel.again:
        for name, symbols in loaded.items():
            if kernel.kind(name) == "shared":
                before += straight({name: coefficients_at(name, range(len(symbols)))}, load_shared(name, symbols))
    before += [f"{symbol} = tl.zeros((LANES,), COMPUTE)" for symbols in totals.values() for symbol in symbols]

    addresses: dict[str, str] = {}
    body: list[str] = []
    for number in range(len(parts)):
        body += _part(kernel, number, totals, addresses)
        if "handed" in stored:
            body.append("tl.debug_barrier()")

    # else tiles may be in flight, for which the loop over them must be the innermost
    placed = one_round if kernel.again else straight
    tile = placed(addresses, body)
    after: list[str] = []
    for name, symbols in totals.items():
        after += placed({"totals": total_at(name, symbols, operation)}, store_total(name, symbols))
    # one that follows another with the same rows begins with the last, which the cache may still hold
    last_first = kernel.depth is None and not kernel.whole_rows
    constants = _constants(parts)
    lines = _kernel(kernel, tensors, constants, before, tile, after, last_first)
    what = "" if kernel.depth is None else f"sums over channels, at depth {kernel.depth}, of "
    title = f"{what}{operation.text} in {operation.algebra.name}: {operation.expression.function.__doc__}"
    header = _HEADER.format(
        title=title,
        tensors=(*tensors,),
        constants=constants,
        means=tuple(len(of_depth) for of_depth in program_of(operation, kernel.recompute).means),
        handed=len(stored.get("handed", ())),
        functions=_functions(parts),
    )
    return header + lines


def _loaded(program: Program) -> dict[str, tuple[str, ...]]:
    """What a part of a kernel loads; what an earlier part has left in registers is there."""
    groups = {name: symbols for name, symbols in program.inputs.items() if name not in _INSIDE}
    return {name: symbols for name, symbols in groups.items() if not program.used.isdisjoint(symbols)}


def _part(kernel: Kernel, number: int, totals: Mapping[str, Iterable[str]], addresses: dict[str, str]) -> list[str]:
    """Lines that load, compute and store; the addresses that they use are added to the others."""
    lines: list[str] = []
    part = kernel.parts[number]
    # what sections before this one have loaded is still there, but for coefficients
    loads = {n: symbols for n, symbols in _loaded(part).items() if not (kernel.sectioned and n in addresses)}
    for name, symbols in loads.items():
        if kernel.kind(name) == "shared" and kernel.again:
            places = [place for place, symbol in enumerate(symbols) if symbol in part.used or not kernel.sectioned]
            tile = f"{name}_{number}" if kernel.sectioned else name
            addresses[tile] = coefficients_at(name, places)
            lines += load_shared(tile, [symbols[place] for place in places])
    for name, symbols in loads.items():
        if kernel.kind(name) in _IN_TILES:
            addresses[name] = _tile_at(kernel, name, symbols)
            lines += load(name, symbols)
    for name, symbols in loads.items():
        if kernel.kind(name) == "scalars":
            addresses[name] = scalars_at(name, symbols)
            lines += load_scalars(name, symbols)
    lines += arithmetic(part, totals, _singular(kernel.parts))
    if kernel.depth is not None:
        sums = tuple(f"sum{index}" for index in range(len(part.outputs["sums"])))
        lines += sums_over_channels(sums, [lanes(part, symbol) for symbol in part.outputs["sums"]])
        addresses |= each_scalar_at("sums", sums, table=True)
        return lines + store_scalars(sums)
    for name, symbols in part.outputs.items():
        if kernel.kind(name) in _IN_TILES:
            addresses[name] = _tile_at(kernel, name, symbols)
            lines += store(name, [lanes(part, symbol) for symbol in symbols])
        elif kernel.kind(name) == "scalars" and name not in _INSIDE:
            addresses |= each_scalar_at(name, symbols)
            lines += store_scalars(symbols)
    return lines


def _kernel(
    kernel: Kernel,
    tensors: list[str],
    constants: tuple[str, ...],
    before: list[str],
    body: list[str],
    after: list[str],
    last_first: bool,
) -> str:
    """A kernel that goes over tiles of rows, with lines before and after the loop, and the tensors that it takes."""
    signature = [
        *(f"{tensor}_ptr" for tensor in tensors),
        "rows",
        "channels: tl.constexpr",
        *(f"{name}: tl.constexpr" for name in (*constants, "ROWS", "CHANNELS", "VECTOR", "STAGES", "COMPUTE")),
    ]
    # a mask that a compiler sees through costs nothing; second derivatives, short of registers, spill without masks
    whole = kernel.whole_rows and kernel.operation.order == 1
    valid = "first + row < rows"
    lines = [
        # a batch size that is 1 or a multiple of 16 would else compile anew
        '@triton.jit(do_not_specialize=["rows"])',
        f"def kernel({', '.join(signature)}):",
        "    LANES: tl.constexpr = ROWS * CHANNELS",
        "    lane = tl.arange(0, LANES)",
        "    row = lane // CHANNELS",
        # with no more neighbours at once than a thread computes with, it loads all blades of its lanes itself
        f"    channel = tl.multiple_of({'' if whole else f'{BLOCK} + '}lane % CHANNELS, VECTOR)",
        "    exists = channel < channels",
        *_indented(before),
        "    for tile in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0), num_stages=STAGES):"
        if kernel.loop
        else "    tile = tl.program_id(0)",
    ]
    # under the interpreter a loop variable is a plain int, which has no method to widen it
    tile = [
        f"first = tl.full((), ROWS, tl.int64) * {'(tl.cdiv(rows, ROWS) - 1 - tile)' if last_first else 'tile'}",
        "base = first * channels",
        # one row there always is
        f"valid = ({valid}) if ROWS > 1 else (row < 1)" if whole else f"valid = {valid}",
        "mask = (valid & exists)[None, :]",
        *body,
    ]
    lines += _indented(_indented(tile) if kernel.loop else tile)
    return "\n".join([*lines, *_indented(after)]) + "\n"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _functions(parts: Iterable[Program]) -> str:
    values = [value for part in parts for _, value in part.statements]
    found = {value.function for value in values if hasattr(value, "function")} - {"mean"}
    return ", ".join(sorted({*found, "to_lanes"}))


def _singular(parts: Iterable[Program]) -> bool:
    """Whether a function that is not finite everywhere is computed: what it gives may be used in another part."""
    from cliffnn.program import SINGULAR

    return any(getattr(value, "function", "") in SINGULAR for part in parts for _, value in part.statements)


def _constants(parts: Iterable[Program]) -> tuple[str, ...]:
    found = ["EPS"] if any("EPS" in part.used for part in parts) else []
    signs = any(getattr(value, "function", "") == "sign" for part in parts for _, value in part.statements)
    return (*found, *(["TOLERANCE"] if signs else []))


def _tile_at(kernel: Kernel, name: str, symbols: tuple[str, ...]) -> str:
    """Where the multivectors of a tile lie; a program has one tile for what it hands to itself."""
    base = "base" if kernel.kind(name) == "rows" else "tl.full((), ROWS, tl.int64) * tl.program_id(0) * channels"
    return f"{name}_ptr + {base} * {len(symbols)} + offset_{len(symbols)}"
