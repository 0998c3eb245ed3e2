"""The fully connected geometric product from products of each path that are written to memory, some rows at a time.

What is formed of pairs of blades, and the gradients with respect to these, are generated like all else; the rest are
products of matrices, one for each path. For a CPU, for float64, for matrices so wide that reading such products costs
less than forming them anew for each tile, and for gradients of factors where no kernel holds all their blades.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cliffnn.algebra import Algebra
from cliffnn.checks import without_autocast
from cliffnn.families import family, text_of
from cliffnn.graded_product import GradedProduct
from cliffnn.operation import operation
from cliffnn.ops import evaluate, evaluate_into, transformed

# Bytes of the products of all paths that are formed at a time. On a GPU so many blades of these, whatever they hold,
# that it is full, and so many bytes that launches are few.
_ON_CPU, _ON_GPU, _BLADES_ON_GPU = 2**23, 2**26, 2**18


@family
def path_products(algebra: Algebra, gate: int, *held: int) -> Callable:
    """Of each path (i, j, k) the products <<x>_i <y>_j>_k, of `gelu` of both if ``gate`` is 1.

    ``held`` are the grades of x, y and the result, a bit for each.
    """
    grades = [tuple(k for k in algebra.grades if bits >> k & 1) for bits in held]

    def products(x, y):
        """<<x>_i <y>_j>_k for each path (i, j, k)"""
        if gate:
            x, y = (factor * factor.grade(0).map(lambda number: number.normal_cdf()) for factor in (x, y))
        return tuple((x.grade(i) * y.grade(j)).grade(k) for i, j, k in algebra.paths_between(*grades))

    products.__annotations__ = dict(zip("xy", grades[:2], strict=True))
    return products


def multiply(x: Tensor, y: Tensor, weight: Tensor, product: GradedProduct, gate: bool = False) -> Tensor:
    """See `cliffnn.fully_connected.fully_connected`; differentiable where torch's own functions are."""

    def run(x: Tensor, y: Tensor) -> Tensor:
        results: dict[int, Tensor] = {}
        products = evaluate(_text(product, gate), product.algebra, [x, y])
        for (*_, k), matrix, of_path in zip(product.paths, weight, products, strict=True):
            flat, so_far = of_path.flatten(0, 1), results.get(k)
            # in place, unless a transform differentiates this: it would need the sums before
            out = None if transformed() else so_far
            results[k] = flat @ matrix.mT if so_far is None else torch.addmm(so_far, flat, matrix.mT, out=out)
        rows, outputs, sizes = x.shape[0], weight.shape[1], product.algebra.grade_sizes
        of_grades = [
            results[k].view(rows, sizes[k], outputs) if k in results else x.new_zeros(rows, sizes[k], outputs)
            for k in product.out
        ]
        return torch.cat(of_grades, 1)

    return _joined(_in_chunks(run, product, x, y))


def factors(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    product: GradedProduct,
    gate: bool = False,
    wrt: tuple[str, ...] = ("x", "y"),
) -> list[Tensor]:
    """The gradients of `multiply` with respect to ``"x"``, ``"y"``, or both; ungated, of one only the other is read."""
    own = {"x": x.contiguous(), "y": y.contiguous()}
    grad, results = grad.contiguous(), [torch.empty_like(own[name]) for name in wrt]
    rows = _rows_at_once(product, grad, x)
    mix = _mixing(weight, product, min(rows, len(grad)))
    gradients = _gradients(product, gate, wrt)
    with without_autocast(grad.device.type):
        for first in range(0, len(grad), rows):
            some = slice(first, first + rows)
            inputs = [own["x"][some], own["y"][some], *mix(grad[some])]
            evaluate_into([result[some] for result in results], gradients, product.algebra, inputs)
    return results


def weights(grad: Tensor, x: Tensor, y: Tensor, product: GradedProduct, gate: bool = False) -> Tensor:
    """The gradient of `multiply` with respect to the weight."""

    def run(grad: Tensor, x: Tensor, y: Tensor) -> Tensor:
        by_grade = _by_grade(grad, product)
        pairs = zip(product.paths, evaluate(_text(product, gate), product.algebra, [x, y]), strict=True)
        return torch.stack([by_grade[k].mT @ of_path.flatten(0, 1) for (*_, k), of_path in pairs])

    return functools.reduce(torch.add, _in_chunks(run, product, grad, x, y))


def _text(product: GradedProduct, gate: bool) -> str:
    held = [sum(1 << k for k in grades) for grades in (product.x, product.y, product.out)]
    return text_of("path_products", product.algebra.name, (int(gate), *held))


@functools.cache
def _gradients(product: GradedProduct, gate: bool, wrt: tuple[str, ...]) -> str:
    products = operation(_text(product, gate), product.algebra.name)
    return products.vjp(products.outputs, wrt).text


def _mixing(weight: Tensor, product: GradedProduct, rows: int) -> Callable[[Tensor], Sequence[Tensor]]:
    """What multiplies each grade of so many rows of a gradient with the matrices of its paths: a result for each."""
    if weight.is_cuda and weight.dtype != torch.float64:
        from cliffnn.kernels.fully_connected import Mix

        return Mix(weight, product, rows)

    def mix(grad: Tensor) -> Sequence[Tensor]:
        by_grade = _by_grade(grad, product)
        numbered = zip(product.paths, weight, product.path_sizes, strict=True)
        return [(by_grade[k] @ matrix).unflatten(0, (-1, size)) for (*_, k), matrix, size in numbered]

    return mix


def _by_grade(grad: Tensor, product: GradedProduct) -> dict[int, Tensor]:
    """The parts of a gradient that have a grade: ``(rows * blades, channels)``."""
    return {k: grad[:, blades].flatten(0, 1) for k, blades in product.out_slices.items()}


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all chunks; nothing is copied where there is one."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _rows_at_once(product: GradedProduct, *tensors: Tensor) -> int:
    """So many that the products of all paths take a bounded memory."""
    size = max(tensor.shape[-1] for tensor in tensors) * tensors[0].itemsize
    blades = max(_BLADES_ON_GPU, _ON_GPU // size) if tensors[0].is_cuda else _ON_CPU // size
    return max(1, blades // sum(product.path_sizes))


def _in_chunks(run: Callable, product: GradedProduct, *tensors: Tensor) -> list:
    """Results on some rows at a time, of one number of them, but for the last."""
    count = max(1, -(-tensors[0].shape[0] // _rows_at_once(product, *tensors)))
    rows = max(1, -(-tensors[0].shape[0] // count))
    # sums over paths are not to be rounded one by one
    with without_autocast(tensors[0].device.type):
        return [run(*parts) for parts in zip(*(t.split(rows) for t in tensors), strict=True)]
