"""Lines of a kernel that load, store, take apart, put together and reduce tiles.

A tile is ``(LANES, blades)``, a lane being a row and channel; taken apart, it is one ``(LANES,)`` a blade, under a name
each.
"""

from __future__ import annotations

from collections.abc import Iterable

from cliffnn.kernels.plan import power_of_two


def names(name: str, indices: Iterable[int]) -> list[str]:
    """``name0``, ``name1``, ..."""
    return [f"{name}{index}" for index in indices]


def tuple_of(name: str, indices: Iterable[int]) -> str:
    """``(name0, name1, ...,)``"""
    return f"({', '.join(names(name, indices))},)"


def load(name: str) -> str:
    """All blades of a tile, in one memory operation."""
    return f"tl.trans(tl.load({name}_ptr + base + offset, mask, 0.0)).to(COMPUTE)"


def store(name: str, symbols: Iterable[str]) -> list[str]:
    """Put names together and store them, in one memory operation."""
    return [
        *stack(f"{name}_tile", symbols),
        f"tl.store({name}_ptr + base + offset, tl.trans({name}_tile), mask)",
    ]


def unstack(tile: str, symbols: list[str], shape: str = "(LANES,)") -> list[str]:
    """Take a tile ``(*shape, len(symbols))``, the length a power of two, apart along its last axis."""
    if len(symbols) == 1:
        return [f"{symbols[0]} = tl.reshape({tile}, {shape})"]
    bits = (len(symbols) - 1).bit_length()
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


def stack(tile: str, symbols: Iterable[str]) -> list[str]:
    """Put names ``(LANES,)`` together along a new last axis, padded to a power of two with copies of the first."""
    symbols = [*symbols]
    length = power_of_two(len(symbols))
    level = symbols + [symbols[0]] * (length - len(symbols))
    lines = []
    depth = 0
    while len(level) > 1:
        half = len(level) // 2
        joined = [f"{tile}_{depth}_{index}" for index in range(half)]
        lines += [f"{joined[i]} = tl.join({level[i]}, {level[i + half]})" for i in range(half)]
        level, depth = joined, depth + 1
    lines.append(f"{tile} = tl.reshape({level[0]}, (LANES, {length}))")
    return lines


def sums_over_channels(grades: tuple[int, ...]) -> list[str]:
    """Reduce ``sum0, sum1, ...`` from ``(LANES,)`` to ``(ROWS,)``, all in one reduction."""
    if not grades:
        return []
    sums = [f"sum{k}" for k in grades]
    length = power_of_two(len(sums))
    padded = sums + [f"_sum{index}" for index in range(len(sums), length)]
    lines = stack("sums", sums)
    lines.append(f"sums = tl.sum(tl.reshape(sums, (ROWS, CHANNELS, {length})), 1)")
    return lines + unstack("sums", padded, "(ROWS,)")
