"""The linear map of each grade, on tensor cores: weights are used as they are, one matrix for all blades of a grade.

Wide matrices are torch's own products, on views; narrow ones, where those waste most of a tile, are kernels.
"""

from __future__ import annotations

import functools
import itertools

import torch
import triton
import triton.language as tl
from torch import Tensor

from cliffnn.kernels.plan import power_of_two
from cliffnn.kernels.prepared import Prepared, multiprocessors
from cliffnn.kernels.sums import sums
from cliffnn.kernels.tables import table

# Channels above which torch's own matrix product is faster.
_WIDE = 128
_ROWS = 64


@triton.jit(do_not_specialize=["rows"])
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
    INPUT_STRIDE: tl.constexpr,
    OUTPUT_STRIDE: tl.constexpr,
    BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Multiply some rows of one blade with the matrix of its grade; the bias is added to the first blade."""
    blade = tl.program_id(0) % BLADES
    first = (tl.program_id(0) // BLADES).to(tl.int64) * ROWS
    grade = tl.load(grades_ptr + blade)
    row = tl.arange(0, ROWS)
    input = tl.arange(0, IN)
    output = tl.program_id(1) * OUT + tl.arange(0, OUT)
    valid = (first + row < rows)[:, None]
    exists = (output < OUTPUTS)[None, :]
    x_ptr += (first * BLADES + blade) * INPUTS
    weight_ptr += grade * (OUTPUTS * INPUTS)
    total = tl.zeros((ROWS, OUT), tl.float32)
    for start in range(0, INPUTS, IN):
        known = start + input < INPUTS
        x = tl.load(x_ptr + row[:, None] * (BLADES * INPUTS) + start + input[None, :], valid & known[None, :], 0.0)
        weight_at = output[None, :] * OUTPUT_STRIDE + (start + input)[:, None] * INPUT_STRIDE
        weight = tl.load(weight_ptr + weight_at, exists & known[:, None], 0.0)
        total = tl.dot(x, weight, total, input_precision=PRECISION)
    if BIAS:
        bias = tl.load(bias_ptr + output, output < OUTPUTS, 0.0).to(tl.float32)
        total += tl.where(blade == 0, bias, 0.0)[None, :]
    out_ptr += (first * BLADES + blade) * OUTPUTS
    tl.store(out_ptr + row[:, None] * (BLADES * OUTPUTS) + output[None, :], total, valid & exists)


@triton.jit(do_not_specialize=["rows"])
def linear_bwd_kernel(
    grad_ptr,
    x_ptr,
    partial_ptr,
    rows,
    BLADES: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sum over some rows of one blade the products of gradient and input, for the gradient of the matrix."""
    columns: tl.constexpr = (INPUTS + IN - 1) // IN
    output = tl.program_id(2) // columns * OUT + tl.arange(0, OUT)
    input = tl.program_id(2) % columns * IN + tl.arange(0, IN)
    blade = tl.program_id(1)
    row = tl.arange(0, ROWS)
    total = tl.zeros((OUT, IN), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        # under the interpreter a loop variable is a plain int, which has no method to widen it
        first = tl.full((), ROWS, tl.int64) * tile
        valid = first + row < rows
        index = first * BLADES + blade
        grad_at = row[None, :] * (BLADES * OUTPUTS) + output[:, None]
        grad = tl.load(grad_ptr + index * OUTPUTS + grad_at, valid[None, :] & (output < OUTPUTS)[:, None], 0.0)
        x_at = row[:, None] * (BLADES * INPUTS) + input[None, :]
        x = tl.load(x_ptr + index * INPUTS + x_at, valid[:, None] & (input < INPUTS)[None, :], 0.0)
        total = tl.dot(grad, x, total, input_precision=PRECISION)
    part = blade * tl.num_programs(0) + tl.program_id(0)
    address = (part * OUTPUTS + output)[:, None] * INPUTS + input[None, :]
    tl.store(partial_ptr + address, total, (output < OUTPUTS)[:, None] & (input < INPUTS)[None, :])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, sizes: tuple[int, ...]) -> Tensor:
    """See `cliffnn.linear.linear`."""
    rows, blades, inputs = x.shape
    outputs = weight.shape[1]
    out = x.new_empty(rows, blades, outputs)
    if rows == 0:
        return out
    if x.dtype == torch.float64 or min(inputs, outputs) > _WIDE:
        grades = list(zip(weight, itertools.pairwise(_starts(sizes)), strict=True))
        if sizes[0] == sizes[-1] == 1:
            # scalars and pseudoscalars, the grades of one blade, fill the device together
            ends, both = slice(0, None, max(1, blades - 1)), weight[:: max(1, len(sizes) - 1)]
            torch.bmm(x[:, ends].transpose(0, 1), both.mT, out=out[:, ends].transpose(0, 1))
            grades = grades[1:-1]
        for matrix, (start, end) in grades:
            matrices = matrix.mT.expand(end - start, -1, -1)
            torch.bmm(x[:, start:end].transpose(0, 1), matrices, out=out[:, start:end].transpose(0, 1))
        if bias is not None:
            out[:, 0] += bias
        return out
    if not (weight.is_contiguous() or weight.mT.is_contiguous()):
        weight = weight.contiguous()
    strides = weight.stride()[1:]
    run, columns = _forward(blades, inputs, outputs, strides, bias is not None, dot_precision(x))
    grid = (-(-rows // _ROWS) * blades, columns, 1)
    # without a bias the kernel reads none, but wants a pointer
    given = weight if bias is None else bias.contiguous()
    run(grid, (x, weight, given, out, table(_grades(sizes), x.device)), rows)
    return out


def linear_weight(grad: Tensor, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """See `cliffnn.linear.linear_weight`."""
    rows, blades, inputs = x.shape
    outputs = grad.shape[-1]
    starts = _starts(sizes)
    result = x.new_empty(len(sizes), outputs, inputs)
    if rows == 0:
        return result.zero_()
    if x.dtype == torch.float64 or min(inputs, outputs) > _WIDE:
        partial = torch.bmm(grad.permute(1, 2, 0), x.transpose(0, 1))
        sums(partial.view(blades, 1, -1), starts, [result])
        return result
    run, tiles = _backward(blades, inputs, outputs, dot_precision(x))
    # enough for every multiprocessor, each with many rows
    parts = max(1, min(-(-rows // _ROWS), 2 * multiprocessors(x.device) // (blades * tiles)))
    partial = x.new_empty(blades, parts, outputs * inputs, dtype=torch.float32)
    run((parts, blades, tiles), (grad, x, partial), rows)
    sums(partial, starts, [result])
    return result


def dot_precision(x: Tensor) -> str:
    """How float32 factors are multiplied: as torch's setting allows, or to 21 to 22 bits on tensor cores."""
    if x.dtype != torch.float32 or torch.backends.cuda.matmul.fp32_precision == "tf32":
        return "tf32"
    return "ieee" if torch.version.hip or not x.is_cuda else "tf32x3"


def _tile(channels: int) -> int:
    return min(max(16, power_of_two(channels)), 64)


@functools.cache
def _forward(
    blades: int, inputs: int, outputs: int, strides: tuple[int, ...], bias: bool, precision: str
) -> tuple[Prepared, int]:
    """The kernel, and how many tiles hold the outputs."""
    out = _tile(outputs)
    constants = {
        "BLADES": blades,
        "INPUTS": inputs,
        "OUTPUTS": outputs,
        "INPUT_STRIDE": strides[1],
        "OUTPUT_STRIDE": strides[0],
        "BIAS": bias,
        "ROWS": _ROWS,
        "OUT": out,
        "IN": _tile(inputs),
        "PRECISION": precision,
    }
    return Prepared(linear_fwd_kernel, constants, warps=4, num_stages=2), -(-outputs // out)


@functools.cache
def _backward(blades: int, inputs: int, outputs: int, precision: str) -> tuple[Prepared, int]:
    """The kernel, and how many tiles hold the matrix."""
    out, into = _tile(outputs), _tile(inputs)
    constants = {
        "BLADES": blades,
        "INPUTS": inputs,
        "OUTPUTS": outputs,
        "ROWS": _ROWS,
        "OUT": out,
        "IN": into,
        "PRECISION": precision,
    }
    return Prepared(linear_bwd_kernel, constants, warps=4, num_stages=3), -(-outputs // out) * -(-inputs // into)


@functools.cache
def _starts(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Where each grade starts along the blades, and where the last one ends."""
    return (0, *itertools.accumulate(sizes))


@functools.cache
def _grades(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Of each blade, the number of its grade among those held."""
    return tuple(grade for grade, size in enumerate(sizes) for _ in range(size))
