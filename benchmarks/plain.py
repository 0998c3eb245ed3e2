"""The operator and its layers as a user would write them in torch, for Cl(n).

Compiled by torch.compile they are a contender; in float64 they are the truth that all contenders are checked against.
The axis of the blades is an argument, because other libraries have it first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cliffnn import Algebra

EPS = 1e-6


def paths_of_products(algebra: Algebra) -> list[tuple[int, int, int, int, int]]:
    """``(a, b, c, sign, path)`` for each pair of blades with ``blade_a blade_b = sign blade_c``."""
    grade = algebra.grade_of_blades
    return [(a, b, c, sign, algebra.paths.index((grade[a], grade[b], grade[c]))) for a, b, c, sign in algebra.products]


def operator(algebra: Algebra, axis: int = -2) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """GELU of both factors, weighted geometric product, RMS norm."""
    table = paths_of_products(algebra)
    blades = len(algebra)

    def run(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        xs, ys, ws = gelu(x, axis).unbind(axis), gelu(y, axis).unbind(axis), weight.unbind()
        sums: dict[tuple[int, int], Tensor] = {}
        for a, b, c, sign, path in table:
            term = xs[a] * ys[b] if sign > 0 else -xs[a] * ys[b]
            sums[c, path] = sums[c, path] + term if (c, path) in sums else term
        out = [sum((ws[path] * term for (c, path), term in sums.items() if c == blade)) for blade in range(blades)]
        return rms_norm(torch.stack(out, axis), algebra, axis)

    return run


def block(algebra: Algebra, axis: int = -2) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The operator of an input and a linear map of it, with a bias on the scalar."""
    multiply, mix = operator(algebra, axis), linear(algebra, axis)

    def run(x: Tensor, matrices: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
        scalar, others = mix(x, matrices).split([1, len(algebra) - 1], axis)
        return multiply(x, torch.cat([scalar + bias, others], axis), weight)

    return run


def linear(algebra: Algebra, axis: int = -2) -> Callable[[Tensor, Tensor], Tensor]:
    """A matrix for each grade, ``(grades, out, in)``."""

    def run(x: Tensor, matrices: Tensor) -> Tensor:
        grades = zip(grades_of(x, algebra, axis), matrices, strict=True)
        return torch.cat([torch.nn.functional.linear(grade, matrix) for grade, matrix in grades], axis)

    return run


def gelu(x: Tensor, axis: int) -> Tensor:
    return x * (0.5 * (1 + torch.erf(x.narrow(axis, 0, 1) / math.sqrt(2))))


def rms_norm(x: Tensor, algebra: Algebra, axis: int) -> Tensor:
    """By grade, for a metric that is positive."""
    return torch.cat(
        [
            grade * torch.rsqrt(grade.square().sum(axis, keepdim=True).mean(-1, keepdim=True) + EPS)
            for grade in grades_of(x, algebra, axis)
        ],
        axis,
    )


def grades_of(x: Tensor, algebra: Algebra, axis: int) -> Sequence[Tensor]:
    return x.split(list(algebra.grade_sizes), axis)
