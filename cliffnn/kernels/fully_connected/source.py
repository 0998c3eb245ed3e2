"""A kernel printed for a product: the gradients of both factors of the fully connected product, from shared products.

Where the registers hold all blades of both factors and of their gradients, a blade of the result's gradient times the
matrix of a path is computed once, and goes to both. Accumulators need names, so the code is straight-line. Matrices of
some paths lie side by side, so that tensor cores read a blade once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cliffnn.graded_product import GradedProduct

# Of how many paths the matrices lie side by side at most: 8 need more registers.
_SIDE_BY_SIDE = 4

_HEADER = '''"""Gradients of both factors of the fully connected geometric product {product}.

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
    first_input = tl.program_id(0) % columns * IN
    input = first_input + tl.arange(0, IN)
    first = (tl.program_id(0) // columns).to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)[:, None]
    valid = first + row < rows
    mask = valid & (input < INPUTS)[None, :]
    x_at = first * ({x} * INPUTS) + row * ({x} * INPUTS) + input[None, :]
    y_at = first * ({y} * INPUTS) + row * ({y} * INPUTS) + input[None, :]
"""

_LOOP = """\
    for start in range(0, OUTPUTS, OUT):
        output = start + tl.arange(0, OUT)
        known = output < OUTPUTS
        grad_at = first * ({out} * OUTPUTS) + row * ({out} * OUTPUTS) + output[None, :]
        grad_mask = valid & known[None, :]
"""


def factors_source(product: GradedProduct) -> str:
    """The source of the kernel, as a module."""
    x, y, out = product.sizes
    names = {factor: [f"{factor}{blade}" for blade in range(size)] for factor, size in (("x", x), ("y", y))}
    lines = []
    for factor, blades in names.items():
        for number, name in enumerate(blades):
            lines.append(f"    {name} = {_load(factor, f'{factor}_at', number, 'INPUTS', 'mask')}.to(tl.float32)")
    lines += [f"    grad_{name} = tl.zeros((ROWS, IN), tl.float32)" for blades in names.values() for name in blades]
    lines += _LOOP.format(out=out).splitlines()
    lines += [f"        {line}" for line in _products(product)]
    lines.append("    if GATE:")
    lines += [f"        {line}" for line in _through_gates(names)]
    for factor, blades in names.items():
        for number, name in enumerate(blades):
            lines.append(f"    tl.store(grad_{factor}_ptr + {factor}_at + {number} * INPUTS, grad_{name}, mask)")
    return _HEADER.format(product=product.text) + _BEFORE.format(x=x, y=y) + "\n".join(lines) + "\n"


def _load(name: str, at: str, number: int, size: str, mask: str) -> str:
    return f"tl.load({name}_ptr + {at} + {number} * {size}, {mask}, 0.0)"


def _products(product: GradedProduct) -> Iterator[str]:
    """Grade by grade of the result: the matrices of its paths are read once, and each blade of its gradient."""
    terms: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for path, a, b, c, sign in product.terms:
        terms.setdefault((path, c), []).append((a, b, sign))
    for grade, blades in product.out_slices.items():
        paths = [number for number, path in enumerate(product.paths) if path[2] == grade]
        if not paths:
            continue
        groups = [paths[first : first + _SIDE_BY_SIDE] for first in range(0, len(paths), _SIDE_BY_SIDE)]
        for index, group in enumerate(groups):
            yield from _matrices(f"weight{grade}_{index}", group)
        for c in range(blades.start, blades.stop):
            yield f"grad{c} = {_load('grad', 'grad_at', c, 'OUTPUTS', 'grad_mask')}"
            # always; but within one block the compiler would put off all sums to its end, and spill what they are of
            yield f"if rows != -{c + 1}:"
            for index, group in enumerate(groups):
                yield f"    mixed = tl.dot(grad{c}, weight{grade}_{index}, input_precision=PRECISION)"
                names = [f"mixed{n}" for n in range(_width(group))]
                yield from (f"    {line}" for line in _apart("mixed", names))
                for path, mixed in zip(group, names, strict=False):
                    for a, b, sign in terms.get((path, c), ()):
                        add = "+=" if sign > 0 else "-="
                        yield f"    grad_x{a} {add} y{b} * {mixed}"
                        yield f"    grad_y{b} {add} x{a} * {mixed}"


def _width(group: Sequence) -> int:
    """How many matrices lie side by side: a power of two."""
    return 1 << (len(group) - 1).bit_length()


def _matrices(name: str, numbers: Sequence[int]) -> Iterator[str]:
    """Lines that load matrices side by side, the last one again where there is none.

    They come transposed, as tensor cores want a second factor.
    """
    path = f"tl.full((), {numbers[-1]}, tl.int64)"
    for place in range(len(numbers) - 1, 0, -1):
        path = f"tl.where(side // IN < {place}, {numbers[place - 1]}, {path})"
    yield f"side = tl.arange(0, {_width(numbers)} * IN)"
    yield "own = first_input + side % IN"
    yield f"column_ptr = weight_ptr + {path} * (INPUTS * OUTPUTS) + own * OUTPUTS"
    yield "weight_mask = known[:, None] & (own < INPUTS)[None, :]"
    yield f"{name} = tl.load(column_ptr[None, :] + output[:, None], weight_mask, 0.0)"


def _apart(tile: str, names: Sequence[str]) -> Iterator[str]:
    """Lines that take what lies side by side apart; to tensor cores these are other registers, so nothing moves."""
    if len(names) == 1:
        yield f"{names[0]} = {tile}"
        return
    halves = f"tl.permute(tl.reshape({tile}, (ROWS, 2, {len(names) // 2} * IN)), (0, 2, 1))"
    if len(names) == 2:
        yield f"{names[0]}, {names[1]} = tl.split({halves})"
        return
    middle = len(names) // 2
    yield f"{tile}_low, {tile}_high = tl.split({halves})"
    yield from _apart(f"{tile}_low", names[:middle])
    yield from _apart(f"{tile}_high", names[middle:])


def _through_gates(names: dict[str, list[str]]) -> list[str]:
    """The other factor was gated, and so was the own one, by its scalar."""
    lines = [f"{factor}_gate = normal_cdf({factor}0)" for factor in "xy"]
    for factor, other in ("xy", "yx"):
        lines += [f"grad_{name} *= {other}_gate" for name in names[factor]]
        lines.append(f"slope = {' + '.join(f'{name} * grad_{name}' for name in names[factor])}")
        lines += [f"grad_{name} *= {factor}_gate" for name in names[factor]]
        lines.append(f"grad_{factor}0 += normal_pdf({factor}0) * slope")
    return lines
