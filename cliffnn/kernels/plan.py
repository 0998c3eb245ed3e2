"""How large the tiles are: chosen by the number of blades and channels, as measured (`docs/kernels.md`).

No choice depends on the number of rows, so a new batch size compiles nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

# A row of more elements than this does not fit the registers of a program.
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


def power_of_two(number: int) -> int:
    """The least power of two that is not below a number."""
    return 1 << (number - 1).bit_length()


def _tiling(
    channels: int,
    widest: int,
    warps: tuple[int, int],
    per_thread: int = 1,
    stages: int = 1,
    resident_warps: int | None = None,
    tile_bytes: int = 0,
) -> Tiling:
    """Tiles at most ``widest`` channels wide, with ``per_thread`` channels a thread.

    ``warps`` are the least and the most of a program; ``tile_bytes``, what is in flight for a row and channel,
    bounds the stages.
    """
    width = min(power_of_two(channels), widest)
    least, most = warps
    count = min(max(least, width // (32 * per_thread)), most)
    rows = max(1, 32 * count * per_thread // width)
    fitting = _SHARED_MEMORY // max(1, tile_bytes * rows * width)
    resident = None if resident_warps is None else max(1, resident_warps // count)
    return Tiling(rows, width, -(-channels // width), count, max(1, min(stages, fitting)), resident)


def forward_tiling(blades: int, channels: int, itemsize: int) -> Tiling:
    """Whole rows, unless they are too wide."""
    width = power_of_two(channels)
    widest = _WIDEST_ROW // blades
    if width > widest:
        return _tiling(channels, max(32, 4096 // blades), (4, 4))
    if blades <= 8 and (blades <= 4 or width < 128):
        return _tiling(channels, widest, (2 if width <= 64 else 4, 16), per_thread=4 if width > 256 else 2)
    # asynchronous copies move at least four bytes, so half precision wants more channels a thread
    per_thread = 1 if itemsize >= 4 else 4
    least = 8 if blades <= 8 and per_thread == 1 else 4
    resident_warps = 16 if blades <= 8 else 12
    return _tiling(channels, widest, (least, 32), per_thread, 3, resident_warps, 2 * blades * itemsize)


def scale_tiling(blades: int, channels: int) -> Tiling:
    return _tiling(channels, max(32, 4096 // blades), (4, 4))


def inner_tiling(blades: int, channels: int) -> Tiling:
    return _tiling(channels, max(32, 8192 // blades), (1, 16), per_thread=2)


def backward_tiling(blades: int, channels: int, itemsize: int) -> Tiling:
    """Whole rows where they are narrow, so that the norm's means over the channels cost nothing; else blocks."""
    width = power_of_two(channels)
    per_thread = 1 if itemsize >= 4 else 2
    if blades <= 8:
        tile_bytes = 3 * blades * itemsize
        if blades * width * max(itemsize, 4) <= 8192:
            return _tiling(channels, width, (4, 16), per_thread, 3, 8 if blades > 4 else 16, tile_bytes)
        warps = 4 if itemsize >= 4 else 1
        return _tiling(channels, 32 * warps * per_thread, (warps, warps), per_thread, 3, 12, tile_bytes)
    tile_bytes = 4 * blades * itemsize
    widest = 128 if blades <= 16 and itemsize <= 4 else 32
    if width <= widest:
        return _tiling(channels, width, (2, 4), per_thread, 2, 8, tile_bytes)
    return _tiling(channels, 64 // max(1, itemsize // 4), (2, 2), 1, 2, 8, tile_bytes)
