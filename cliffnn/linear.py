"""The linear map of each grade as an operator on CUDA devices; elsewhere it is torch's own matrix product.

Two operators, each other's derivatives: ``cliffnn::linear`` and, for the gradient of its weight,
``cliffnn::linear_weight``. Of the algebra they need to know no more than how many blades each grade has.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from cliffnn.ops import below_autograd, library, transformed, unobserved

library.define("linear(Tensor x, Tensor weight, Tensor? bias, int[] sizes) -> Tensor")
library.define("linear_weight(Tensor grad, Tensor x, int[] sizes) -> Tensor")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, sizes: tuple[int, ...]) -> Tensor:
    """Multiply the channels of each blade with the matrix of its grade, and add a bias to the first blade.

    Parameters
    ----------
    x : Tensor
        ``(rows, blades, in_channels)``, contiguous.
    weight : Tensor
        ``(grades, out_channels, in_channels)``.
    bias : Tensor or None
        ``(out_channels,)``, where the first blade is the scalar.
    sizes : tuple of int
        The number of blades of each grade.

    Returns
    -------
    Tensor
        ``(rows, blades, out_channels)``.
    """
    if unobserved([t for t in (x, weight, bias) if t is not None]):
        return _Linear.apply(_linear, x, weight, bias, sizes)
    if not x.is_cuda or transformed():
        return _composed(x, weight, bias, sizes)
    return torch.ops.cliffnn.linear.default(x, weight, bias, sizes)


def _composed(x: Tensor, weight: Tensor, bias: Tensor | None, sizes: tuple[int, ...]) -> Tensor:
    """Of torch's operators: one product, batched over blades, is faster on a CPU than one for each grade."""
    out = torch.einsum("nbi,boi->nbo", x, _by_blade(weight, sizes)).contiguous()
    return out if bias is None else torch.cat([out[:, :1] + bias, out[:, 1:]], 1)


def _by_blade(weight: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The matrix of each blade."""
    return torch.cat([matrix.expand(blades, -1, -1) for matrix, blades in zip(weight.split(1), sizes, strict=True)])


def _in_place(x: Tensor, weight: Tensor, bias: Tensor | None, sizes: tuple[int, ...]) -> Tensor:
    """`_composed` without its copies: the product is written where the result has its blades."""
    out = x.new_empty(*x.shape[:2], weight.shape[1])
    torch.bmm(x.transpose(0, 1), _by_blade(weight, sizes).mT, out=out.transpose(0, 1))
    if bias is not None:
        out[:, 0] += bias
    return out


def _composed_weight(grad: Tensor, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    products = torch.einsum("nbo,nbi->boi", grad, x).split(list(sizes))
    return torch.stack([product.sum(0) for product in products])


def linear_weight(grad: Tensor, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The gradient of `linear` with respect to its weight.

    Parameters
    ----------
    grad : Tensor
        ``(rows, blades, out_channels)``.
    x : Tensor
        ``(rows, blades, in_channels)``.
    sizes : tuple of int
        The number of blades of each grade.

    Returns
    -------
    Tensor
        ``(grades, out_channels, in_channels)``.
    """
    if unobserved([grad, x]):
        return _LinearWeight.apply(_linear_weight, grad, x, sizes)
    if not x.is_cuda:
        return _composed_weight(grad, x, sizes)
    return torch.ops.cliffnn.linear_weight.default(grad, x, sizes)


def _linear(x, weight, bias, sizes):
    if not x.is_cuda:
        return _in_place(x, weight, bias, sizes)
    from cliffnn.kernels.linear import linear

    return linear(x.contiguous(), weight, bias, tuple(sizes))


def _linear_weight(grad, x, sizes):
    if not x.is_cuda:
        return _composed_weight(grad, x, sizes)
    from cliffnn.kernels.linear import linear_weight

    return linear_weight(grad.contiguous(), x.contiguous(), tuple(sizes))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, x, weight, bias, sizes):
        ctx.save_for_backward(x, weight)
        ctx.sizes = tuple(sizes)
        return run(x, weight, bias, sizes)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        _, need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        return (
            None,
            linear(grad, weight.mT, None, ctx.sizes) if need_x else None,
            linear_weight(grad, x, ctx.sizes) if need_weight else None,
            grad[:, 0].sum(0) if need_bias else None,
            None,
        )


class _LinearWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, grad, x, sizes):
        ctx.save_for_backward(grad, x)
        ctx.sizes = tuple(sizes)
        return run(grad, x, sizes)

    @staticmethod
    def backward(ctx, cotangent):
        grad, x = ctx.saved_tensors
        _, need_grad, need_x, _ = ctx.needs_input_grad
        return (
            None,
            linear(x, cotangent, None, ctx.sizes) if need_grad else None,
            linear(grad, cotangent.mT, None, ctx.sizes) if need_x else None,
            None,
        )


def _linear_fake(x, weight, bias, sizes):
    return x.new_empty(*x.shape[:-1], weight.shape[1])


def _linear_weight_fake(grad, x, sizes):
    return x.new_empty(len(sizes), grad.shape[-1], x.shape[-1])


def _batched(composed):
    """The rule of `torch.vmap`: one after the other, of torch's operators."""

    def rule(info, in_dims, *inputs):
        *tensors, sizes = inputs
        dims = in_dims[: len(tensors)]
        results = [
            composed(*(t if d is None else t.select(d, n) for t, d in zip(tensors, dims, strict=True)), sizes)
            for n in range(info.batch_size)
        ]
        return torch.stack(results), 0

    return rule


for _name, _run, _function, _fake, _torchs in (
    ("linear", _linear, _Linear, _linear_fake, _composed),
    ("linear_weight", _linear_weight, _LinearWeight, _linear_weight_fake, _composed_weight),
):
    library.impl(_name, _run, "CUDA")
    _operator = below_autograd(getattr(torch.ops.cliffnn, _name).default)
    library.impl(_name, functools.partial(_function.apply, _operator), "Autograd")
    torch.library.register_fake(f"cliffnn::{_name}", _fake, lib=library)
    torch.library.register_vmap(f"cliffnn::{_name}", _batched(_torchs), lib=library)
