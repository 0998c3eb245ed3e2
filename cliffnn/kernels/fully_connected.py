"""The fully connected geometric product on tensor cores: products of paths are formed on chip, never written.

The blades of a grade of many rows, one after the other, are the rows of a matrix. What is computed is a product of
matrices for each grade, one of which is formed from pairs of blades while it is read; which pairs, tables say. So the
same kernels, and few instructions, serve every algebra.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from itertools import chain

import torch
import triton
import triton.language as tl
from torch import Tensor

from cliffnn.algebra import Algebra
from cliffnn.kernels.device import normal_cdf
from cliffnn.kernels.linear import dot_precision
from cliffnn.kernels.plan import power_of_two
from cliffnn.kernels.prepared import Prepared, multiprocessors
from cliffnn.kernels.sums import sums
from cliffnn.kernels.tables import table


@dataclass(frozen=True)
class Tiles:
    """Tiles of a kernel.

    Attributes
    ----------
    rows : int
        Of a matrix: so many blades of a grade.
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


def forward_tiles(inputs: int, outputs: int, itemsize: int) -> Tiles:
    columns = _tile(outputs, 128)
    return Tiles(64, columns, _tile(inputs, 128 // itemsize), 8 if columns > 64 else 4)


def factor_tiles(inputs: int, outputs: int, itemsize: int) -> Tiles:
    columns = _tile(inputs, 64)
    return Tiles(64, _tile(outputs, 256 // itemsize), columns, 8 if columns > 32 else 4)


def weight_tiles(inputs: int, outputs: int, itemsize: int) -> Tiles:
    # more than registers hold at a time: paths differ in work, and whoever is done first takes another
    tiles = Tiles(128 // itemsize, _tile(outputs, 64), _tile(inputs, 64), 4, resident=8)
    return replace(tiles, resident=16) if tiles.outputs * tiles.inputs <= 1024 else tiles


def _tile(channels: int, most: int) -> int:
    return min(max(16, power_of_two(channels)), most)


@triton.jit
def blade_rows(grades_ptr, blade, ROWS: tl.constexpr):
    """Of so many rows, a share of the blades of a grade: as many shares as the grade has blades.

    Gives their grade's first blade and number of blades, its first and last path, and for each the row and the blade.
    """
    start = tl.load(grades_ptr + 4 * blade)
    size = tl.load(grades_ptr + 4 * blade + 1)
    first_path = tl.load(grades_ptr + 4 * blade + 2)
    end_path = tl.load(grades_ptr + 4 * blade + 3)
    local = (blade - start) * ROWS + tl.arange(0, ROWS)
    return start, size, first_path, end_path, local // size, local % size


@triton.jit
def products(x_ptr, y_ptr, terms_ptr, first_term, terms, size, row, blade, offset, mask, STRIDE: tl.constexpr):
    """The products of a path: for each row and blade, a signed sum over the pairs of blades in its table."""
    total = tl.zeros(mask.shape, tl.float32)
    for term in range(terms):
        code = tl.load(terms_ptr + first_term + term * size + blade)
        sign = ((code >> 16) - 1).to(tl.float32)
        x = tl.load(x_ptr + (row + (code & 255) * STRIDE)[:, None] + offset, mask, 0.0).to(tl.float32)
        y = tl.load(y_ptr + (row + (code >> 8 & 255) * STRIDE)[:, None] + offset, mask, 0.0).to(tl.float32)
        total += sign[:, None] * x * y
    return total


@triton.jit
def gate(x_ptr, row, offset, mask):
    """What `gelu` multiplies the blades of a multivector with."""
    return normal_cdf(tl.load(x_ptr + row[:, None] + offset, mask, 0.0).to(tl.float32))


@triton.jit(do_not_specialize=["rows"])
def fully_connected_fwd_kernel(
    x_ptr,
    y_ptr,
    weight_ptr,
    out_ptr,
    grades_ptr,
    paths_ptr,
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
    """Multiply the products of each path with its matrix, and add them up over the paths to a grade."""
    columns: tl.constexpr = (OUTPUTS + OUT - 1) // OUT
    # all that reads the same rows is near in time
    blade = tl.program_id(0) // columns % BLADES
    first = (tl.program_id(0) // (columns * BLADES)).to(tl.int64) * ROWS
    start, size, first_path, end_path, row, of_grade = blade_rows(grades_ptr, blade, ROWS)
    output = tl.program_id(0) % columns * OUT + tl.arange(0, OUT)
    valid = (first + row < rows)[:, None]
    exists = (output < OUTPUTS)[None, :]
    x_ptr += first * (BLADES * INPUTS)
    y_ptr += first * (BLADES * INPUTS)
    x_row = row * (BLADES * INPUTS)
    total = tl.zeros((ROWS, OUT), tl.float32)
    for start_input in range(0, INPUTS, IN):
        input = start_input + tl.arange(0, IN)
        known = input < INPUTS
        mask = valid & known[None, :]
        if GATE:
            # one for all products
            gates = gate(x_ptr, x_row, input[None, :], mask) * gate(y_ptr, x_row, input[None, :], mask)
        for index in range(first_path, end_path):
            path = tl.load(paths_ptr + 5 * index).to(tl.int64)
            weight_at = output[None, :] * INPUTS + input[:, None]
            weight = tl.load(weight_ptr + path * (OUTPUTS * INPUTS) + weight_at, exists & known[:, None], 0.0)
            first_term = tl.load(paths_ptr + 5 * index + 3)
            terms = tl.load(paths_ptr + 5 * index + 4)
            product = products(
                x_ptr, y_ptr, terms_ptr, first_term, terms, size, x_row, of_grade, input[None, :], mask, INPUTS
            )
            if GATE:
                product *= gates
            total = tl.dot(product.to(weight.dtype), weight, total, input_precision=PRECISION)
    out_at = (row * BLADES + start + of_grade) * OUTPUTS
    tl.store(out_ptr + first * (BLADES * OUTPUTS) + out_at[:, None] + output[None, :], total, valid & exists)


@triton.jit(do_not_specialize=["rows"])
def fully_connected_factor_kernel(
    grad_ptr,
    other_ptr,
    weight_ptr,
    result_ptr,
    grades_ptr,
    paths_ptr,
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
    """Multiply blades of the gradient with the matrices of their paths, and these with blades of the other factor."""
    columns: tl.constexpr = (INPUTS + IN - 1) // IN
    blade = tl.program_id(0) // columns % BLADES
    first = (tl.program_id(0) // (columns * BLADES)).to(tl.int64) * ROWS
    start, size, first_path, end_path, row, of_grade = blade_rows(grades_ptr, blade, ROWS)
    input = tl.program_id(0) % columns * IN + tl.arange(0, IN)
    valid = (first + row < rows)[:, None]
    exists = (input < INPUTS)[None, :]
    grad_ptr += first * (BLADES * OUTPUTS)
    other_ptr += first * (BLADES * INPUTS)
    if GATE:
        gates = gate(other_ptr, row * (BLADES * INPUTS), input[None, :], valid & exists)
    total = tl.zeros((ROWS, IN), tl.float32)
    for index in range(first_path, end_path):
        path = tl.load(paths_ptr + 5 * index).to(tl.int64)
        first_term = tl.load(paths_ptr + 5 * index + 3)
        terms = tl.load(paths_ptr + 5 * index + 4)
        for start_output in range(0, OUTPUTS, OUT):
            output = start_output + tl.arange(0, OUT)
            known = output < OUTPUTS
            # the weight comes transposed, as tensor cores want a second factor
            weight_at = input[None, :] * OUTPUTS + output[:, None]
            weight = tl.load(weight_ptr + path * (OUTPUTS * INPUTS) + weight_at, exists & known[:, None], 0.0)
            for term in range(terms):
                code = tl.load(terms_ptr + first_term + term * size + of_grade)
                grad_at = (row * BLADES + (code & 255)) * OUTPUTS
                grad = tl.load(grad_ptr + grad_at[:, None] + output[None, :], valid & known[None, :], 0.0)
                other_at = (row * BLADES + (code >> 8 & 255)) * INPUTS
                other = tl.load(other_ptr + other_at[:, None] + input[None, :], valid & exists, 0.0).to(tl.float32)
                mixed = tl.dot(grad, weight, input_precision=PRECISION)
                total += ((code >> 16) - 1).to(tl.float32)[:, None] * other * mixed
    if GATE:
        total *= gates
    result_at = (row * BLADES + start + of_grade) * INPUTS
    tl.store(result_ptr + first * (BLADES * INPUTS) + result_at[:, None] + input[None, :], total, valid & exists)


@triton.jit(do_not_specialize=["rows"])
def fully_connected_weight_kernel(
    grad_ptr,
    x_ptr,
    y_ptr,
    partial_ptr,
    grades_ptr,
    paths_ptr,
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
    """Sum over some rows the gradient times the products of one path, for the gradient of its matrix."""
    columns: tl.constexpr = (INPUTS + IN - 1) // IN
    output = tl.program_id(2) // columns * OUT + tl.arange(0, OUT)
    input = tl.program_id(2) % columns * IN + tl.arange(0, IN)
    path = tl.load(paths_ptr + 5 * tl.program_id(1))
    start = tl.load(paths_ptr + 5 * tl.program_id(1) + 1)
    size = tl.load(paths_ptr + 5 * tl.program_id(1) + 2)
    first_term = tl.load(paths_ptr + 5 * tl.program_id(1) + 3)
    terms = tl.load(paths_ptr + 5 * tl.program_id(1) + 4)
    total = tl.zeros((OUT, IN), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS) * size, tl.num_programs(0)):
        # under the interpreter a loop variable is a plain int, which has no method to widen it
        first = tl.full((), ROWS, tl.int64) * (tile // size)
        local = tile % size * ROWS + tl.arange(0, ROWS)
        row = local // size
        of_grade = local % size
        valid = first + row < rows
        grad = grad_ptr + first * (BLADES * OUTPUTS)
        grad_at = ((row * BLADES + start + of_grade) * OUTPUTS)[None, :] + output[:, None]
        grad = tl.load(grad + grad_at, valid[None, :] & (output < OUTPUTS)[:, None], 0.0)
        x = x_ptr + first * (BLADES * INPUTS)
        y = y_ptr + first * (BLADES * INPUTS)
        row *= BLADES * INPUTS
        mask = valid[:, None] & (input < INPUTS)[None, :]
        product = products(x, y, terms_ptr, first_term, terms, size, row, of_grade, input[None, :], mask, INPUTS)
        if GATE:
            product *= gate(x, row, input[None, :], mask) * gate(y, row, input[None, :], mask)
        total = tl.dot(grad, product.to(grad.dtype), total, input_precision=PRECISION)
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
    tiles = tiles or forward_tiles(inputs, outputs, x.itemsize)
    run = _prepared(fully_connected_fwd_kernel, algebra, inputs, outputs, tiles, gate, dot_precision(x))
    grid = (-(-rows // tiles.rows) * blades * -(-outputs // tiles.outputs), 1, 1)
    run(grid, (x, y, weight, out, *_tables(algebra, "out", x.device)), rows)
    return out


def fully_connected_factor(
    grad: Tensor, other: Tensor, weight: Tensor, algebra: Algebra, left: bool, gate: bool, tiles: Tiles | None = None
) -> Tensor:
    """See `cliffnn.fully_connected.fully_connected_factor`."""
    rows, blades, inputs = other.shape
    outputs = grad.shape[-1]
    result = torch.empty_like(other)
    if rows == 0:
        return result
    tiles = tiles or factor_tiles(inputs, outputs, other.itemsize)
    run = _prepared(fully_connected_factor_kernel, algebra, inputs, outputs, tiles, gate, dot_precision(grad))
    grid = (-(-rows // tiles.rows) * blades * -(-inputs // tiles.inputs), 1, 1)
    tables = _tables(algebra, "x" if left else "y", grad.device)
    run(grid, (grad, other, weight.mT.contiguous(), result, *tables), rows)
    return result


def fully_connected_weight(
    grad: Tensor, x: Tensor, y: Tensor, algebra: Algebra, gate: bool, tiles: Tiles | None = None
) -> Tensor:
    """See `cliffnn.fully_connected.fully_connected_weight`."""
    rows, _, inputs = x.shape
    outputs, paths = grad.shape[-1], len(algebra.paths)
    result = x.new_empty(paths, outputs, inputs)
    if rows == 0:
        return result.zero_()
    tiles = tiles or weight_tiles(inputs, outputs, x.itemsize)
    run = _prepared(fully_connected_weight_kernel, algebra, inputs, outputs, tiles, gate, dot_precision(x))
    of_matrix = -(-outputs // tiles.outputs) * -(-inputs // tiles.inputs)
    # enough for every multiprocessor, each with many rows
    parts = min(-(-rows // tiles.rows), tiles.resident * multiprocessors(x.device) // (paths * of_matrix))
    partial = x.new_empty(paths, max(1, parts), outputs * inputs, dtype=torch.float32)
    run((max(1, parts), paths, of_matrix), (grad, x, y, partial, *_tables(algebra, "out", x.device)), rows)
    sums(partial, tuple(range(paths + 1)), [result])
    return result


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
        "GATE": gate,
        "PRECISION": precision,
    }
    constants = {name: constants[name] for name in function.arg_names if name in constants}
    return Prepared(function, constants, tiles.warps, num_stages=1)


def tables(algebra: Algebra, wanted: str) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """What the kernels read of the algebra's products, to compute one of the three multivectors ``x y = out``.

    Returns
    -------
    grades
        For each blade of the wanted one its grade's first blade and number of blades, and where among the paths those
        of the grade begin and end.
    paths
        Ordered by grade of the wanted one: the number of the path, the first blade and the number of blades of the
        grade, where its terms begin, and how many there are for each blade.
    terms
        By path, then term, then blade of the grade: the blades of the two others (of the result and the other factor,
        if one of the factors is wanted) and the sign, as ``first + 256 * second + 65536 * (sign + 1)``. Where a blade
        has fewer terms than others, the sign is zero.
    """
    order = {"out": (2, 0, 1), "x": (0, 2, 1), "y": (1, 2, 0)}[wanted]
    grade = algebra.grade_of_blades
    number = {path: index for index, path in enumerate(algebra.paths)}
    found: dict[tuple[int, int], list[int]] = {}
    for *blades, sign in algebra.products:
        path = number[grade[blades[0]], grade[blades[1]], grade[blades[2]]]
        result, first, second = (blades[n] for n in order)
        found.setdefault((path, result), []).append(first + 256 * second + 65536 * (sign + 1))
    grades: list[list[int]] = []
    paths: list[list[int]] = []
    terms: list[int] = []
    absent = 65536
    for k, blades_of_grade in enumerate(algebra.grade_slices):
        start, size = blades_of_grade.start, algebra.grade_sizes[k]
        begin = len(paths)
        for path, triple in enumerate(algebra.paths):
            if triple[order[0]] == k:
                of_blades = [found.get((path, start + n), []) for n in range(size)]
                count = max(map(len, of_blades))
                paths.append([path, start, size, len(terms), count])
                terms += [codes[t] if t < len(codes) else absent for t in range(count) for codes in of_blades]
        grades += [[start, size, begin, len(paths)]] * size
    return grades, paths, terms


@functools.cache
def _tables(algebra: Algebra, wanted: str, device: torch.device) -> tuple[Tensor, ...]:
    grades, paths, terms = tables(algebra, wanted)
    return tuple(table(tuple(values), device) for values in (chain(*grades), chain(*paths), terms))
