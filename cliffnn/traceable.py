"""Expressions as torch code on whole tensors, each step visible: to compilers, which fuse it, and to autograd.

The same two functions, with the same arguments, as `cliffnn.generated` runs block by block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cliffnn import norm
from cliffnn.algebra import Algebra
from cliffnn.codegen import torch_function
from cliffnn.expressions import EXPRESSIONS
from cliffnn.norm import compute_dtype, sign_tolerance


def forward(
    expression: str,
    algebra: Algebra,
    rows: Sequence[Tensor],
    params: Sequence[Tensor],
    normalize: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """See `cliffnn.generated.forward`."""
    values = _evaluate(expression, algebra, rows, params)
    if normalize:
        # values are not scaled by what went through memory: compilers would begin another loop
        by_grade = [norm.scale(algebra, k, values, eps) for k in algebra.grades]
        values = [values[b] * by_grade[k] for b, k in enumerate(algebra.grade_of_blades)]
        scales = torch.cat(by_grade, -1)
    else:
        scales = values[0].new_empty(len(values[0]), 0)
    return torch.stack(list(values), 1).to(rows[0].dtype), scales


def backward(
    expression: str,
    algebra: Algebra,
    grad: Tensor,
    out: Tensor,
    scales: Tensor,
    rows: Sequence[Tensor],
    params: Sequence[Tensor],
    normalize: bool,
    wrt: Sequence[bool],
) -> list[Tensor]:
    """See `cliffnn.generated.backward`."""
    specification = EXPRESSIONS[expression]
    chosen = tuple(name for name, wanted in zip(specification.inputs, wrt, strict=True) if wanted)
    dtype = compute_dtype(grad.dtype)
    cotangents: Sequence[Tensor] = grad.to(dtype).unbind(1)
    if normalize:
        results = out.to(dtype).unbind(1)
        cotangents = norm.unnormalized(algebra, cotangents, results, scales, sign_tolerance(out.dtype))
        # Stacked so that compilers keep them in memory. They would inline them otherwise, and then keep each of their
        # many products with coefficients.
        cotangents = torch.stack(cotangents, 1).unbind(1)
    values = iter(torch_function(expression, algebra, chosen)(*_unbound(rows, params, dtype), cotangents))
    gradients = []
    for name in chosen:
        if name in specification.rows:
            gradient = torch.stack([next(values) for _ in range(len(algebra))], 1)
        else:
            # summed one by one: their terms are never in memory
            gradient = torch.stack([next(values).sum(0) for _ in algebra.paths])
        gradients.append(gradient.to(grad.dtype))
    return gradients


def differentiable(
    expression: str,
    algebra: Algebra,
    rows: Sequence[Tensor],
    params: Sequence[Tensor],
    normalize: bool,
    eps: float,
) -> Tensor:
    """`forward`'s first result, written so that autograd can differentiate it any number of times."""
    values = _evaluate(expression, algebra, rows, params)
    if normalize:
        tolerance = sign_tolerance(rows[0].dtype)
        scales = [norm.scale(algebra, k, values, eps, tolerance) for k in algebra.grades]
        values = [values[b] * scales[k] for b, k in enumerate(algebra.grade_of_blades)]
    return torch.stack(list(values), 1).to(rows[0].dtype)


def _evaluate(expression: str, algebra: Algebra, rows: Sequence[Tensor], params: Sequence[Tensor]) -> Sequence[Tensor]:
    return torch_function(expression, algebra)(*_unbound(rows, params, compute_dtype(rows[0].dtype)))


def _unbound(rows: Sequence[Tensor], params: Sequence[Tensor], dtype: torch.dtype) -> list[tuple[Tensor, ...]]:
    """The scalars of the program as tensors: a blade ``(rows, channels)``, a coefficient ``(channels,)``."""
    return [row.to(dtype).unbind(1) for row in rows] + [param.to(dtype).unbind(0) for param in params]
