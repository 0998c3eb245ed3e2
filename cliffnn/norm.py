"""The norm by grade and its gradient, on the blades of multivectors: tensors ``(rows, channels)``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cliffnn.algebra import Algebra


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Arithmetic is at least in float32, whatever the storage."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def sign_tolerance(dtype: torch.dtype) -> float:
    """How small q may be, relative to the sum of squares, before its sign counts as zero.

    The gradient of abs(q) changes sign on the null cone, where massless particles live. There rounding errors would
    choose the sign, of a gradient that a small norm blows up; zero is a subgradient too.

    Parameters
    ----------
    dtype : torch.dtype
        That the multivectors whose q it is were rounded to.
    """
    return max(4 * torch.finfo(compute_dtype(dtype)).eps, torch.finfo(dtype).eps)


def scale(algebra: Algebra, grade: int, values: Sequence[Tensor], eps: float, tolerance: float | None = None) -> Tensor:
    """The reciprocal root mean square of a grade, ``(rows, 1)``; 1 if the grade has no norm.

    With a tolerance, autograd differentiates abs(q) by the sign that `unnormalized` uses.
    """
    blades = algebra.grade_slices[grade]
    metric = algebra.quadratic_form[blades]
    if not any(metric):
        return values[0].new_ones(len(values[0]), 1)
    size = form = _quadratic_form(metric, values[blades])
    if -1 in metric:
        size = form.abs()
        if tolerance is not None:
            linear = _sign(form, values[blades], metric, tolerance).detach() * form
            size = linear + (size - linear).detach()
    return torch.rsqrt(size.mean(-1, keepdim=True) + eps)


def unnormalized(
    algebra: Algebra, grad: Sequence[Tensor], out: Sequence[Tensor], scales: Tensor, tolerance: float
) -> list[Tensor]:
    """The gradient with respect to what was normalised: r (g - s m out mean(sum g out)), s the sign of q."""
    result = []
    for k, blades in enumerate(algebra.grade_slices):
        scale = scales[:, k, None]
        metric = algebra.quadratic_form[blades]
        if not any(metric):
            result += [scale * g for g in grad[blades]]
            continue
        inner = _sum_of_products([1] * len(metric), grad[blades], out[blades])
        pull = inner.mean(-1, keepdim=True)
        if -1 in metric:
            pull = _sign(_quadratic_form(metric, out[blades]), out[blades], metric, tolerance) * pull
        result += [
            scale * torch.addcmul(g, o, pull, value=-m) if m else scale * g
            for g, o, m in zip(grad[blades], out[blades], metric, strict=True)
        ]
    return result


def _sign(form: Tensor, values: Sequence[Tensor], metric: Sequence[int], tolerance: float) -> Tensor:
    """The sign of q, zero where rounding errors would choose it."""
    squares = _quadratic_form([abs(m) for m in metric], values)
    return torch.where(form.abs() > tolerance * squares, form.sign(), 0)


def _quadratic_form(metric: Sequence[int], values: Sequence[Tensor]) -> Tensor:
    """q_k of the blades of one grade, not all of them null."""
    return _sum_of_products(metric, values, values)


def _sum_of_products(weights: Sequence[int], left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    (first, a, b), *others = [term for term in zip(weights, left, right, strict=True) if term[0]]
    total = a * b if first == 1 else -a * b
    for weight, a, b in others:
        total = torch.addcmul(total, a, b, value=weight)
    return total
