"""How large the tiles are: chosen by the number of blades and channels, as measured (`docs/kernels.md`).

No choice depends on the number of rows, so a new batch size compiles nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

# Registers and shared memory hold tiles of this many elements of a row.
_WIDEST_ROW = 16384
_SHARED_MEMORY = 200 * 1024


@dataclass(frozen=True)
class Tiling:
    """Tiles of a kernel.

    Attributes
    ----------
    rows, channels : int
        Of a tile, powers of two.
    blocks : int
        How many tiles make a row.
    warps, stages : int
        Warps of a program, and how many tiles it has in flight.
    resident : int or None
        How many programs a multiprocessor should hold, each going over many tiles; None: a program for each tile.
    """

    rows: int
    channels: int
    blocks: int
    warps: int
    stages: int = 1
    resident: int | None = None

    @property
    def whole_rows(self) -> bool:
        return self.blocks == 1


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _tiling(
    channels: int,
    widest: int,
    per_thread: int,
    least_warps: int,
    stages: int = 1,
    resident_warps: int | None = None,
) -> Tiling:
    """Tiles at most ``widest`` channels wide, with ``per_thread`` channels a thread where a row is wide enough."""
    width = min(_power_of_two(channels), max(widest, 1))
    warps = min(max(least_warps, width // (32 * per_thread)), 16)
    resident = None if resident_warps is None else max(1, resident_warps // warps)
    rows = max(1, 32 * warps * per_thread // width)
    return Tiling(rows, width, -(-channels // width), warps, stages, resident)


def _stages(tiles: int, blades: int, itemsize: int, tiling: Tiling, most: int) -> int:
    """How many stages of so many tiles fit the shared memory."""
    size = tiles * blades * tiling.rows * tiling.channels * itemsize
    return max(1, min(most, _SHARED_MEMORY // size))


def forward_tiling(blades: int, channels: int, itemsize: int) -> Tiling:
    widest = _WIDEST_ROW // blades
    if _power_of_two(channels) > widest:
        return _tiling(channels, max(32, 4096 // blades), 1, 4)
    if blades <= 8:
        return _tiling(channels, widest, 4 if channels > 256 else 2, 2 if channels <= 64 else 4)
    tiling = _tiling(channels, widest, 1, 4, resident_warps=12)
    stages = _stages(2, blades, itemsize, tiling, 3)
    return Tiling(tiling.rows, tiling.channels, 1, tiling.warps, stages, tiling.resident)


def scale_tiling(blades: int, channels: int) -> Tiling:
    return _tiling(channels, max(32, 4096 // blades), 1, 4)


def inner_tiling(blades: int, channels: int) -> Tiling:
    return _tiling(channels, max(32, 8192 // blades), 2, 1)


def backward_tiling(blades: int, channels: int, itemsize: int, normalize: bool) -> Tiling:
    """On whole rows if they are narrow: the means over channels then cost nothing. Else a warp or two a program."""
    resident_warps = 8 if blades > 8 else 12 if blades > 4 else 20
    if normalize and blades * _power_of_two(channels) <= 1024 and blades <= 8:
        tiling = _tiling(channels, _WIDEST_ROW, 1, 2, resident_warps=8)
        stages = _stages(3, blades, itemsize, tiling, 3)
    else:
        warps = 1 if blades <= 8 else 2
        tiling = _tiling(channels, 32 * warps, 1, warps, resident_warps=resident_warps)
        stages = 2
    return Tiling(tiling.rows, tiling.channels, tiling.blocks, tiling.warps, stages, tiling.resident)
