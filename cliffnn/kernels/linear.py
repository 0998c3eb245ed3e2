"""The linear map of each grade, on tensor cores: weights are used as they are, one matrix for all blades of a grade."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def linear_fwd_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    grades_ptr,
    rows,
    BLADES: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Out = x weight^T, with a weight ``(OUTPUTS, INPUTS)`` for each grade; the bias is added to the scalars."""
    columns: tl.constexpr = (OUTPUTS + OUT - 1) // OUT
    column = tl.program_id(0) % columns
    blade = tl.program_id(0) // columns % BLADES
    first = (tl.program_id(0) // (columns * BLADES)).to(tl.int64) * ROWS
    grade = tl.load(grades_ptr + blade)
    row = tl.arange(0, ROWS)
    valid = (first + row < rows)[:, None]
    output = column * OUT + tl.arange(0, OUT)
    input = tl.arange(0, IN)
    x_ptr += (first * BLADES + blade) * INPUTS
    weight_ptr += grade * (OUTPUTS * INPUTS)
    x_at = row[:, None] * (BLADES * INPUTS) + input[None, :]
    weight_at = output[None, :] * INPUTS + input[:, None]
    exists = (output < OUTPUTS)[None, :]
    total = tl.zeros((ROWS, OUT), tl.float32)
    for start in range(0, INPUTS, IN):
        x = tl.load(x_ptr + x_at, valid & (start + input < INPUTS)[None, :], 0.0)
        weight = tl.load(weight_ptr + weight_at, exists & (start + input < INPUTS)[:, None], 0.0)
        total = tl.dot(x, weight, total, input_precision=PRECISION)
        x_ptr += IN
        weight_ptr += IN
    if BIAS:
        bias = tl.load(bias_ptr + output, output < OUTPUTS, 0.0).to(tl.float32)
        total += tl.where(grade == 0, bias, 0.0)[None, :]
    out_ptr += (first * BLADES + blade) * OUTPUTS
    tl.store(out_ptr + row[:, None] * (BLADES * OUTPUTS) + output[None, :], total, valid & exists)


@triton.jit
def linear_weight_kernel(
    grad_ptr,
    x_ptr,
    partial_ptr,
    rows,
    BLADES: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    CHUNKS: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Partial sums, one a blade and chunk of rows, of grad^T x."""
    columns: tl.constexpr = (INPUTS + IN - 1) // IN
    output = tl.program_id(0) // columns * OUT + tl.arange(0, OUT)
    input = tl.program_id(0) % columns * IN + tl.arange(0, IN)
    blade = tl.program_id(1) // CHUNKS
    row = tl.arange(0, ROWS)
    grad_at = row[None, :] * (BLADES * OUTPUTS) + output[:, None]
    x_at = row[:, None] * (BLADES * INPUTS) + input[None, :]
    total = tl.zeros((OUT, IN), tl.float32)
    for tile in range(tl.program_id(1) % CHUNKS, tl.cdiv(rows, ROWS), CHUNKS):
        first = tl.full((), ROWS, tl.int64) * tile
        valid = first + row < rows
        index = first * BLADES + blade
        grad = tl.load(grad_ptr + index * OUTPUTS + grad_at, valid[None, :] & (output < OUTPUTS)[:, None], 0.0)
        x = tl.load(x_ptr + index * INPUTS + x_at, valid[:, None] & (input < INPUTS)[None, :], 0.0)
        total = tl.dot(grad, x, total, input_precision=PRECISION)
    address = (tl.program_id(1) * OUTPUTS + output)[:, None] * INPUTS + input[None, :]
    tl.store(partial_ptr + address, total, (output < OUTPUTS)[:, None] & (input < INPUTS)[None, :])


@triton.jit
def linear_sum_kernel(
    partial_ptr,
    grad_weight_ptr,
    starts_ptr,
    SIZE: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add the partial sums of each grade's blades and chunks, in a fixed order."""
    grade = tl.program_id(1)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for part in range(tl.load(starts_ptr + grade) * CHUNKS, tl.load(starts_ptr + grade + 1) * CHUNKS):
        total += tl.load(partial_ptr + part * SIZE + index, index < SIZE, 0.0)
    tl.store(grad_weight_ptr + grade * SIZE + index, total, index < SIZE)
