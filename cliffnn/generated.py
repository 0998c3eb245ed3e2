"""Expressions run as generated torch code: on a CPU, and wherever autograd must see every step.

The same two functions, with the same arguments, as `cliffnn.kernels` runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cliffnn.algebra import Algebra
from cliffnn.codegen import torch_function
from cliffnn.expressions import EXPRESSIONS


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


def forward(
    expression: str,
    algebra: Algebra,
    rows: Sequence[Tensor],
    params: Sequence[Tensor],
    normalize: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Evaluate an expression row by row, and normalise the result by grade.

    Parameters
    ----------
    expression : str
        Its name in `cliffnn.expressions`.
    algebra : Algebra
    rows : sequence of Tensor
        Multivectors ``(rows, blades, channels)``, contiguous.
    params : sequence of Tensor
        Coefficients ``(paths, channels)``.
    normalize : bool
        Divide each grade by its root mean square over the channels.
    eps : float
        Added inside the root.

    Returns
    -------
    out : Tensor
        ``(rows, blades, channels)``.
    scales : Tensor
        What each row and grade was multiplied with, ``(rows, grades)``, in the dtype of the arithmetic; without
        ``normalize`` there are none, ``(rows, 0)``.
    """
    values = _evaluate(expression, algebra, rows, params)
    out = torch.empty_like(rows[0])
    scales = out.new_empty(out.shape[0], len(algebra.grades) if normalize else 0, dtype=values[0].dtype)
    for k, blades in enumerate(algebra.grade_slices):
        if normalize:
            scales[:, k] = _scale(algebra, k, values, eps)
        for b in range(blades.start, blades.stop):
            if normalize:
                torch.mul(values[b], scales[:, k, None], out=out[:, b])
            else:
                out[:, b] = values[b]
    return out, scales


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
    """Gradients of `forward`'s first result, from what it was given and what it gave.

    Parameters
    ----------
    grad, out : Tensor
        The gradient with respect to the result, and the result.
    scales : Tensor
        The second result.
    wrt : sequence of bool
        Which of ``rows`` and then ``params`` to differentiate with respect to.

    Returns
    -------
    list of Tensor
        A gradient for each true entry of ``wrt``.
    """
    specification = EXPRESSIONS[expression]
    names = (*specification.rows, *specification.params)
    chosen = tuple(name for name, wanted in zip(names, wrt, strict=True) if wanted)
    dtype = compute_dtype(grad.dtype)
    cotangents: Sequence[Tensor] = grad.to(dtype).unbind(-2)
    if normalize:
        tolerance = sign_tolerance(out.dtype)
        cotangents = _unnormalized(algebra, cotangents, out.to(dtype).unbind(-2), scales, tolerance)
    function = torch_function(expression, algebra, chosen)
    values = function(*_unstacked(rows, params, dtype), cotangents)

    gradients, start = [], 0
    for name in chosen:
        if name in specification.rows:
            gradient = torch.empty_like(rows[0])
            for b in range(len(algebra)):
                gradient[:, b] = values[start + b]
            start += len(algebra)
        else:
            parameter = params[specification.params.index(name)]
            gradient = torch.empty_like(parameter)
            for p in range(len(parameter)):
                gradient[p] = values[start + p].sum(0)
            start += len(parameter)
        gradients.append(gradient)
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
        values = [
            values[b] * _scale(algebra, k, values, eps)[:, None]
            for k, blades in enumerate(algebra.grade_slices)
            for b in range(blades.start, blades.stop)
        ]
    return torch.stack(list(values), -2).to(rows[0].dtype)


def _evaluate(expression: str, algebra: Algebra, rows: Sequence[Tensor], params: Sequence[Tensor]):
    function = torch_function(expression, algebra)
    return function(*_unstacked(rows, params, compute_dtype(rows[0].dtype)))


def _unstacked(rows: Sequence[Tensor], params: Sequence[Tensor], dtype: torch.dtype):
    return [row.to(dtype).unbind(-2) for row in rows] + [param.to(dtype).unbind(0) for param in params]


def _scale(algebra: Algebra, grade: int, values: Sequence[Tensor], eps: float) -> Tensor:
    """The reciprocal root mean square of a grade, one number a row; 1 if the grade has no norm."""
    blades = algebra.grade_slices[grade]
    form = _quadratic_form(algebra, grade, values[blades])
    if form is None:
        return values[0].new_ones(values[0].shape[0])
    return torch.rsqrt(form.abs().mean(-1) + eps)


def _quadratic_form(algebra: Algebra, grade: int, values: Sequence[Tensor]) -> Tensor | None:
    """q_k of the blades of one grade, or None where it vanishes identically."""
    metric = algebra.quadratic_form[algebra.grade_slices[grade]]
    form = None
    for m, value in zip(metric, values, strict=True):
        if m:
            form = m * value * value if form is None else torch.addcmul(form, value, value, value=m)
    return form


def _unnormalized(
    algebra: Algebra, grad: Sequence[Tensor], out: Sequence[Tensor], scales: Tensor, tolerance: float
) -> list[Tensor]:
    """The gradient with respect to what was normalised: r (g - s m out mean(sum g out)), s the sign of q."""
    result = []
    for k, blades in enumerate(algebra.grade_slices):
        scale = scales[:, k, None]
        metric = algebra.quadratic_form[blades]
        form = _quadratic_form(algebra, k, out[blades])
        if form is None:
            result += [scale * g for g in grad[blades]]
            continue
        inner = torch.zeros_like(form)
        for g, o in zip(grad[blades], out[blades], strict=True):
            inner.addcmul_(g, o)
        pull = inner.mean(-1, keepdim=True)
        if -1 in metric:
            squares = torch.zeros_like(form)
            for m, o in zip(metric, out[blades], strict=True):
                if m:
                    squares.addcmul_(o, o)
            pull = torch.where(form.abs() > tolerance * squares, form.sign(), 0) * pull
        result += [
            scale * torch.addcmul(g, o, pull, value=-m)
            for g, o, m in zip(grad[blades], out[blades], metric, strict=True)
        ]
    return result
