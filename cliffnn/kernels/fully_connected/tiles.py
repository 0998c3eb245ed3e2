"""Tiles of the kernels, and kernels made ready for them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from cliffnn.graded_product import GradedProduct
from cliffnn.kernels.plan import power_of_two
from cliffnn.kernels.prepared import Prepared

# Columns of a matrix product on tensor cores, at least.
LEAST = 8
# Blades of a factor times channels, of 64 rows, whose numbers and gradients fit the registers of a program.
HELD = 64


@dataclass(frozen=True)
class Tiles:
    """Tiles of a kernel.

    Attributes
    ----------
    rows : int
    outputs, inputs : int
        Channels of a tile.
    warps : int
        Of a program.
    resident : int
        How many programs a multiprocessor should hold, where each goes over many tiles.
    """

    rows: int
    outputs: int
    inputs: int
    warps: int
    resident: int = 1


def forward_tiles(inputs: int, outputs: int, itemsize: int, precision: str) -> Tiles:
    """Few rows, so that two programs fit a multiprocessor, and all outputs, for each of which products are formed."""
    columns = _tile(outputs, 256 if _rounds(itemsize, precision) else 128)
    return Tiles(64, columns, _tile(inputs, 128 // itemsize), 8 if columns > 64 else 4)


def factors_tiles(product: GradedProduct, inputs: int, outputs: int, precision: str) -> Tiles:
    """As many channels as there are registers for all blades of the factors and of their gradients."""
    columns = min(max(LEAST, power_of_two(inputs)), HELD // power_of_two(max(product.sizes[:2])))
    # numbers that are split in parts are so in registers
    return Tiles(64, _tile(outputs, 32 if precision == "tf32x3" else 64), columns, 8 if columns > LEAST else 4)


def mixed_tiles(inputs: int, outputs: int, itemsize: int, precision: str) -> Tiles:
    """As a product of matrices has them that are both read."""
    return Tiles(128, _tile(outputs, 128 // itemsize), _tile(inputs, 64 if precision == "tf32x3" else 128), 8)


def weight_tiles(inputs: int, outputs: int, itemsize: int, precision: str) -> Tiles:
    """All channels, if registers hold the sums of their pairs."""
    if min(inputs, outputs) > 128 and _rounds(itemsize, precision):
        return Tiles(64, 256, 128, 16)
    out, into = _tile(outputs, 128), _tile(inputs, 128)
    size = out * into
    if size > 4096:
        return Tiles(64, out, into, 8)
    return Tiles(32, out, into, 4, 4) if size > 1024 else Tiles(64, out, into, 4, 8)


def _rounds(itemsize: int, precision: str) -> bool:
    """Whether float32 is multiplied as TF32: then wider tiles, which nothing else was measured with, fit."""
    return itemsize == 4 and precision == "tf32"


def _tile(channels: int, most: int) -> int:
    return min(max(16, power_of_two(channels)), most)


@functools.cache
def prepared(
    function: Any, product: GradedProduct, inputs: int, outputs: int, tiles: Tiles, precision: str, gate: bool = False
) -> Prepared:
    """A kernel with those of its constants that it has."""
    constants = {
        **dict(zip(("X_BLADES", "Y_BLADES", "BLADES"), product.sizes, strict=True)),
        "TILES": sum(product.path_sizes),
        "INPUTS": inputs,
        "OUTPUTS": outputs,
        "ROWS": tiles.rows,
        "OUT": tiles.outputs,
        "IN": tiles.inputs,
        "GRAIN": min(32, tiles.outputs, tiles.inputs),
        "GATE": gate,
        "PRECISION": precision,
    }
    constants = {name: constants[name] for name in function.arg_names if name in constants}
    return Prepared(function, constants, tiles.warps, num_stages=1)
