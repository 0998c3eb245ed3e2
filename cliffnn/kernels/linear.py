"""The linear map of each grade, on tensor cores: weights are used as they are, one matrix for all blades of a grade.

The gradient of wide matrices, and float64, are torch's own products, on views.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cliffnn.kernels.plan import power_of_two
from cliffnn.kernels.prepared import Prepared, multiprocessors, shared_memory
from cliffnn.kernels.sums import sums
from cliffnn.kernels.tables import table

# Channels above which torch's own product is faster for the gradient of a matrix, and those up to which one kernel
# reads the gradient once, for all that is computed of it.
_WIDE, _NARROW = 128, 64


@triton.jit(do_not_specialize=["rows"])
def linear_fwd_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    beside_ptr,
    out_ptr,
    grades_ptr,
    rows,
    BLADES: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUT_STRIDE: tl.constexpr,
    OUTPUT_STRIDE: tl.constexpr,
    BIAS: tl.constexpr,
    BESIDE: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Multiply some rows of one blade with the matrix of its grade; the bias is added to the first blade."""
    columns: tl.constexpr = (OUTPUTS + OUT - 1) // OUT
    # programs that read the same rows follow each other, so that all but the first find them in the cache
    tile = tl.program_id(0) // columns
    blade = tile % BLADES
    first = (tile // BLADES).to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)
    input = tl.arange(0, IN)
    output = tl.program_id(0) % columns * OUT + tl.arange(0, OUT)
    valid = (first + row < rows)[:, None]
    exists = (output < OUTPUTS)[None, :]
    x_ptr += (first * BLADES + blade) * INPUTS
    weight_ptr += tl.load(grades_ptr + blade) * (OUTPUTS * INPUTS)
    out_from = (first * BLADES + blade) * OUTPUTS
    out_at = row[:, None] * (BLADES * OUTPUTS) + output[None, :]
    if BESIDE:
        total = tl.load(beside_ptr + out_from + out_at, valid & exists, 0.0).to(tl.float32)
    else:
        total = tl.zeros((ROWS, OUT), tl.float32)
    for start in range(0, INPUTS, IN):
        known = (start + input < INPUTS) | (INPUTS % IN == 0)
        x = tl.load(x_ptr + row[:, None] * (BLADES * INPUTS) + start + input[None, :], valid & known[None, :], 0.0)
        weight_at = output[None, :] * OUTPUT_STRIDE + (start + input)[:, None] * INPUT_STRIDE
        weight = tl.load(weight_ptr + weight_at, exists & known[:, None], 0.0)
        total = tl.dot(x, weight, total, input_precision=PRECISION)
    if BIAS:
        bias = tl.load(bias_ptr + output, output < OUTPUTS, 0.0).to(tl.float32)
        total += tl.where(blade == 0, bias, 0.0)[None, :]
    tl.store(out_ptr + out_from + out_at, total, valid & exists)


@triton.jit(do_not_specialize=["rows"])
def linear_bwd_kernel(
    grad_ptr,
    x_ptr,
    weight_ptr,
    beside_ptr,
    grad_x_ptr,
    partial_ptr,
    grades_ptr,
    rows,
    BLADES: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    BIAS: tl.constexpr,
    GRAD_X: tl.constexpr,
    BESIDE: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Sum over some rows of one blade the products of gradient and input, for the gradient of the matrix.

    And of the first blade the gradient, for that of the bias; with the matrix, if all of its outputs fit the tile, it
    gives the gradient of the input.
    """
    columns: tl.constexpr = (INPUTS + IN - 1) // IN
    parts = tl.num_programs(0)
    blade = tl.program_id(1)
    row = tl.arange(0, ROWS)
    output = tl.program_id(2) // columns * OUT + tl.arange(0, OUT)
    input = tl.program_id(2) % columns * IN + tl.arange(0, IN)
    exists = output < OUTPUTS
    known = input < INPUTS
    if GRAD_X:
        weight_ptr += tl.load(grades_ptr + blade) * (OUTPUTS * INPUTS)
        weight = tl.load(weight_ptr + output[:, None] * INPUTS + input[None, :], exists[:, None] & known[None, :], 0.0)
    total = tl.zeros((OUT, IN), tl.float32)
    scalars = tl.zeros((OUT,), tl.float32)
    for tile in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS), parts, num_stages=STAGES):
        # under the interpreter a loop variable is a plain int, which has no method to widen it
        first = tl.full((), ROWS, tl.int64) * tile
        valid = (first + row < rows)[:, None]
        start = first * BLADES + blade
        grad_at = row[:, None] * (BLADES * OUTPUTS) + output[None, :]
        grad = tl.load(grad_ptr + start * OUTPUTS + grad_at, valid & exists[None, :], 0.0)
        x_at = row[:, None] * (BLADES * INPUTS) + input[None, :]
        x = tl.load(x_ptr + start * INPUTS + x_at, valid & known[None, :], 0.0)
        total = tl.dot(tl.trans(grad), x, total, input_precision=PRECISION)
        if BIAS and blade == 0:
            scalars += tl.sum(grad.to(tl.float32), 0)
        if GRAD_X:
            grad_x = tl.dot(grad, weight, input_precision=PRECISION)
            if BESIDE:
                grad_x += tl.load(beside_ptr + start * INPUTS + x_at, valid & known[None, :], 0.0)
            tl.store(grad_x_ptr + start * INPUTS + x_at, grad_x, valid & known[None, :])
    partial_ptr += (blade * parts + tl.program_id(0)).to(tl.int64) * (OUTPUTS * INPUTS + BIAS * OUTPUTS)
    tl.store(partial_ptr + output[:, None] * INPUTS + input[None, :], total, exists[:, None] & known[None, :])
    if BIAS:
        tl.store(partial_ptr + OUTPUTS * INPUTS + output, scalars, exists)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, sizes: tuple[int, ...], beside: Tensor | None = None
) -> Tensor:
    """See `cliffnn.linear.linear`; ``beside`` is added to the result."""
    rows, blades, inputs = x.shape
    outputs = weight.shape[1]
    out = x.new_empty(rows, blades, outputs)
    if rows == 0:
        return out
    if _by_torch(x.dtype, min(inputs, outputs)):
        for matrix, (start, end) in zip(weight, itertools.pairwise(_starts(sizes)), strict=True):
            matrices = matrix.mT.expand(end - start, -1, -1)
            torch.bmm(x[:, start:end].transpose(0, 1), matrices, out=out[:, start:end].transpose(0, 1))
        if bias is not None:
            out[:, 0] += bias
        return out if beside is None else out.add_(beside)
    by_input = weight.is_contiguous()
    # of wide matrices tensor cores want float32 with the inputs side by side
    wanted = outputs > _WIDE and x.dtype == torch.float32
    if not by_input and (wanted or not weight.mT.is_contiguous()):
        weight, by_input = weight.contiguous(), True
    given = by_input, bias is not None, beside is not None
    plan = _forward(sizes, inputs, outputs, *given, dot_precision(x), x.dtype, x.device)
    # what a kernel does not read wants a pointer all the same
    others = weight if bias is None else bias.contiguous(), weight if beside is None else beside
    plan.run((-(-rows // plan.rows) * plan.tiles, 1, 1), (x, weight, *others, out, plan.grades), rows)
    return out


def linear_backward(
    grad: Tensor, x: Tensor | None, weight: Tensor | None, beside: Tensor | None, sizes: tuple[int, ...], bias: bool
) -> list[Tensor]:
    """See `cliffnn.linear.linear_backward`."""
    if x is None:
        results = [] if weight is None else [linear(grad, weight.mT, None, sizes, beside)]
        return [*results, grad[:, 0].sum(0)] if bias else results
    inputs, outputs = x.shape[2], grad.shape[2]
    by_torch = _by_torch(x.dtype, min(inputs, outputs))
    fused = weight is not None and max(inputs, outputs) <= _NARROW and not by_torch
    grad_x = torch.empty_like(x) if fused else None
    totals = [x.new_empty(len(sizes), outputs, inputs)]
    if bias:
        totals.append(x.new_empty(outputs))
    if len(x) == 0:
        for total in totals:
            total.zero_()
    elif by_torch or min(inputs, outputs) > _WIDE:
        _wide_totals(grad, x, sizes, totals)
    else:
        _narrow_totals(grad, x, sizes, totals, *((weight, beside, grad_x) if fused else (None, None, None)))
    if weight is None:
        return totals
    # last of all: partial sums have given their memory back
    return [linear(grad, weight.mT, None, sizes, beside) if grad_x is None else grad_x, *totals]


def _wide_totals(grad: Tensor, x: Tensor, sizes: tuple[int, ...], totals: list[Tensor]) -> None:
    """The gradient of the matrices, by torch's products, and that of the bias, if there is one."""
    partial = torch.bmm(grad.permute(1, 2, 0), x.transpose(0, 1))
    sums(partial.view(x.shape[1], 1, -1), _starts(sizes), totals[:1])
    for total in totals[1:]:
        torch.sum(grad[:, 0], 0, out=total)


def _narrow_totals(
    grad: Tensor,
    x: Tensor,
    sizes: tuple[int, ...],
    totals: list[Tensor],
    weight: Tensor | None,
    beside: Tensor | None,
    grad_x: Tensor | None,
) -> None:
    """The same by a kernel, which with the matrices gives the gradient of the input too."""
    rows, blades, inputs = x.shape
    outputs, bias = grad.shape[2], len(totals) > 1
    given = bias, weight is not None, beside is not None
    plan = _backward(sizes, inputs, outputs, *given, dot_precision(x), x.dtype, x.device)
    parts = min(-(-rows // plan.rows), plan.parts)
    partial = x.new_empty(blades, parts, outputs * (inputs + bias), dtype=torch.float32)
    # what a kernel does not use wants a pointer all the same
    others = x if weight is None else weight.contiguous(), *(x if t is None else t for t in (beside, grad_x))
    plan.run((parts, blades, plan.tiles), (grad, x, *others, partial, plan.grades), rows)
    sums(partial, _starts(sizes), totals)


def dot_precision(x: Tensor) -> str:
    """How float32 factors are multiplied: as torch's setting allows, or to 21 to 22 bits on tensor cores."""
    if x.dtype != torch.float32 or torch.backends.cuda.matmul.fp32_precision == "tf32":
        return "tf32"
    return "ieee" if torch.version.hip or not x.is_cuda else "tf32x3"


def _by_torch(dtype: torch.dtype, channels: int) -> bool:
    """Whether torch's own products are used throughout; wide tiles were measured on NVIDIA's devices alone."""
    return dtype == torch.float64 or (torch.version.hip is not None and channels > _WIDE)


class _Plan(NamedTuple):
    """A kernel ready to run.

    Attributes
    ----------
    run : Prepared
    grades : Tensor
        Of each blade, the number of its grade among those held.
    rows : int
        Of a tile.
    tiles : int
        Of a blade, that share these rows: of outputs, or of the matrix.
    parts : int
        Among how many programs, at most, a blade's rows are shared out; 0: each program has one tile.
    """

    run: Prepared
    grades: Tensor
    rows: int
    tiles: int
    parts: int = 0


@functools.cache
def _forward(
    sizes: tuple[int, ...],
    inputs: int,
    outputs: int,
    by_input: bool,
    bias: bool,
    beside: bool,
    precision: str,
    dtype: torch.dtype,
    device: torch.device,
) -> _Plan:
    wide = outputs > _WIDE
    out = min(_tile(outputs), 256 if precision == "tf32" else 128)
    # what a tensor core's operand has side by side in shared memory, at most
    into = min(_tile(inputs), 128 // dtype.itemsize)
    if wide:
        rows, warps = 128, 8
        stages = max(1, min(4, shared_memory(device) // ((rows + out) * into * dtype.itemsize)))
    else:
        # with fewer than 64 rows Triton chooses instructions to which the order of float32 is all the same
        rows, warps, stages = (64, 4, 2) if by_input or dtype.itemsize == 2 else (32, 4, 3)
    constants = {
        "BLADES": sum(sizes),
        "INPUTS": inputs,
        "OUTPUTS": outputs,
        "INPUT_STRIDE": 1 if by_input else outputs,
        "OUTPUT_STRIDE": inputs if by_input else 1,
        "BIAS": bias,
        "BESIDE": beside,
        "ROWS": rows,
        "OUT": out,
        "IN": into,
        "PRECISION": precision,
    }
    run = Prepared(linear_fwd_kernel, constants, warps, num_stages=stages)
    return _Plan(run, table(_grades(sizes), device), rows, sum(sizes) * -(-outputs // out))


@functools.cache
def _backward(
    sizes: tuple[int, ...],
    inputs: int,
    outputs: int,
    bias: bool,
    fused: bool,
    beside: bool,
    precision: str,
    dtype: torch.dtype,
    device: torch.device,
) -> _Plan:
    exact = precision != "tf32"
    rows = 32 if exact else 64
    out, into = _tile(outputs), _tile(inputs)
    # a multiprocessor's programs: enough for all of them, each with many rows
    warps, stages, resident = 4, 2, 2
    if not fused:
        # the rows, over which it sums, are not side by side, which float32 needs as in a forward
        out, into, stages = min(out, 128 // dtype.itemsize), min(into, 128), 3
    elif max(out, into) <= 32:
        warps, resident = (1, 8) if exact else (4, 3)
    tiles = -(-outputs // out) * -(-inputs // into)
    parts = max(1, resident * multiprocessors(device) // (sum(sizes) * tiles))
    constants = {
        "BLADES": sum(sizes),
        "INPUTS": inputs,
        "OUTPUTS": outputs,
        "BIAS": bias,
        "GRAD_X": fused,
        "BESIDE": beside,
        "ROWS": rows,
        "OUT": out,
        "IN": into,
        "PRECISION": precision,
        "STAGES": stages,
    }
    run = Prepared(linear_bwd_kernel, constants, warps)
    return _Plan(run, table(_grades(sizes), device), rows, tiles, parts)


def _tile(channels: int) -> int:
    return max(16, power_of_two(channels))


@functools.cache
def _starts(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Where each grade starts along the blades, and where the last one ends."""
    return (0, *itertools.accumulate(sizes))


@functools.cache
def _grades(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Of each blade, the number of its grade among those held."""
    return tuple(grade for grade, size in enumerate(sizes) for _ in range(size))
