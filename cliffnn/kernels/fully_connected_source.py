"""A kernel printed for an algebra: the gradients of both factors of the fully connected product, from shared products.

Where the registers hold all blades of both factors and of their gradients, a blade of the result's gradient times the
matrix of a path is computed once, and goes to both. Accumulators need names, so the code is straight-line.
"""

from __future__ import annotations

import itertools

from cliffnn.algebra import Algebra

_HEADER = '''"""Gradients of both factors of the fully connected geometric product in {algebra}.

Written by cliffnn.
"""

import triton
import triton.language as tl

from cliffnn.kernels.device import normal_cdf, normal_pdf


'''

_BEFORE = """\
@triton.jit(do_not_specialize=["rows"])
def kernel(grad_ptr, x_ptr, y_ptr, weight_ptr, grad_x_ptr, grad_y_ptr, rows, INPUTS: tl.constexpr,
           OUTPUTS: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, GATE: tl.constexpr,
           PRECISION: tl.constexpr):
    columns: tl.constexpr = (INPUTS + IN - 1) // IN
    input = tl.program_id(0) % columns * IN + tl.arange(0, IN)
    first = (tl.program_id(0) // columns).to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)[:, None]
    valid = first + row < rows
    mask = valid & (input < INPUTS)[None, :]
    at = first * ({blades} * INPUTS) + row * ({blades} * INPUTS) + input[None, :]
"""

_LOOP = """\
    for start in range(0, OUTPUTS, OUT):
        output = start + tl.arange(0, OUT)
        known = output < OUTPUTS
        grad_at = first * ({blades} * OUTPUTS) + row * ({blades} * OUTPUTS) + output[None, :]
        grad_mask = valid & known[None, :]
        # the weight comes transposed, as tensor cores want a second factor
        weight_at = input[None, :] * OUTPUTS + output[:, None]
        weight_mask = known[:, None] & (input < INPUTS)[None, :]
"""


def factors_source(algebra: Algebra) -> str:
    """The source of the kernel, as a module."""
    blades = range(len(algebra))
    names = {factor: [f"{factor}{blade}" for blade in blades] for factor in "xy"}
    lines = []
    for factor in "xy":
        lines += [f"    {factor}{b} = {_load(factor, 'at', b, 'INPUTS', 'mask')}.to(tl.float32)" for b in blades]
    lines += [f"    grad_{name} = tl.zeros((ROWS, IN), tl.float32)" for factor in "xy" for name in names[factor]]
    lines += _LOOP.format(blades=len(algebra)).splitlines()
    lines += [f"        {line}" for line in _products(algebra)]
    lines.append("    if GATE:")
    lines += [f"        {line}" for line in _through_gates(names)]
    for factor in "xy":
        lines += [f"    tl.store(grad_{factor}_ptr + at + {b} * INPUTS, grad_{factor}{b}, mask)" for b in blades]
    before = _BEFORE.format(blades=len(algebra))
    return _HEADER.format(algebra=algebra.name) + before + "\n".join(lines) + "\n"


def _load(name: str, at: str, number: int, size: str, mask: str) -> str:
    return f"tl.load({name}_ptr + {at} + {number} * {size}, {mask}, 0.0)"


def _products(algebra: Algebra) -> list[str]:
    """Grade by grade of the result: a blade of its gradient is read once, the next matrix before it is needed."""
    terms: dict[tuple[int, int, int], dict[int, list[tuple[int, int, int]]]] = {path: {} for path in algebra.paths}
    grade = algebra.grade_of_blades
    for a, b, c, sign in algebra.products:
        terms[grade[a], grade[b], grade[c]].setdefault(c, []).append((a, b, sign))
    number = {path: index for index, path in enumerate(algebra.paths)}
    paths = sorted(algebra.paths, key=lambda path: path[2])
    matrices = [
        f"weight{n} = {_load('weight', 'weight_at', n, '(OUTPUTS * INPUTS)', 'weight_mask')}"
        for n in (number[path] for path in paths)
    ]
    lines = matrices[:1]
    for path, following in itertools.zip_longest(paths, matrices[1:]):
        new = [f"grad{c} = {_load('grad', 'grad_at', c, 'OUTPUTS', 'grad_mask')}" for c in terms[path]]
        lines += [line for line in new if line not in lines]
        lines += [following] if following else []
        # always; but within one block the compiler would put off all sums to its end, and spill what they are of
        lines.append(f"if rows != -{number[path] + 1}:")
        for c, of_blade in sorted(terms[path].items()):
            lines.append(f"    mixed = tl.dot(grad{c}, weight{number[path]}, input_precision=PRECISION)")
            for a, b, sign in of_blade:
                add = "+=" if sign > 0 else "-="
                lines += [f"    grad_x{a} {add} y{b} * mixed", f"    grad_y{b} {add} x{a} * mixed"]
    return lines


def _through_gates(names: dict[str, list[str]]) -> list[str]:
    """The other factor was gated, and so was the own one, by its scalar."""
    lines = [f"{factor}_gate = normal_cdf({factor}0)" for factor in "xy"]
    for factor, other in ("xy", "yx"):
        lines += [f"grad_{name} *= {other}_gate" for name in names[factor]]
        lines.append(f"slope = {' + '.join(f'{name} * grad_{name}' for name in names[factor])}")
        lines += [f"grad_{name} *= {factor}_gate" for name in names[factor]]
        lines.append(f"grad_{factor}0 += normal_pdf({factor}0) * slope")
    return lines
