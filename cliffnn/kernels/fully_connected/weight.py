"""The gradient of the weight: a product of matrices for each path, over the blades of a grade of all rows."""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from cliffnn.graded_product import GradedProduct
from cliffnn.kernels.fully_connected.products import gate, product_of
from cliffnn.kernels.fully_connected.tables import device_shares, device_tables
from cliffnn.kernels.fully_connected.tiles import Tiles, prepared, weight_tiles
from cliffnn.kernels.linear import dot_precision
from cliffnn.kernels.prepared import Prepared, multiprocessors
from cliffnn.kernels.sums import sums

# Numbers of a program that computes gates.
_BLOCK = 1024


@triton.jit(do_not_specialize=["rows"])
def gates_kernel(
    x_ptr,
    y_ptr,
    gates_ptr,
    rows,
    X_BLADES: tl.constexpr,
    Y_BLADES: tl.constexpr,
    INPUTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What products of both factors' blades are multiplied with, for a kernel that would else compute it many times."""
    number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = number < tl.full((), INPUTS, tl.int64) * rows
    row = number // INPUTS * INPUTS
    x = gate(x_ptr, row * X_BLADES + number % INPUTS, mask)
    y = gate(y_ptr, row * Y_BLADES + number % INPUTS, mask)
    tl.store(gates_ptr + number, x * y, mask)


@triton.jit(do_not_specialize=["rows"])
def fully_connected_weight_kernel(
    grad_ptr,
    x_ptr,
    y_ptr,
    gates_ptr,
    partial_ptr,
    shares_ptr,
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
    GRAIN: tl.constexpr,
    GATE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sum over some rows the gradient times the products of one path, for the gradient of its matrix.

    What is summed over are the rows' blades of one grade, ``ROWS`` of them at a time. A tile is (ROWS, channels /
    GRAIN, GRAIN): so a warp holds several rows, and is hindered less where it stores the channels of a row one below
    the other, as tensor cores want them.
    """
    columns: tl.constexpr = (INPUTS + IN - 1) // IN
    first_output = tl.program_id(1) // columns * OUT
    first_input = tl.program_id(1) % columns * IN
    inner = tl.arange(0, GRAIN)[None, None, :]
    output = first_output + tl.arange(0, OUT // GRAIN)[None, :, None] * GRAIN + inner
    input = first_input + tl.arange(0, IN // GRAIN)[None, :, None] * GRAIN + inner
    share = shares_ptr + tl.program_id(0) * 3
    entry = entries_ptr + tl.load(share) * 5
    blade = tl.load(entry + 1)
    size = tl.load(entry + 2)
    terms_ptr += tl.load(entry + 3)
    terms = tl.load(entry + 4)
    total = tl.zeros((OUT, IN), tl.float32)
    for block in range(tl.load(share + 1), tl.cdiv(rows, ROWS), tl.load(share + 2)):
        # under the interpreter a loop variable is a plain int, which has no method to widen it
        first = tl.full((), ROWS, tl.int64) * block
        grad = grad_ptr + first * (BLADES * OUTPUTS)
        x = x_ptr + first * (X_BLADES * INPUTS)
        y = y_ptr + first * (Y_BLADES * INPUTS)
        gates = gates_ptr + first * INPUTS
        for part in range(size):
            pair = part * ROWS + tl.arange(0, ROWS)[:, None, None]
            row = pair // size
            which = pair % size
            valid = first + row < rows
            mask = valid & (input < INPUTS)
            grad_at = (row * BLADES + blade + which) * OUTPUTS + output
            of_blades = tl.load(grad + grad_at, valid & (output < OUTPUTS), 0.0)
            x_at = row * (X_BLADES * INPUTS) + input
            y_at = row * (Y_BLADES * INPUTS) + input
            product = product_of(x, y, terms_ptr + which, terms, size, x_at, y_at, mask, INPUTS)
            if GATE:
                product *= tl.load(gates + row * INPUTS + input, mask, 0.0)
            left = tl.trans(tl.reshape(of_blades, (ROWS, OUT)))
            right = tl.reshape(product.to(of_blades.dtype), (ROWS, IN))
            total = tl.dot(left, right, total, input_precision=PRECISION)
    output = first_output + tl.arange(0, OUT)
    input = first_input + tl.arange(0, IN)
    address = (tl.program_id(0).to(tl.int64) * OUTPUTS + output)[:, None] * INPUTS + input[None, :]
    tl.store(partial_ptr + address, total, (output < OUTPUTS)[:, None] & (input < INPUTS)[None, :])


def fully_connected_weight(
    grad: Tensor, x: Tensor, y: Tensor, product: GradedProduct, gate: bool, tiles: Tiles | None = None
) -> Tensor:
    """See `cliffnn.fully_connected.fully_connected_weight`."""
    rows, _, inputs = x.shape
    outputs = grad.shape[-1]
    result = x.new_empty(len(product.paths), outputs, inputs)
    if rows == 0:
        return result.zero_()
    precision = dot_precision(x)
    tiles = tiles or weight_tiles(inputs, outputs, x.itemsize, precision)
    of_matrix = -(-outputs // tiles.outputs) * -(-inputs // tiles.inputs)
    # enough for every multiprocessor, each with many rows
    programs = tiles.resident * multiprocessors(x.device) // of_matrix
    of_programs, starts = device_shares(product, programs, -(-rows // tiles.rows), x.device)
    partial = x.new_empty(starts[-1], 1, outputs * inputs, dtype=torch.float32)
    run = prepared(fully_connected_weight_kernel, product, inputs, outputs, tiles, precision, gate)
    _, entries, terms = device_tables(product, x.device)
    tensors = grad, x, y, _gates(x, y) if gate else x, partial, of_programs, entries, terms
    run((starts[-1], of_matrix, 1), tensors, rows)
    sums(partial, starts, [result])
    return result


def _gates(x: Tensor, y: Tensor) -> Tensor:
    rows, _, inputs = x.shape
    gates = x.new_empty(rows, inputs, dtype=torch.float32)
    run = _prepared_gates(x.shape[1], y.shape[1], inputs)
    run((-(-gates.numel() // _BLOCK), 1, 1), (x, y, gates), rows)
    return gates


@functools.cache
def _prepared_gates(x_blades: int, y_blades: int, inputs: int) -> Prepared:
    constants = {"X_BLADES": x_blades, "Y_BLADES": y_blades, "INPUTS": inputs, "BLOCK": _BLOCK}
    return Prepared(gates_kernel, constants, 4)
