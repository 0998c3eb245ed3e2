"""Expressions run as generated torch code, on a CPU: block by block, so that a block stays in the cache.

The same two functions, with the same arguments, as `cliffnn.kernels` runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from cliffnn import norm
from cliffnn.algebra import Algebra
from cliffnn.codegen import buffered_function
from cliffnn.expressions import EXPRESSIONS
from cliffnn.norm import compute_dtype, sign_tolerance

# Numbers of one blade in a block of rows: enough to be worth a call of torch, few enough for the cache.
_BLOCK = 16384


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
    specification = EXPRESSIONS[expression]
    out = torch.empty_like(rows[0])
    dtype = compute_dtype(out.dtype)
    scales = out.new_empty(len(out), len(algebra.grades) if normalize else 0, dtype=dtype)
    function, count = buffered_function(expression, algebra)
    groups = dict.fromkeys((*specification.rows, "out"), len(algebra)) | {"buffers": count}
    for block, scratch in _blocks(out, groups, dtype):
        inputs = [_copied(scratch[name], row[block]) for name, row in zip(specification.rows, rows, strict=True)]
        values = scratch["out"]
        function(*inputs, *_coefficients(params, values), values, scratch["buffers"])
        if normalize:
            for k in algebra.grades:
                scales[block, k, None] = norm.scale(algebra, k, values.unbind(0), eps)
            torch.mul(values.transpose(0, 1), _by_blade(algebra, scales[block]), out=out[block])
        else:
            out[block] = values.transpose(0, 1)
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
    chosen = tuple(name for name, wanted in zip(specification.inputs, wrt, strict=True) if wanted)
    dtype = compute_dtype(grad.dtype)
    sources = dict(zip(specification.inputs, (*rows, *params), strict=True))
    # coefficients are summed over blocks in the dtype of the arithmetic
    gradients = {
        name: torch.empty_like(sources[name])
        if name in specification.rows
        else torch.zeros_like(sources[name], dtype=dtype)
        for name in chosen
    }
    function, count = buffered_function(expression, algebra, chosen)
    groups = dict.fromkeys((*specification.rows, "grad_out", "out"), len(algebra)) | {"buffers": count}
    groups |= {f"grad_{name}": len(algebra) if name in specification.rows else len(algebra.paths) for name in chosen}
    for block, scratch in _blocks(grad, groups, dtype):
        inputs = [_copied(scratch[name], row[block]) for name, row in zip(specification.rows, rows, strict=True)]
        cotangents: Sequence[Tensor] = _copied(scratch["grad_out"], grad[block]).unbind(0)
        if normalize:
            results = _copied(scratch["out"], out[block]).unbind(0)
            cotangents = norm.unnormalized(algebra, cotangents, results, scales[block], sign_tolerance(out.dtype))
        outputs = [scratch[f"grad_{name}"] for name in chosen]
        function(*inputs, *_coefficients(params, scratch["grad_out"]), cotangents, *outputs, scratch["buffers"])
        for (name, gradient), values in zip(gradients.items(), outputs, strict=True):
            if name in specification.rows:
                gradient[block] = values.transpose(0, 1)
            else:
                gradient += values.sum(1)
    return [gradient.to(grad.dtype) for gradient in gradients.values()]


def _blocks(x: Tensor, groups: Mapping[str, int], dtype: torch.dtype) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Rows by blocks whose intermediate results stay in a CPU's cache, and memory for them.

    It is the same memory for every block: ``groups`` says how many tensors ``(rows, channels)`` go by each name.
    """
    count = -(-x.shape[0] * x.shape[-1] // _BLOCK)
    size = -(-x.shape[0] // max(1, count))
    memory = x.new_empty(sum(groups.values()), size, x.shape[-1], dtype=dtype).split(list(groups.values()))
    for start in range(0, x.shape[0], max(1, size)):
        rows = min(size, x.shape[0] - start)
        yield slice(start, start + rows), {name: m[:, :rows] for name, m in zip(groups, memory, strict=True)}


def _copied(target: Tensor, block: Tensor) -> Tensor:
    """``(rows, blades, channels)`` copied to ``(blades, rows, channels)``, where each blade is contiguous."""
    return target.copy_(block.transpose(0, 1))


def _coefficients(params: Sequence[Tensor], like: Tensor) -> list[Tensor]:
    return [param.to(like.dtype)[:, None].expand(-1, *like.shape[1:]) for param in params]


def _by_blade(algebra: Algebra, scales: Tensor) -> Tensor:
    """A number a grade, repeated for its blades: ``(rows, blades, 1)``."""
    return torch.cat([scales[:, k, None, None].expand(-1, size, 1) for k, size in enumerate(algebra.grade_sizes)], 1)
