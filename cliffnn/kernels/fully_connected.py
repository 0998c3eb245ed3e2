"""The fully connected geometric product on tensor cores: products of paths are formed on chip, never written.

What is computed is a product of matrices for each path and blade, one of which is formed from pairs of blades while it
is read; which pairs, tables say. So the same kernels, and few instructions, serve every algebra. Where the registers
hold all blades, kernels without tables, printed for the algebra (`cliffnn.kernels.fully_connected_source`), share what
they read.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from cliffnn import cache
from cliffnn.algebra import Algebra
from cliffnn.codegen import file_name
from cliffnn.kernels.device import normal_cdf
from cliffnn.kernels.fully_connected_source import factors_source
from cliffnn.kernels.fully_connected_tables import device_tables
from cliffnn.kernels.linear import dot_precision
from cliffnn.kernels.plan import power_of_two
from cliffnn.kernels.prepared import Prepared, multiprocessors, shared_memory
from cliffnn.kernels.sums import sums


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
    columns = _tile(outputs, 256 if _rounds(itemsize, precision) else 128)
    return Tiles(64, columns, _tile(inputs, 128 // itemsize), 8 if columns > 64 else 4)


def factor_tiles(inputs: int, outputs: int, itemsize: int) -> Tiles:
    columns = _tile(inputs, 64)
    return Tiles(64, _tile(outputs, 256 // itemsize), columns, 8 if columns > 32 else 4)


def factors_tiles(blades: int, inputs: int, outputs: int, precision: str, shared: int) -> Tiles:
    """As many channels as there are registers for all blades of the factors and of their gradients.

    Of the result's gradient, a grade of which is in ``shared`` memory, as many as that holds: 3 blades of 128 channels
    and two matrices take 108 KiB.
    """
    # numbers that are split in parts are so in registers
    widest = 32 if precision == "tf32x3" else 128 if shared >= 128 * 1024 else 64
    return Tiles(64, _tile(outputs, widest), min(max(8, power_of_two(inputs)), 64 // blades), 4)


def weight_tiles(inputs: int, outputs: int, itemsize: int, precision: str) -> Tiles:
    if min(inputs, outputs) > 128 and _rounds(itemsize, precision):
        return Tiles(32, 256, 128, 8)
    out, into = _tile(outputs, 128), _tile(inputs, 128)
    size = out * into
    return Tiles(64, out, into, 8 if size > 4096 else 4, 2 if size > 4096 else 3 if size > 1024 else 5)


def _rounds(itemsize: int, precision: str) -> bool:
    """Whether float32 is multiplied as TF32: then wider tiles, which nothing else was measured with, fit."""
    return itemsize == 4 and precision == "tf32"


def _tile(channels: int, most: int) -> int:
    return min(max(16, power_of_two(channels)), most)


@triton.jit
def product_of(x_ptr, y_ptr, terms_ptr, first_term, terms, at, mask, STRIDE: tl.constexpr):
    """A blade's products of one path: a signed sum over the pairs of blades in its table."""
    total = tl.zeros(mask.shape, tl.float32)
    for term in range(first_term, first_term + terms):
        code = tl.load(terms_ptr + term)
        sign = ((code >> 16) - 1).to(tl.float32)
        x = tl.load(x_ptr + at + (code & 255) * STRIDE, mask, 0.0).to(tl.float32)
        y = tl.load(y_ptr + at + (code >> 8 & 255) * STRIDE, mask, 0.0).to(tl.float32)
        total += sign * x * y
    return total


@triton.jit
def gate(x_ptr, at, mask):
    """What `gelu` multiplies the blades of a multivector with."""
    return normal_cdf(tl.load(x_ptr + at, mask, 0.0).to(tl.float32))


@triton.jit(do_not_specialize=["rows"])
def fully_connected_fwd_kernel(
    x_ptr,
    y_ptr,
    weight_ptr,
    out_ptr,
    groups_ptr,
    entries_ptr,
    terms_ptr,
    rows,
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
    group = tl.program_id(0) // columns % BLADES
    blade = tl.load(groups_ptr + 3 * group)
    first = (tl.program_id(0) // (columns * BLADES)).to(tl.int64) * ROWS
    output = tl.program_id(0) % columns * OUT + tl.arange(0, OUT)
    row = tl.arange(0, ROWS)[:, None]
    valid = first + row < rows
    exists = (output < OUTPUTS)[None, :]
    x_ptr += first * (BLADES * INPUTS)
    y_ptr += first * (BLADES * INPUTS)
    total = tl.zeros((ROWS, OUT), tl.float32)
    for start in range(0, INPUTS, IN):
        input = start + tl.arange(0, IN)
        known = input < INPUTS
        at = row * (BLADES * INPUTS) + input[None, :]
        mask = valid & known[None, :]
        if GATE:
            # one for all products
            gates = gate(x_ptr, at, mask) * gate(y_ptr, at, mask)
        for entry in range(tl.load(groups_ptr + 3 * group + 1), tl.load(groups_ptr + 3 * group + 2)):
            path = tl.load(entries_ptr + 4 * entry).to(tl.int64)
            weight_at = output[None, :] * INPUTS + input[:, None]
            weight = tl.load(weight_ptr + path * (OUTPUTS * INPUTS) + weight_at, exists & known[:, None], 0.0)
            first_term = tl.load(entries_ptr + 4 * entry + 2)
            terms = tl.load(entries_ptr + 4 * entry + 3)
            product = product_of(x_ptr, y_ptr, terms_ptr, first_term, terms, at, mask, INPUTS)
            if GATE:
                product *= gates
            total = tl.dot(product.to(weight.dtype), weight, total, input_precision=PRECISION)
    out_at = (row * BLADES + blade) * OUTPUTS + output[None, :]
    tl.store(out_ptr + first * (BLADES * OUTPUTS) + out_at, total, valid & exists)


@triton.jit(do_not_specialize=["rows"])
def fully_connected_factor_kernel(
    grad_ptr,
    other_ptr,
    weight_ptr,
    result_ptr,
    groups_ptr,
    entries_ptr,
    terms_ptr,
    rows,
    BLADES: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Multiply blades of the gradient with the matrices of their paths, and these with blades of the other factor."""
    columns: tl.constexpr = (INPUTS + IN - 1) // IN
    group = tl.program_id(0) // columns % BLADES
    blade = tl.load(groups_ptr + 3 * group)
    first = (tl.program_id(0) // (columns * BLADES)).to(tl.int64) * ROWS
    input = tl.program_id(0) % columns * IN + tl.arange(0, IN)
    row = tl.arange(0, ROWS)[:, None]
    valid = first + row < rows
    exists = (input < INPUTS)[None, :]
    grad_ptr += first * (BLADES * OUTPUTS)
    other_ptr += first * (BLADES * INPUTS)
    at = row * (BLADES * INPUTS) + input[None, :]
    total = tl.zeros((ROWS, IN), tl.float32)
    for entry in range(tl.load(groups_ptr + 3 * group + 1), tl.load(groups_ptr + 3 * group + 2)):
        path = tl.load(entries_ptr + 4 * entry).to(tl.int64)
        first_term = tl.load(entries_ptr + 4 * entry + 2)
        terms = tl.load(entries_ptr + 4 * entry + 3)
        for start in range(0, OUTPUTS, OUT):
            output = start + tl.arange(0, OUT)
            known = output < OUTPUTS
            # the weight comes transposed, as tensor cores want a second factor
            weight_at = input[None, :] * OUTPUTS + output[:, None]
            weight = tl.load(weight_ptr + path * (OUTPUTS * INPUTS) + weight_at, exists & known[:, None], 0.0)
            grad_at = row * (BLADES * OUTPUTS) + output[None, :]
            for term in range(first_term, first_term + terms):
                code = tl.load(terms_ptr + term)
                sign = ((code >> 16) - 1).to(tl.float32)
                grad = tl.load(grad_ptr + grad_at + (code & 255) * OUTPUTS, valid & known[None, :], 0.0)
                other = tl.load(other_ptr + at + (code >> 8 & 255) * INPUTS, valid & exists, 0.0).to(tl.float32)
                total += sign * other * tl.dot(grad, weight, input_precision=PRECISION)
    tl.store(result_ptr + first * (BLADES * INPUTS) + at + blade * INPUTS, total, valid & exists)


@triton.jit(do_not_specialize=["rows"])
def fully_connected_weight_kernel(
    grad_ptr,
    x_ptr,
    y_ptr,
    partial_ptr,
    groups_ptr,
    entries_ptr,
    terms_ptr,
    rows,
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

    A tile is (ROWS, channels / GRAIN, GRAIN): so a warp holds several rows, and is hindered less where it stores the
    channels of a row one below the other, as tensor cores want them.
    """
    columns: tl.constexpr = (INPUTS + IN - 1) // IN
    first_output = tl.program_id(2) // columns * OUT
    first_input = tl.program_id(2) % columns * IN
    inner = tl.arange(0, GRAIN)[None, None, :]
    output = first_output + tl.arange(0, OUT // GRAIN)[None, :, None] * GRAIN + inner
    input = first_input + tl.arange(0, IN // GRAIN)[None, :, None] * GRAIN + inner
    row = tl.arange(0, ROWS)[:, None, None]
    at = row * (BLADES * INPUTS) + input
    grad_at = row * (BLADES * OUTPUTS) + output
    path = tl.load(groups_ptr + 3 * tl.program_id(1))
    first_entry = tl.load(groups_ptr + 3 * tl.program_id(1) + 1)
    end_entry = tl.load(groups_ptr + 3 * tl.program_id(1) + 2)
    total = tl.zeros((OUT, IN), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        # under the interpreter a loop variable is a plain int, which has no method to widen it
        first = tl.full((), ROWS, tl.int64) * tile
        valid = first + row < rows
        mask = valid & (input < INPUTS)
        grad = grad_ptr + first * (BLADES * OUTPUTS)
        x = x_ptr + first * (BLADES * INPUTS)
        y = y_ptr + first * (BLADES * INPUTS)
        if GATE:
            gates = gate(x, at, mask) * gate(y, at, mask)
        for entry in range(first_entry, end_entry):
            blade = tl.load(entries_ptr + 4 * entry + 1)
            first_term = tl.load(entries_ptr + 4 * entry + 2)
            terms = tl.load(entries_ptr + 4 * entry + 3)
            of_blade = tl.load(grad + grad_at + blade * OUTPUTS, valid & (output < OUTPUTS), 0.0)
            product = product_of(x, y, terms_ptr, first_term, terms, at, mask, INPUTS)
            if GATE:
                product *= gates
            left = tl.trans(tl.reshape(of_blade, (ROWS, OUT)))
            right = tl.reshape(product.to(of_blade.dtype), (ROWS, IN))
            total = tl.dot(left, right, total, input_precision=PRECISION)
    output = first_output + tl.arange(0, OUT)
    input = first_input + tl.arange(0, IN)
    part = path.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    address = (part * OUTPUTS + output)[:, None] * INPUTS + input[None, :]
    tl.store(partial_ptr + address, total, (output < OUTPUTS)[:, None] & (input < INPUTS)[None, :])


def fully_connected(
    x: Tensor, y: Tensor, weight: Tensor, algebra: Algebra, gate: bool, tiles: Tiles | None = None
) -> Tensor:
    """See `cliffnn.fully_connected.fully_connected`."""
    rows, blades, inputs = x.shape
    outputs = weight.shape[1]
    out = x.new_empty(rows, blades, outputs)
    if rows == 0:
        return out
    tiles = tiles or forward_tiles(inputs, outputs, x.itemsize, dot_precision(x))
    run = _prepared(fully_connected_fwd_kernel, algebra, inputs, outputs, tiles, gate, dot_precision(x))
    grid = (-(-rows // tiles.rows) * blades * -(-outputs // tiles.outputs), 1, 1)
    run(grid, (x, y, weight, out, *device_tables(algebra, "out", x.device)), rows)
    return out


def fully_connected_factor(
    grad: Tensor, other: Tensor, weight: Tensor, algebra: Algebra, left: bool, tiles: Tiles | None = None
) -> Tensor:
    """See `cliffnn.fully_connected.fully_connected_factor`."""
    rows, blades, inputs = other.shape
    outputs = grad.shape[-1]
    result = torch.empty_like(other)
    if rows == 0:
        return result
    tiles = tiles or factor_tiles(inputs, outputs, other.itemsize)
    run = _prepared(fully_connected_factor_kernel, algebra, inputs, outputs, tiles, False, dot_precision(grad))
    grid = (-(-rows // tiles.rows) * blades * -(-inputs // tiles.inputs), 1, 1)
    tables = device_tables(algebra, "x" if left else "y", grad.device)
    run(grid, (grad, other, weight.mT.contiguous(), result, *tables), rows)
    return result


def shares_products(algebra: Algebra) -> bool:
    """Whether `fully_connected_factors` is for this algebra: 8 channels of all its blades must fit the registers."""
    return len(algebra) <= 8


def fully_connected_factors(
    grad: Tensor, x: Tensor, y: Tensor, weight: Tensor, algebra: Algebra, gate: bool, tiles: Tiles | None = None
) -> tuple[Tensor, Tensor]:
    """See `cliffnn.fully_connected.fully_connected_factors`."""
    rows, blades, inputs = x.shape
    outputs = grad.shape[-1]
    results = torch.empty_like(x), torch.empty_like(y)
    if rows:
        precision = dot_precision(grad)
        tiles = tiles or factors_tiles(blades, inputs, outputs, precision, shared_memory(grad.device))
        run = _prepared(_factors_kernel(algebra), algebra, inputs, outputs, tiles, gate, precision)
        grid = (-(-rows // tiles.rows) * -(-inputs // tiles.inputs), 1, 1)
        run(grid, (grad, x, y, weight.mT.contiguous(), *results), rows)
    return results


def fully_connected_weight(
    grad: Tensor, x: Tensor, y: Tensor, algebra: Algebra, gate: bool, tiles: Tiles | None = None
) -> Tensor:
    """See `cliffnn.fully_connected.fully_connected_weight`."""
    rows, _, inputs = x.shape
    outputs, paths = grad.shape[-1], len(algebra.paths)
    result = x.new_empty(paths, outputs, inputs)
    if rows == 0:
        return result.zero_()
    tiles = tiles or weight_tiles(inputs, outputs, x.itemsize, dot_precision(x))
    run = _prepared(fully_connected_weight_kernel, algebra, inputs, outputs, tiles, gate, dot_precision(x))
    of_matrix = -(-outputs // tiles.outputs) * -(-inputs // tiles.inputs)
    # enough for every multiprocessor, each with many rows
    parts = min(-(-rows // tiles.rows), tiles.resident * multiprocessors(x.device) // (paths * of_matrix))
    partial = x.new_empty(paths, max(1, parts), outputs * inputs, dtype=torch.float32)
    run((max(1, parts), paths, of_matrix), (grad, x, y, partial, *device_tables(algebra, "path", x.device)), rows)
    sums(partial, tuple(range(paths + 1)), [result])
    return result


@functools.cache
def _factors_kernel(algebra: Algebra):
    return cache.load(file_name("fully connected factors", algebra.name), lambda: factors_source(algebra)).kernel


@functools.cache
def _prepared(
    function, algebra: Algebra, inputs: int, outputs: int, tiles: Tiles, gate: bool, precision: str
) -> Prepared:
    constants = {
        "BLADES": len(algebra),
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
