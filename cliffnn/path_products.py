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
from cliffnn.ops import evaluate, transformed

# Bytes of the products of all paths that are formed at a time on a CPU. On a GPU blades of these, whatever they hold:
# enough to fill it.
_CHUNK, _BLADES_ON_GPU = 2**23, 2**18


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
    products = operation(_text(product, gate), product.algebra.name)
    gradients = products.vjp(products.outputs, wrt).text
    mix = _mixing(weight, product)

    def run(grad: Tensor, x: Tensor, y: Tensor) -> Sequence[Tensor]:
        return evaluate(gradients, product.algebra, [x, y, *mix(grad)])

    return [_joined(parts) for parts in zip(*_in_chunks(run, product, grad, x, y), strict=True)]


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


def _mixing(weight: Tensor, product: GradedProduct) -> Callable[[Tensor], Sequence[Tensor]]:
    """What multiplies each grade of a gradient with the matrices of its paths: a result for each path."""
    if weight.is_cuda and weight.dtype != torch.float64:
        from cliffnn.kernels.fully_connected import mix

        transposed = weight.mT.contiguous()
        return lambda grad: mix(grad.contiguous(), transposed, product)

    def mix_by_torch(grad: Tensor) -> Sequence[Tensor]:
        by_grade, rows = _by_grade(grad, product), grad.shape[0]
        numbered = zip(product.paths, weight, product.path_sizes, strict=True)
        return [(by_grade[k] @ matrix).unflatten(0, (rows, size)) for (*_, k), matrix, size in numbered]

    return mix_by_torch


def _by_grade(grad: Tensor, product: GradedProduct) -> dict[int, Tensor]:
    """The parts of a gradient that have a grade: ``(rows * blades, channels)``."""
    return {k: grad[:, blades].flatten(0, 1) for k, blades in product.out_slices.items()}


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all chunks; nothing is copied where there is one."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _in_chunks(run: Callable, product: GradedProduct, *tensors: Tensor) -> list:
    """Results on some rows at a time, so that the products of all paths take a bounded memory."""
    size = max(t.shape[-1] for t in tensors) * tensors[0].itemsize
    rows = max(1, (_BLADES_ON_GPU if tensors[0].is_cuda else _CHUNK // size) // sum(product.path_sizes))
    # of one size, but for the last
    count = max(1, -(-tensors[0].shape[0] // rows))
    rows = max(1, -(-tensors[0].shape[0] // count))
    # sums over paths are not to be rounded one by one
    with without_autocast(tensors[0].device.type):
        return [run(*parts) for parts in zip(*(t.split(rows) for t in tensors), strict=True)]
