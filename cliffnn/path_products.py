"""The fully connected geometric product of torch's matrix products: products of each path are written to memory.

Some rows at a time. What is formed of pairs of blades, and the gradients with respect to these, are generated like all
else; the rest are products of matrices, one for each path. For a CPU, for float64, and for matrices so wide that
reading such products costs less than forming them anew for each tile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cliffnn.algebra import Algebra
from cliffnn.checks import without_autocast
from cliffnn.families import family, text_of
from cliffnn.operation import operation
from cliffnn.ops import evaluate, transformed

# Bytes of the products of all paths that are formed at a time, on a GPU enough to fill it.
_CHUNK, _CHUNK_ON_GPU = 2**23, 2**29


@family
def path_products(algebra: Algebra) -> Callable:
    """Of each path (i, j, k) the products <<x>_i <y>_j>_k."""

    def products(x, y):
        """<<x>_i <y>_j>_k for each path (i, j, k)"""
        return tuple((x.grade(i) * y.grade(j)).grade(k) for i, j, k in algebra.paths)

    return products


def multiply(x: Tensor, y: Tensor, weight: Tensor, algebra: Algebra) -> Tensor:
    """See `cliffnn.fully_connected.fully_connected`; differentiable where torch's own functions are."""

    def run(x: Tensor, y: Tensor) -> Tensor:
        results: dict[int, Tensor] = {}
        for (*_, k), matrix, product in zip(algebra.paths, weight, _products(x, y, algebra), strict=True):
            flat, so_far = product.flatten(0, 1), results.get(k)
            # in place, unless a transform differentiates this: it would need the sums before
            out = None if transformed() else so_far
            results[k] = flat @ matrix.mT if so_far is None else torch.addmm(so_far, flat, matrix.mT, out=out)
        sizes = zip(algebra.grades, algebra.grade_sizes, strict=True)
        return torch.cat([results[k].view(x.shape[0], size, weight.shape[1]) for k, size in sizes], 1)

    return _joined(_in_chunks(run, algebra, x, y))


def factors(
    grad: Tensor, x: Tensor, y: Tensor, weight: Tensor, algebra: Algebra, wrt: tuple[str, ...] = ("x", "y")
) -> list[Tensor]:
    """The gradients of `multiply` with respect to ``"x"``, ``"y"``, or both; of one alone only the other is read."""
    products = operation(_text(algebra), algebra.name)
    gradients = products.vjp(products.outputs, wrt).text

    def run(grad: Tensor, x: Tensor, y: Tensor) -> Sequence[Tensor]:
        mixed = [
            (of_grade @ matrix).view(x.shape[0], algebra.grade_sizes[k], x.shape[-1])
            for (*_, k), of_grade, matrix in zip(algebra.paths, _by_path(grad, algebra), weight, strict=True)
        ]
        return evaluate(gradients, algebra, [x, y, *mixed])

    return [_joined(parts) for parts in zip(*_in_chunks(run, algebra, grad, x, y), strict=True)]


def weights(grad: Tensor, x: Tensor, y: Tensor, algebra: Algebra) -> Tensor:
    """The gradient of `multiply` with respect to the weight."""

    def run(grad: Tensor, x: Tensor, y: Tensor) -> Tensor:
        pairs = zip(_by_path(grad, algebra), _products(x, y, algebra), strict=True)
        return torch.stack([of_grade.mT @ product.flatten(0, 1) for of_grade, product in pairs])

    return functools.reduce(torch.add, _in_chunks(run, algebra, grad, x, y))


def _text(algebra: Algebra) -> str:
    return text_of("path_products", algebra.name, ())


def _products(x: Tensor, y: Tensor, algebra: Algebra) -> Sequence[Tensor]:
    """Of each path, ``(rows, blades of the result, channels)``."""
    return evaluate(_text(algebra), algebra, [x, y])


def _by_path(grad: Tensor, algebra: Algebra) -> list[Tensor]:
    """Of each path, the part of a gradient that has its result's grade: ``(rows * blades, channels)``."""
    by_grade = [grad[:, blades].flatten(0, 1) for blades in algebra.grade_slices]
    return [by_grade[k] for *_, k in algebra.paths]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all chunks; nothing is copied where there is one."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _in_chunks(run: Callable, algebra: Algebra, *tensors: Tensor) -> list:
    """Results on some rows at a time, so that the products of all paths take a bounded memory."""
    products = sum(algebra.grade_sizes[k] for *_, k in algebra.paths)
    size = products * max(t.shape[-1] for t in tensors) * tensors[0].itemsize
    rows = max(1, (_CHUNK_ON_GPU if tensors[0].is_cuda else _CHUNK) // size)
    # of one size, but for the last
    count = max(1, -(-tensors[0].shape[0] // rows))
    rows = max(1, -(-tensors[0].shape[0] // count))
    # sums over paths are not to be rounded one by one
    with without_autocast(tensors[0].device.type):
        return [run(*parts) for parts in zip(*(t.split(rows) for t in tensors), strict=True)]
