"""Where coefficients, sums and what a row has one of lie in memory, and lines of a kernel that load and store them.

``name_at`` is where ``name`` is loaded from or stored; such addresses stand before what uses them (`straight`), or are
the arguments of a loop (`one_round`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from cliffnn.kernels.plan import power_of_two
from cliffnn.kernels.tiles import stack, unstack
from cliffnn.operation import Operation

# Where the channels of a program begin, and which they are.
BLOCK = "tl.program_id(1) * CHANNELS"
_OWN = f"tl.multiple_of({BLOCK} + tl.arange(0, CHANNELS), VECTOR)[None, :]"


def coefficients_at(name: str, places: Sequence[int]) -> str:
    """Where some coefficients lie: runs of neighbours, one after the other in a tile."""
    number = f"tl.arange(0, {power_of_two(len(places))})[:, None]"
    steps = [place - position for position, place in enumerate(places)]
    at = _plus(number, steps[-1])
    for position in range(len(places) - 1, 0, -1):
        if steps[position] != steps[position - 1]:
            at = f"tl.where({number} < {position}, {_plus(number, steps[position - 1])}, {at})"
    return f"{name}_ptr + {at} * channels + channel[None, :]"


def _plus(number: str, step: int) -> str:
    return f"({number} + {step})" if step else number


def load_shared(tile: str, symbols: Sequence[str]) -> list[str]:
    """Coefficients, in one memory operation: every lane has those of its channel."""
    number = f"tl.arange(0, {power_of_two(len(symbols))})[:, None]"
    return [
        f"{tile}_tile = tl.load({tile}_at, ({number} < {len(symbols)}) & exists[None, :], 0.0)",
        f"{tile}_tile = tl.trans({tile}_tile).to(COMPUTE)",
        *unstack(f"{tile}_tile", symbols),
    ]


def scalars_at(name: str, symbols: tuple[str, ...]) -> str:
    size = len(symbols)
    return f"{name}_ptr + (first + tl.arange(0, ROWS))[:, None] * {size} + tl.arange(0, {power_of_two(size)})[None, :]"


def load_scalars(name: str, symbols: tuple[str, ...]) -> list[str]:
    """What each row has one of, in one memory operation; of means, their sums."""
    size = len(symbols)
    row, number = "(first + tl.arange(0, ROWS))[:, None]", f"tl.arange(0, {power_of_two(size)})[None, :]"
    lines = [
        f"{name}_tile = tl.load({name}_at, ({row} < rows) & ({number} < {size}), 0.0)",
        *unstack(f"{name}_tile", symbols, "(ROWS,)"),
    ]
    return lines + [f"{symbol} = {symbol} / channels" for symbol in symbols if name.startswith("means")]


def each_scalar_at(name: str, symbols: tuple[str, ...], table: bool = False) -> dict[str, str]:
    """Where what each row has one of is stored; sums over a block of channels in a table of its own.

    Where blocks of channels have programs of their own, all of them write the same.
    """
    size = len(symbols)
    place = f" + tl.full((), {size}, tl.int64) * rows * tl.program_id(1)" if table else ""
    row = "(first + tl.arange(0, ROWS))"
    return {symbol: f"{name}_ptr + ({row} * {size} + {index}){place}" for index, symbol in enumerate(symbols)}


def store_scalars(symbols: tuple[str, ...]) -> list[str]:
    return [f"tl.store({symbol}_at, {symbol}, first + tl.arange(0, ROWS) < rows)" for symbol in symbols]


def total_at(name: str, symbols: tuple[str, ...], operation: Operation) -> str:
    """Where a program stores its share of a total: after the totals before it."""
    totals = operation.totals
    before = sum(totals[other] for other in [*totals][: [*totals].index(name)])
    number = f"tl.arange(0, {power_of_two(len(symbols))})[:, None]"
    return f"totals_ptr + (tl.program_id(0) * {sum(totals.values())} + {before} + {number}) * channels + {_OWN}"


def store_total(name: str, symbols: tuple[str, ...]) -> list[str]:
    """Sum over the rows that a program went over."""
    size, length = len(symbols), power_of_two(len(symbols))
    return [
        *stack(f"{name}_tile", symbols),
        f"{name}_tile = tl.sum(tl.reshape({name}_tile, (ROWS, CHANNELS, {length})), 0)",
        f"tl.store(totals_at, tl.trans({name}_tile), ({_OWN} < channels) & (tl.arange(0, {length})[:, None] < {size}))",
    ]


def straight(addresses: Mapping[str, str], lines: list[str]) -> list[str]:
    """Lines with each address before it is used."""
    result: list[str] = []
    for line in lines:
        if used := re.search(r"tl\.(?:load|store)\((\w+)_at,", line):
            result.append(_at(used[1], addresses[used[1]]))
        result.append(line)
    return result


def one_round(addresses: Mapping[str, str], lines: list[str]) -> list[str]:
    """Lines as a loop of one round, whose addresses are its arguments.

    For each operation on memory the pass `TritonGPUCoalesce` looks at all that is connected with it, and for each of
    these again, but not where the address is an argument of a loop. Only LLVM sees that ``nothing`` is zero: then the
    loop is none.
    """
    steps = [f"{name}_at += nothing" for name in addresses]
    loop = ["for once in tl.range(0, 1 + nothing, num_stages=1):", *(f"    {line}" for line in [*lines, *steps])]
    # a multiple of 16, as addresses are: loads and stores stay as wide
    return [*(_at(*each) for each in addresses.items()), "nothing = ((rows & 1) >> 1) * 16", *loop]


def _at(name: str, address: str) -> str:
    return f"{name}_at = {address}"
