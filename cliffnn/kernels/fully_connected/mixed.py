"""A gradient times the matrices of all paths, written to memory: what gradients of factors are then computed from."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from cliffnn.graded_product import GradedProduct
from cliffnn.kernels.fully_connected.tables import mixed_table
from cliffnn.kernels.fully_connected.tiles import Tiles, mixed_tiles, prepared
from cliffnn.kernels.linear import dot_precision


@triton.jit(do_not_specialize=["rows"])
def mixed_kernel(
    grad_ptr,
    weight_ptr,
    mixed_ptr,
    tiles_ptr,
    rows,
    BLADES: tl.constexpr,
    TILES: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Multiply the blades of a grade with the matrix of a path, ``ROWS`` of them at a time.

    The matrices come transposed, as tensor cores want a second factor.
    """
    columns: tl.constexpr = (INPUTS + IN - 1) // IN
    tile = tiles_ptr + tl.program_id(0) // columns % TILES * 5
    blade = tl.load(tile + 1)
    size = tl.load(tile + 2)
    first = (tl.program_id(0) // (columns * TILES)).to(tl.int64) * ROWS
    pair = tl.load(tile + 4) * ROWS + tl.arange(0, ROWS)[:, None]
    row = pair // size
    input = tl.program_id(0) % columns * IN + tl.arange(0, IN)
    valid = first + row < rows
    exists = (input < INPUTS)[None, :]
    grad_ptr += first * (BLADES * OUTPUTS)
    grad_at = (row * BLADES + blade + pair % size) * OUTPUTS
    weight_ptr += tl.load(tile).to(tl.int64) * (INPUTS * OUTPUTS)
    total = tl.zeros((ROWS, IN), tl.float32)
    for start in tl.range(0, OUTPUTS, OUT, num_stages=3):
        output = start + tl.arange(0, OUT)
        known = output < OUTPUTS
        grad = tl.load(grad_ptr + grad_at + output[None, :], valid & known[None, :], 0.0)
        weight = tl.load(weight_ptr + input[None, :] * OUTPUTS + output[:, None], exists & known[:, None], 0.0)
        total = tl.dot(grad, weight, total, input_precision=PRECISION)
    mixed_ptr += (tl.load(tile + 3).to(tl.int64) * rows + first * size) * INPUTS
    tl.store(mixed_ptr + pair * INPUTS + input[None, :], total, valid & exists)


class Mix:
    """Of each path, the blades of a gradient that have its result's grade times its matrix.

    Parameters
    ----------
    weight : Tensor
        ``(paths, out_channels, in_channels)``.
    product : GradedProduct
    rows : int
        At most so many come at a time.
    """

    def __init__(self, weight: Tensor, product: GradedProduct, rows: int, tiles: Tiles | None = None):
        _, outputs, inputs = weight.shape
        precision = dot_precision(weight)
        self._tiles = tiles or mixed_tiles(inputs, outputs, weight.itemsize, precision)
        self._run = prepared(mixed_kernel, product, inputs, outputs, self._tiles, precision)
        self._programs = sum(product.path_sizes) * -(-inputs // self._tiles.inputs)
        self._table = mixed_table(product, weight.device)
        self._transposed = weight.mT.contiguous()
        self._sizes = [size * inputs for size in product.path_sizes]
        self._memory = weight.new_empty(rows * sum(self._sizes))
        self._parts: tuple[int, list[Tensor]] = 0, []

    def __call__(self, grad: Tensor) -> list[Tensor]:
        """Parts of one memory, until the next call: ``(rows, blades of the grade, in_channels)``.

        Parameters
        ----------
        grad : Tensor
            ``(rows, blades, out_channels)``, contiguous.
        """
        rows = grad.shape[0]
        if rows != self._parts[0]:
            parts = self._memory[: rows * sum(self._sizes)].split([rows * size for size in self._sizes])
            inputs = self._transposed.shape[1]
            self._parts = rows, [part.view(rows, -1, inputs) for part in parts]
        if rows:
            grid = (-(-rows // self._tiles.rows) * self._programs, 1, 1)
            self._run(grid, (grad, self._transposed, self._memory, self._table), rows)
        return self._parts[1]
