"""Expressions run as generated torch code: on a CPU, and wherever autograd must see every step.

The same two functions, with the same arguments, as `cliffnn.kernels` runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cliffnn.algebra import Algebra
from cliffnn.codegen import torch_function
from cliffnn.expressions import EXPRESSIONS

# Numbers of one blade in a block of rows: enough to be worth a call of torch, few enough for the cache.
_BLOCK = 16384


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
    out = torch.empty_like(rows[0])
    dtype = compute_dtype(out.dtype)
    scales = out.new_empty(out.shape[0], len(algebra.grades) if normalize else 0, dtype=dtype)
    for block in _blocks(out):
        values = _evaluate(expression, algebra, [row[block] for row in rows], params)
        for k, blades in enumerate(algebra.grade_slices):
            if normalize:
                scales[block, k] = _scale(algebra, k, values, eps)
            for b in range(blades.start, blades.stop):
                out[block, b] = (values[b] * scales[block, k] if normalize else values[b]).T
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
    function = torch_function(expression, algebra, chosen)
    sources = dict(zip(names, (*rows, *params), strict=True))
    # coefficients are summed over blocks in the dtype of the arithmetic
    gradients = {
        name: torch.empty_like(sources[name])
        if name in specification.rows
        else torch.zeros_like(sources[name], dtype=dtype)
        for name in chosen
    }
    for block in _blocks(grad):
        cotangents = _by_blade(grad[block], dtype)
        if normalize:
            results = _by_blade(out[block], dtype)
            cotangents = _unnormalized(algebra, cotangents, results, scales[block], sign_tolerance(out.dtype))
        values = iter(function(*_unstacked([row[block] for row in rows], params, dtype), cotangents))
        for name, gradient in gradients.items():
            if name in specification.rows:
                for b in range(len(algebra)):
                    gradient[block, b] = next(values).T
            else:
                for p in range(len(gradient)):
                    gradient[p] += next(values).sum(-1)
    return [gradient.to(sources[name].dtype) for name, gradient in gradients.items()]


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
        values = [
            values[b] * _scale(algebra, k, values, eps, tolerance)
            for k, blades in enumerate(algebra.grade_slices)
            for b in range(blades.start, blades.stop)
        ]
    return torch.stack(list(values)).permute(2, 0, 1).to(rows[0].dtype)


def _blocks(x: Tensor) -> Iterator[slice]:
    """Rows by blocks whose intermediate results stay in a CPU's cache."""
    rows = max(1, _BLOCK // x.shape[-1])
    return (slice(start, start + rows) for start in range(0, x.shape[0], rows))


def _evaluate(expression: str, algebra: Algebra, rows: Sequence[Tensor], params: Sequence[Tensor]):
    function = torch_function(expression, algebra)
    return function(*_unstacked(rows, params, compute_dtype(rows[0].dtype)))


def _unstacked(rows: Sequence[Tensor], params: Sequence[Tensor], dtype: torch.dtype):
    """Scalars of the program as tensors ``(channels, rows)``: long and contiguous, as a CPU likes them."""
    return [_by_blade(row, dtype) for row in rows] + [param.to(dtype)[..., None].unbind(0) for param in params]


def _by_blade(row: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
    return row.to(dtype).permute(1, 2, 0).contiguous().unbind(0)


def _scale(
    algebra: Algebra, grade: int, values: Sequence[Tensor], eps: float, tolerance: float | None = None
) -> Tensor:
    """The reciprocal root mean square of a grade, one number a row; 1 if the grade has no norm.

    With a tolerance, autograd differentiates abs(q) by the sign that `backward` uses.
    """
    blades = algebra.grade_slices[grade]
    form = _quadratic_form(algebra, grade, values[blades])
    if form is None:
        return values[0].new_ones(values[0].shape[-1])
    size = form.abs()
    if tolerance is not None:
        linear = _sign(form, values[blades], algebra.quadratic_form[blades], tolerance).detach() * form
        size = linear + (size - linear).detach()
    return torch.rsqrt(size.mean(0) + eps)


def _sign(form: Tensor, values: Sequence[Tensor], metric: Sequence[int], tolerance: float) -> Tensor:
    """The sign of q, zero where rounding errors would choose it."""
    squares = torch.zeros_like(form)
    for m, value in zip(metric, values, strict=True):
        if m:
            squares = torch.addcmul(squares, value, value)
    return torch.where(form.abs() > tolerance * squares, form.sign(), 0)


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
        scale = scales[:, k]
        metric = algebra.quadratic_form[blades]
        form = _quadratic_form(algebra, k, out[blades])
        if form is None:
            result += [scale * g for g in grad[blades]]
            continue
        inner = torch.zeros_like(form)
        for g, o in zip(grad[blades], out[blades], strict=True):
            inner.addcmul_(g, o)
        pull = inner.mean(0)
        if -1 in metric:
            pull = _sign(form, out[blades], metric, tolerance) * pull
        result += [
            scale * torch.addcmul(g, o, pull, value=-m)
            for g, o, m in zip(grad[blades], out[blades], metric, strict=True)
        ]
    return result
