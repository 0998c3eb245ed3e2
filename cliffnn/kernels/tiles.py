"""Lines of a kernel that load, store, take apart, put together and reduce tiles.

A tile is ``(LANES, length)``, a lane being a row and channel, the length a power of two; taken apart, it is one
``(LANES,)`` for each name of a group. ``name_at`` is where ``name`` is loaded from or stored.
"""

from __future__ import annotations

from collections.abc import Sequence

from cliffnn.kernels.plan import power_of_two


def load(name: str, symbols: Sequence[str]) -> list[str]:
    """All blades of a tile, in one memory operation."""
    tile = f"{name}_tile"
    lines = [f"{tile} = tl.trans(tl.load({name}_at, {_mask(len(symbols))}, 0.0)).to(COMPUTE)"]
    return lines + unstack(tile, symbols)


def store(name: str, symbols: Sequence[str]) -> list[str]:
    """Put names together and store them, in one memory operation."""
    tile = f"{name}_tile"
    return [*stack(tile, symbols), f"tl.store({name}_at, tl.trans({tile}), {_mask(len(symbols))})"]


def offset(size: int) -> list[str]:
    """Where the numbers of a group lie: ``size`` times as many channels for each row."""
    length = power_of_two(size)
    lines = [f"offset_{size} = (row[None, :] * {size} + tl.arange(0, {length})[:, None]) * channels + channel[None, :]"]
    return lines if length == size else [*lines, f"exists_{size} = (tl.arange(0, {length}) < {size})[:, None]"]


def _mask(size: int) -> str:
    return "mask" if power_of_two(size) == size else f"mask & exists_{size}"


def unstack(tile: str, symbols: Sequence[str], shape: str = "(LANES,)") -> list[str]:
    """Take a tile ``(*shape, length)`` apart along its last axis; what is beyond the names is left."""
    if len(symbols) == 1:
        return [f"{symbols[0]} = tl.reshape({tile}, {shape})"]
    length = power_of_two(len(symbols))
    symbols = [*symbols, *(f"{tile}_rest{index}" for index in range(len(symbols), length))]
    bits = (length - 1).bit_length()
    lines = [f"{tile}_ = tl.reshape({tile}, {shape} + {(2,) * bits})"]

    def split(name: str, low_bits: str) -> None:
        if len(low_bits) == bits - 1:
            lines.append(f"{symbols[int('0' + low_bits, 2)]}, {symbols[int('1' + low_bits, 2)]} = tl.split({name})")
            return
        halves = [f"{tile}_{bit}{low_bits}" for bit in "01"]
        lines.append(f"{', '.join(halves)} = tl.split({name})")
        for half, bit in zip(halves, "01", strict=True):
            split(half, bit + low_bits)

    split(f"{tile}_", "")
    return lines


def stack(tile: str, symbols: Sequence[str]) -> list[str]:
    """Put names ``(LANES,)`` together along a new last axis, padded to a power of two with copies of the first."""
    length = power_of_two(len(symbols))
    level = [*symbols] + [symbols[0]] * (length - len(symbols))
    lines = []
    depth = 0
    while len(level) > 1:
        half = len(level) // 2
        joined = [f"{tile}_{depth}_{index}" for index in range(half)]
        lines += [f"{joined[i]} = tl.join({level[i]}, {level[i + half]})" for i in range(half)]
        level, depth = joined, depth + 1
    lines.append(f"{tile} = tl.reshape({level[0]}, (LANES, {length}))")
    return lines


def sums_over_channels(results: Sequence[str], symbols: Sequence[str]) -> list[str]:
    """Reduce names from ``(LANES,)`` to ``(ROWS,)``, all in one reduction."""
    distinct = dict.fromkeys(symbols)
    lines = [f"{symbol}_summed = {symbol}" for symbol in distinct]
    lines.append("if channels % CHANNELS:")
    lines += [f"    {symbol}_summed = tl.where(exists, {symbol}, 0.0)" for symbol in distinct]
    lines += stack("sums", [f"{symbol}_summed" for symbol in symbols])
    lines.append(f"sums = tl.sum(tl.reshape(sums, (ROWS, CHANNELS, {power_of_two(len(symbols))})), 1)")
    return lines + unstack("sums", results, "(ROWS,)")
