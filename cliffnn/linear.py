"""The linear map of each grade as an operator on CUDA devices; elsewhere it is torch's own matrix product.

Two operators, closed under differentiation: ``cliffnn::linear`` and, for all of its gradients,
``cliffnn::linear_backward``. Of the algebra they need to know no more than how many blades each grade has.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from cliffnn.ops import below_autograd, differentiated, library, transformed, unobserved

library.define("linear(Tensor x, Tensor weight, Tensor? bias, int[] sizes) -> Tensor")
library.define(
    "linear_backward(Tensor grad, Tensor? x, Tensor? weight, Tensor? beside, int[] sizes, bool bias) -> Tensor[]"
)


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
    given = _given(x, weight, bias)
    if unobserved(given):
        arguments = x, weight, bias, sizes
        return _Linear.apply(_linear, *arguments) if differentiated(given) else _linear(*arguments)
    if not x.is_cuda or transformed():
        return _composed(x, weight, bias, sizes)
    return torch.ops.cliffnn.linear.default(x, weight, bias, sizes)


def linear_beside(x: Tensor, weight: Tensor, bias: Tensor | None, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The result of `linear`, and its input again, for what else is computed of that.

    The gradient of the latter is added where the map's own is computed, before it is written.
    """
    given = _given(x, weight, bias)
    if x.requires_grad and torch.is_grad_enabled():
        if unobserved(given):
            return _LinearBeside.apply(_linear, x, weight, bias, sizes)
        if x.is_cuda and not (torch.compiler.is_compiling() or transformed()):
            return _LinearBeside.apply(_observed, x, weight, bias, sizes)
    return linear(x, weight, bias, sizes), x


def linear_backward(
    grad: Tensor, x: Tensor | None, weight: Tensor | None, beside: Tensor | None, sizes: tuple[int, ...], bias: bool
) -> Sequence[Tensor]:
    """The gradients of `linear`, those for which there is what they are computed of.

    Parameters
    ----------
    grad : Tensor
        ``(rows, blades, out_channels)``.
    x : Tensor or None
        ``(rows, blades, in_channels)``, for the gradient with respect to the weight.
    weight : Tensor or None
        ``(grades, out_channels, in_channels)``, for the gradient with respect to the input.
    beside : Tensor or None
        ``(rows, blades, in_channels)``, added to the gradient with respect to the input.
    sizes : tuple of int
        The number of blades of each grade.
    bias : bool
        Whether the gradient with respect to a bias is wanted.

    Returns
    -------
    sequence of Tensor
        With respect to the input, the weight and the bias.
    """
    given = _given(grad, x, weight, beside)
    arguments = grad, x, weight, beside, sizes, bias
    if unobserved(given):
        if differentiated(given):
            return _LinearBackward.apply(_linear_backward, *arguments)
        return _linear_backward(*arguments)
    if not grad.is_cuda:
        return _composed_backward(*arguments)
    return torch.ops.cliffnn.linear_backward.default(*arguments)


def _given(*tensors: Tensor | None) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


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


def _composed_backward(grad, x, weight, beside, sizes, bias, run=_composed):
    results = []
    if weight is not None:
        grad_x = run(grad, weight.mT, None, sizes)
        if beside is not None:
            grad_x = grad_x.add_(beside) if run is _in_place else grad_x + beside
        results.append(grad_x)
    if x is not None:
        products = torch.einsum("nbo,nbi->boi", grad, x).split(list(sizes))
        results.append(torch.stack([product.sum(0) for product in products]))
    if bias:
        results.append(grad[:, 0].sum(0))
    return results


@functools.cache
def _kernels() -> ModuleType:
    from cliffnn.kernels import linear

    return linear


def _linear(x, weight, bias, sizes):
    if not x.is_cuda:
        return _in_place(x, weight, bias, sizes)
    return _kernels().linear(x.contiguous(), weight, bias, tuple(sizes))


def _linear_backward(grad, x, weight, beside, sizes, bias):
    if not grad.is_cuda:
        return _composed_backward(grad, x, weight, beside, sizes, bias, _in_place)
    x, beside = (None if t is None else t.contiguous() for t in (x, beside))
    return _kernels().linear_backward(grad.contiguous(), x, weight, beside, tuple(sizes), bias)


_observed = below_autograd(torch.ops.cliffnn.linear.default)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, x, weight, bias, sizes):
        ctx.save_for_backward(x, weight)
        ctx.sizes = tuple(sizes)
        return run(x, weight, bias, sizes)

    @staticmethod
    def backward(ctx, grad, beside=None):
        x, weight = ctx.saved_tensors
        _, need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        factors = x if need_weight else None, weight if need_x else None
        gradients = iter(linear_backward(grad, *factors, beside, ctx.sizes, need_bias))
        return None, *(next(gradients) if need else None for need in (need_x, need_weight, need_bias)), None


class _LinearBeside(_Linear):
    @staticmethod
    def forward(ctx, run, x, weight, bias, sizes):
        return _Linear.forward(ctx, run, x, weight, bias, sizes), x


class _LinearBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, grad, x, weight, beside, sizes, bias):
        ctx.save_for_backward(grad, x, weight)
        ctx.sizes, ctx.bias = tuple(sizes), bias
        ctx.set_materialize_grads(False)
        return tuple(run(grad, x, weight, beside, sizes, bias))

    @staticmethod
    def backward(ctx, *cotangents):
        """Gradients are products too, so what comes of their cotangents are the same operators."""
        grad, x, weight = ctx.saved_tensors
        _, need_grad, need_x, need_weight, need_beside, _, _ = ctx.needs_input_grad
        computed = iter(cotangents)
        of_x, of_weight, of_bias = (
            next(computed) if given else None for given in (weight is not None, x is not None, ctx.bias)
        )
        of_grad = None
        if need_grad:
            products = (of_x, weight), (x, of_weight)
            terms = [linear(a, b, None, ctx.sizes) for a, b in products if a is not None and b is not None]
            if of_bias is not None:
                terms.append(torch.cat([of_bias.expand(grad.shape[0], 1, -1), torch.zeros_like(grad[:, 1:])], 1))
            of_grad = sum(terms[1:], terms[0]) if terms else None
        factors = of_x if need_weight else None, of_weight if need_x else None
        gradients = iter(linear_backward(grad, *factors, None, ctx.sizes, False) if _given(*factors) else ())
        for_x, for_weight = (None if factor is None else next(gradients) for factor in reversed(factors))
        return None, of_grad, for_x, for_weight, of_x if need_beside else None, None, None


def _linear_fake(x, weight, bias, sizes):
    return x.new_empty(*x.shape[:-1], weight.shape[1])


def _linear_backward_fake(grad, x, weight, beside, sizes, bias):
    shapes = []
    if weight is not None:
        shapes.append((*grad.shape[:-1], weight.shape[2]))
    if x is not None:
        shapes.append((len(sizes), grad.shape[-1], x.shape[-1]))
    if bias:
        shapes.append(grad.shape[-1:])
    return [grad.new_empty(shape) for shape in shapes]


def _batched(composed):
    """The rule of `torch.vmap`: one after the other, of torch's operators."""

    def rule(info, in_dims, *inputs):
        results = []
        for n in range(info.batch_size):
            # what is no tensor has no dimension, or a list of none
            one = (t.select(d, n) if isinstance(d, int) else t for t, d in zip(inputs, in_dims, strict=True))
            results.append(composed(*one))
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        outputs = [torch.stack(of_output) for of_output in zip(*results, strict=True)]
        return outputs, [0] * len(outputs)

    return rule


def _autograd(*arguments):
    return _Linear.apply(below_autograd(torch.ops.cliffnn.linear.default), *arguments)


def _backward_autograd(*arguments):
    return list(_LinearBackward.apply(below_autograd(torch.ops.cliffnn.linear_backward.default), *arguments))


for _name, _run, _differentiable, _fake, _torchs in (
    ("linear", _linear, _autograd, _linear_fake, _composed),
    ("linear_backward", _linear_backward, _backward_autograd, _linear_backward_fake, _composed_backward),
):
    library.impl(_name, _run, "CUDA")
    library.impl(_name, _differentiable, "Autograd")
    torch.library.register_fake(f"cliffnn::{_name}", _fake, lib=library)
    torch.library.register_vmap(f"cliffnn::{_name}", _batched(_torchs), lib=library)
