"""How large the tiles are: chosen by the number of blades and channels, as measured (`docs/kernels.md`).

No choice depends on the number of rows, so a new batch size compiles nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

# A row of more elements than this does not fit the registers of a program, unless it has a multiprocessor for itself.
_WIDEST_ROW = 8192
# What a kernel takes beside the tiles in flight: reductions, exchange between threads.
_OTHER_SHARED_MEMORY = 16 * 1024


@dataclass(frozen=True)
class Tiling:
    """Tiles of a kernel.

    Attributes
    ----------
    rows, channels : int
        Of a tile, powers of two.
    blocks : int
        How many tiles make a row.
    warps : int
        Of a program.
    vector : int
        How many neighbouring channels a thread loads and stores at once.
    stages : int
        How many tiles a program has in flight.
    resident : int or None
        How many programs a multiprocessor should hold, each going over many tiles; None: a program for each tile.
    recompute : bool
        Whether a backward computes the normalised result anew instead of reading it.
    apart : bool
        Whether memory operations stand in a loop of one round, which makes compiling quick where no tile is in flight,
        and outputs of a derivative are computed in parts, one after the other, which takes fewer registers.
    """

    rows: int
    channels: int
    blocks: int
    warps: int
    vector: int = 1
    stages: int = 1
    resident: int | None = None
    recompute: bool = True
    apart: bool = False

    @property
    def whole_rows(self) -> bool:
        return self.blocks == 1


def power_of_two(number: int) -> int:
    """The least power of two that is not below a number."""
    return 1 << (number - 1).bit_length()


def _tiling(
    channels: int,
    widest: int,
    per_thread: int,
    warps: tuple[int, int],
    stages: int = 1,
    resident_warps: int | None = None,
    tile_bytes: int = 0,
    shared: int = 0,
    vector: int | None = None,
    recompute: bool = True,
    apart: bool = False,
) -> Tiling:
    """Tiles at most ``widest`` channels wide, with ``per_thread`` channels a thread.

    ``warps`` are the least and the most of a program; ``tile_bytes``, what is in flight for a row and channel, bounds
    the stages by the ``shared`` memory of a program. A ``vector`` of ``per_thread`` channels, the default, gives a
    thread all blades of what it loads, which saves all exchange between threads; a wider one moves more at once.
    """
    width = min(power_of_two(channels), widest)
    least, most = warps
    count = min(max(least, width // (32 * per_thread)), most)
    rows = max(1, 32 * count * per_thread // width)
    fitting = (shared - _OTHER_SHARED_MEMORY) // max(1, tile_bytes * rows * width)
    resident = None if resident_warps is None else max(1, resident_warps // count)
    if vector is None:
        vector = max(1, min(rows * width // (32 * count), width))
    stages, blocks = max(1, min(stages, fitting)), -(-channels // width)
    return Tiling(rows, width, blocks, count, vector, stages, resident, recompute, apart)


def tiling(blades: int, channels: int, itemsize: int, shared: int, order: int, normalize: bool, whole: int) -> Tiling:
    """Of the kernels that compute an operation's outputs.

    Parameters
    ----------
    blades : int
        Of a multivector; of those that an operation reads and writes, what they would have if all had as many.
    channels, itemsize : int
    shared : int
        Bytes of shared memory that a program may have.
    order : int
        How often the operation was differentiated.
    normalize : bool
        Whether there is a norm, whose means over the channels cost nothing where tiles hold whole rows.
    whole : int
        How many blades the algebra has.
    """
    if order == 0:
        return _forward_tiling(blades, channels, itemsize, shared)
    if order == 1:
        return _backward_tiling(blades, channels, itemsize, shared, whole)
    return _higher_tiling(blades, channels, itemsize, normalize)


def sums_tiling(blades: int, channels: int, order: int) -> Tiling:
    """Of the kernels that sum over channels for others, which have blocks of them."""
    if order == 1:
        return _tiling(channels, max(32, 8192 // blades), 2, (1, 16))
    if order > 1:
        return _tiling(channels, max(32, 4096 // blades), 1, (1, 8))
    return _tiling(channels, max(32, 4096 // blades), 2, (4, 4))


def _forward_tiling(blades: int, channels: int, itemsize: int, shared: int) -> Tiling:
    """Whole rows, unless they are too wide."""
    elements = blades * power_of_two(channels) * (2 if itemsize == 8 else 1)
    width = power_of_two(channels)
    if elements > _WIDEST_ROW:
        if blades <= 8 and itemsize == 4 and elements <= 2 * _WIDEST_ROW:
            # all registers of a multiprocessor, and no tile to come
            return _tiling(channels, width, 32 // blades, (16, 16))
        return _tiling(channels, max(32, 4096 // blades), 4, (4, 4))
    if (blades <= 16 and itemsize == 2) or (blades <= 8 and itemsize == 4 and elements > 4096):
        # asynchronous copies, of at least four bytes, while the tile before is computed
        per_thread, resident_warps = 4 if blades <= 8 else 2, 8 if blades > 4 else 16
        return _tiling(channels, width, per_thread, (1, 8), 3, resident_warps, 2 * blades * itemsize, shared)
    if blades > 8:
        # in the widest rows fewer threads wait for each other
        per_thread = 2 if blades == 16 and width >= 256 and itemsize <= 4 else 1
        return _tiling(channels, width, per_thread, (1, 16), vector=1, apart=blades > 16)
    return _tiling(channels, width, max(1, 4 // blades), (max(2, blades // 2), 16))


def _backward_tiling(blades: int, channels: int, itemsize: int, shared: int, whole: int) -> Tiling:
    """Whole rows where they are narrow, so that the norm's means over the channels cost nothing; else blocks."""
    width = power_of_two(channels)
    elements = blades * width * (2 if itemsize == 8 else 1)
    if blades > 8:
        widest = width if elements <= 4096 else 32
        if whole > 8:
            # in sections, which smaller algebras are slower in: registers hold one multivector, and no tile to come
            resident_warps = 12 if blades == 16 else 8
            return _tiling(channels, widest, 1, (1, 8), 1, resident_warps, recompute=False, apart=True)
        tile_bytes, wide = 4 * blades * itemsize, 16 // itemsize
        return _tiling(channels, widest, 1, (1, 8), 2, 8, tile_bytes, shared, vector=wide, recompute=False)
    tile_bytes, resident_warps = 3 * blades * itemsize, 8 if blades > 4 else 16
    if elements > 4096:
        return _tiling(channels, 64, 2, (1, 1), 3, resident_warps, tile_bytes, shared)
    if itemsize == 2:
        # with half the bytes to read, reading the result is cheaper than computing it, if a row is wide
        recompute = elements < 1024
        return _tiling(channels, width, 2, (1, 8), 3, resident_warps, tile_bytes, shared, recompute=recompute)
    per_thread = 2 if elements >= 2048 else 1
    return _tiling(channels, width, per_thread, (1, 16), 3, resident_warps, tile_bytes, shared)


def _higher_tiling(blades: int, channels: int, itemsize: int, normalize: bool) -> Tiling:
    """So many values are alive that a thread has registers for one multivector, and none for a tile to come.

    In parts, half of them are enough, so rows of 16 blades (R3's double backward) may be twice as wide.
    """
    width = power_of_two(channels)
    elements = blades * width * (2 if itemsize == 8 else 1)
    wide = normalize and blades == 16 and 4096 < elements <= _WIDEST_ROW
    widest, most = (width, 16) if wide else (width if elements <= 4096 else 64, 8)
    return _tiling(channels, widest, 1, (1, most), 1, 8, recompute=False, apart=wide or blades > 16)
