"""The fully connected product: a product of matrices for each blade and path, one of which is formed on chip."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from cliffnn.graded_product import GradedProduct
from cliffnn.kernels.fully_connected.products import gate, product_of
from cliffnn.kernels.fully_connected.tables import device_tables
from cliffnn.kernels.fully_connected.tiles import Tiles, forward_tiles, prepared
from cliffnn.kernels.linear import dot_precision


@triton.jit(do_not_specialize=["rows"])
def fully_connected_fwd_kernel(
    x_ptr,
    y_ptr,
    weight_ptr,
    out_ptr,
    blades_ptr,
    entries_ptr,
    terms_ptr,
    rows,
    X_BLADES: tl.constexpr,
    Y_BLADES: tl.constexpr,
    BLADES: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    GATE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Multiply a blade's products of each path with the path's matrix, and add them up."""
    columns: tl.constexpr = (OUTPUTS + OUT - 1) // OUT
    # all that reads the same rows is near in time
    group = blades_ptr + tl.program_id(0) // columns % BLADES * 3
    blade = tl.load(group)
    first = (tl.program_id(0) // (columns * BLADES)).to(tl.int64) * ROWS
    output = tl.program_id(0) % columns * OUT + tl.arange(0, OUT)
    row = tl.arange(0, ROWS)[:, None]
    valid = first + row < rows
    exists = (output < OUTPUTS)[None, :]
    x_ptr += first * (X_BLADES * INPUTS)
    y_ptr += first * (Y_BLADES * INPUTS)
    total = tl.zeros((ROWS, OUT), tl.float32)
    for start in range(0, INPUTS, IN):
        input = start + tl.arange(0, IN)
        known = input < INPUTS
        x_at = row * (X_BLADES * INPUTS) + input[None, :]
        y_at = row * (Y_BLADES * INPUTS) + input[None, :]
        mask = valid & known[None, :]
        if GATE:
            # one for all products
            gates = gate(x_ptr, x_at, mask) * gate(y_ptr, y_at, mask)
        for index in range(tl.load(group + 1), tl.load(group + 2)):
            entry = entries_ptr + index * 5
            matrix_ptr = weight_ptr + tl.load(entry).to(tl.int64) * (OUTPUTS * INPUTS)
            weight = tl.load(matrix_ptr + output[None, :] * INPUTS + input[:, None], exists & known[:, None], 0.0)
            own = terms_ptr + tl.load(entry + 3) + blade - tl.load(entry + 1)
            count, size = tl.load(entry + 4), tl.load(entry + 2)
            product = product_of(x_ptr, y_ptr, own, count, size, x_at, y_at, mask, INPUTS)
            if GATE:
                product *= gates
            total = tl.dot(product.to(weight.dtype), weight, total, input_precision=PRECISION)
    out_at = (row * BLADES + blade) * OUTPUTS + output[None, :]
    tl.store(out_ptr + first * (BLADES * OUTPUTS) + out_at, total, valid & exists)


def fully_connected(
    x: Tensor, y: Tensor, weight: Tensor, product: GradedProduct, gate: bool, tiles: Tiles | None = None
) -> Tensor:
    """See `cliffnn.fully_connected.fully_connected`."""
    rows, _, inputs = x.shape
    outputs, blades = weight.shape[1], product.sizes[2]
    out = x.new_empty(rows, blades, outputs)
    if rows == 0:
        return out
    precision = dot_precision(x)
    tiles = tiles or forward_tiles(inputs, outputs, x.itemsize, precision)
    run = prepared(fully_connected_fwd_kernel, product, inputs, outputs, tiles, precision, gate)
    grid = (-(-rows // tiles.rows) * blades * -(-outputs // tiles.outputs), 1, 1)
    run(grid, (x, y, weight, out, *device_tables(product, x.device)), rows)
    return out
