"""The fully connected geometric product as operators, each the derivative of the others.

With a gradient g of its result, the product defines one form in four tensors, linear in each:

    sum over (a, b, c, sign), path, channels of sign * g[c, out] * weight[path, out, in] * x[a, in] * y[b, in]

``cliffnn::fully_connected`` is its derivative with respect to g, ``cliffnn::fully_connected_factor`` with respect to
x or y, ``cliffnn::fully_connected_weight`` with respect to the weight. The derivatives of these are the same three, so
those of every order are right and run on the same kernels.

If asked, the product and the gradient of the weight `gelu` the factors while they read them. A first derivative that
nobody differentiates again is computed so, and those with respect to both factors, gates included, at once, by
``cliffnn::fully_connected_factors``. Derivatives beyond gate first.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from cliffnn.algebra import Algebra
from cliffnn.ops import below_autograd, differentiated, geometric_op, library, transformed, unobserved

library.define("fully_connected(Tensor x, Tensor y, Tensor weight, str algebra, bool gate) -> Tensor")
library.define("fully_connected_factor(Tensor grad, Tensor other, Tensor weight, str algebra, bool left) -> Tensor")
library.define(
    "fully_connected_factors(Tensor grad, Tensor x, Tensor y, Tensor weight, str algebra, bool gate)"
    " -> (Tensor, Tensor)"
)
library.define("fully_connected_weight(Tensor grad, Tensor x, Tensor y, str algebra, bool gate) -> Tensor")

# Elements of the products that are formed at a time.
_CHUNK = 2**22


def fully_connected(x: Tensor, y: Tensor, weight: Tensor, algebra: Algebra, gate: bool = False) -> Tensor:
    """Multiply channel by channel, and mix the channels of each path.

    Parameters
    ----------
    x, y : Tensor
        ``(rows, blades, in_channels)``.
    weight : Tensor
        ``(paths, out_channels, in_channels)``.
    algebra : Algebra
    gate : bool
        Whether `gelu` of the factors are multiplied.

    Returns
    -------
    Tensor
        ``(rows, blades, out_channels)``.
    """
    if transformed() and not torch.compiler.is_compiling():
        return _by_torch(x, y, weight, algebra.name, gate)
    return _call("fully_connected", x, y, weight, algebra.name, gate)


def fully_connected_factor(grad: Tensor, other: Tensor, weight: Tensor, algebra: Algebra, left: bool) -> Tensor:
    """The gradient of `fully_connected` with respect to one factor.

    Parameters
    ----------
    grad : Tensor
        ``(rows, blades, out_channels)``.
    other : Tensor
        The other factor, ``(rows, blades, in_channels)``.
    weight : Tensor
        ``(paths, out_channels, in_channels)``.
    algebra : Algebra
    left : bool
        Whether the gradient is that of the left factor, x.

    Returns
    -------
    Tensor
        ``(rows, blades, in_channels)``.
    """
    return _call("fully_connected_factor", grad, other, weight, algebra.name, left)


def fully_connected_factors(
    grad: Tensor, x: Tensor, y: Tensor, weight: Tensor, algebra: Algebra, gate: bool = False
) -> tuple[Tensor, Tensor]:
    """The gradients of `fully_connected` with respect to both factors; they have no derivative.

    Parameters
    ----------
    grad : Tensor
        ``(rows, blades, out_channels)``.
    x, y : Tensor
        ``(rows, blades, in_channels)``.
    weight : Tensor
        ``(paths, out_channels, in_channels)``.
    algebra : Algebra
    gate : bool
        Whether `gelu` of the factors are multiplied.

    Returns
    -------
    tuple of Tensor
        ``(rows, blades, in_channels)`` each.
    """
    return _call("fully_connected_factors", grad, x, y, weight, algebra.name, gate)


def fully_connected_weight(grad: Tensor, x: Tensor, y: Tensor, algebra: Algebra, gate: bool = False) -> Tensor:
    """The gradient of `fully_connected` with respect to its weight.

    Parameters
    ----------
    grad : Tensor
        ``(rows, blades, out_channels)``.
    x, y : Tensor
        ``(rows, blades, in_channels)``.
    algebra : Algebra
    gate : bool
        Whether `gelu` of the factors are multiplied.

    Returns
    -------
    Tensor
        ``(paths, out_channels, in_channels)``.
    """
    if gate and torch.is_grad_enabled():
        x, y, gate = geometric_op("gelu", algebra, [x]), geometric_op("gelu", algebra, [y]), False
    return _call("fully_connected_weight", grad, x, y, algebra.name, gate)


def _call(name: str, *arguments):
    """An operator, or where nobody would notice, and nobody differentiates, what it runs."""
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    if not unobserved(tensors):
        return getattr(torch.ops.cliffnn, name).default(*arguments)
    run, function, _ = _OPERATORS[name]
    if differentiated(tensors):
        return function.apply(run, *arguments)
    return run(*arguments)


def _gelu(x: Tensor) -> Tensor:
    return x * (0.5 * (1 + torch.erf(x[:, :1] * math.sqrt(0.5))))


def _through_gelu(grad: Tensor, x: Tensor, algebra: Algebra) -> Tensor:
    """The gradient with respect to x, from that with respect to `gelu` of x."""
    return geometric_op("gelu.vjp(out:x)", algebra, [x, grad])


def _one_factor(
    grad: Tensor, own: Tensor, other: Tensor, weight: Tensor, algebra: Algebra, left: bool, gate: bool
) -> Tensor:
    """The gradient with respect to one factor, by what it is made of."""
    if not gate:
        return fully_connected_factor(grad, other, weight, algebra, left)
    gated = geometric_op("gelu", algebra, [other])
    return _through_gelu(fully_connected_factor(grad, gated, weight, algebra, left), own, algebra)


@functools.cache
def _terms(algebra: Algebra) -> list[tuple[slice, list[int], list[list[list[tuple[int, int, int]]]]]]:
    """For each grade of a result its blades, its paths, and by blade and path the products ``(a, b, sign)``."""
    grade = algebra.grade_of_blades
    number = {path: index for index, path in enumerate(algebra.paths)}
    products: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for a, b, c, sign in algebra.products:
        products.setdefault((c, number[grade[a], grade[b], grade[c]]), []).append((a, b, sign))
    result = []
    for k, blades in enumerate(algebra.grade_slices):
        paths = [index for index, path in enumerate(algebra.paths) if path[2] == k]
        of_blades = [[products.get((c, path), []) for path in paths] for c in range(blades.start, blades.stop)]
        result.append((blades, paths, of_blades))
    return result


def _signed_sum(terms: list[tuple[Tensor, Tensor, int]], like: Tensor) -> Tensor:
    """Products of pairs, added and subtracted."""
    total = torch.zeros_like(like)
    for n, (a, b, sign) in enumerate(sorted(terms, key=lambda term: -term[2])):
        total = a * b * sign if n == 0 else torch.addcmul(total, a, b, value=sign)
    return total


def _products(x: Tensor, y: Tensor, algebra: Algebra) -> Iterator[tuple[slice, list[int], Tensor]]:
    """For each grade its blades, its paths, and their products ``(rows, blades, paths * channels)``."""
    xs, ys = x.unbind(1), y.unbind(1)
    for blades, paths, of_blades in _terms(algebra):
        flat = [
            _signed_sum([(xs[a], ys[b], sign) for a, b, sign in terms], xs[0])
            for of_paths in of_blades
            for terms in of_paths
        ]
        yield blades, paths, torch.stack(flat, 1).view(x.shape[0], len(of_blades), len(paths) * x.shape[-1])


def _plain(x: Tensor, y: Tensor, weight: Tensor, algebra: Algebra) -> Tensor:
    """`fully_connected` in torch's own functions: one matrix product for each grade of the result."""
    parts = [
        products @ weight[paths].transpose(1, 2).reshape(-1, weight.shape[1])
        for _, paths, products in _products(x, y, algebra)
    ]
    return torch.cat(parts, 1)


def _plain_factor(grad: Tensor, other: Tensor, weight: Tensor, algebra: Algebra, left: bool) -> Tensor:
    rows, channels = other.shape[0], weight.shape[2]
    others = other.unbind(1)
    terms: list[list[tuple[Tensor, Tensor, int]]] = [[] for _ in others]
    for blades, paths, of_blades in _terms(algebra):
        matrix = weight[paths].transpose(0, 1).reshape(weight.shape[1], -1)
        mixed = (grad[:, blades] @ matrix).view(rows, len(of_blades) * len(paths), channels).unbind(1)
        flat = iter(mixed)
        for of_paths in of_blades:
            for products in of_paths:
                gradient = next(flat)
                for a, b, sign in products:
                    result, factor = (a, b) if left else (b, a)
                    terms[result].append((gradient, others[factor], sign))
    return torch.stack([_signed_sum(of_blade, others[0]) for of_blade in terms], 1)


def _plain_weight(grad: Tensor, x: Tensor, y: Tensor, algebra: Algebra) -> Tensor:
    result: list[Tensor] = [grad] * len(algebra.paths)
    for blades, paths, products in _products(x, y, algebra):
        matrix = grad[:, blades].flatten(0, 1).mT @ products.flatten(0, 1)
        of_paths = matrix.view(grad.shape[-1], len(paths), x.shape[-1]).unbind(1)
        for path, gradient in zip(paths, of_paths, strict=True):
            result[path] = gradient
    return torch.stack(result)


def _in_chunks(run: Callable[..., Tensor], algebra: Algebra, *tensors: Tensor) -> Iterator[Tensor]:
    """Results on some rows at a time, so that the products of all paths take a bounded memory."""
    most = max(len(blades) * len(paths) for _, paths, blades in _terms(algebra))
    rows = max(1, _CHUNK // (most * max(t.shape[-1] for t in tensors)))
    for parts in zip(*(t.split(rows) for t in tensors), strict=True):
        yield run(*parts)


def _kernels(x: Tensor) -> bool:
    """Kernels run on tensor cores, which most devices don't have for float64."""
    return x.is_cuda and x.dtype != torch.float64


def _forward(x, y, weight, algebra, gate):
    algebra = Algebra(algebra)
    if _kernels(x):
        from cliffnn.kernels.fully_connected import fully_connected

        return fully_connected(x.contiguous(), y.contiguous(), weight.contiguous(), algebra, gate)
    weight = _widened(weight)
    parts = _in_chunks(lambda x, y: _plain(_read(x, gate), _read(y, gate), weight, algebra), algebra, x, y)
    return torch.cat([*parts]).to(x.dtype)


def _factor(grad, other, weight, algebra, left):
    algebra = Algebra(algebra)
    if _kernels(grad):
        from cliffnn.kernels.fully_connected import fully_connected_factor

        return fully_connected_factor(grad.contiguous(), other.contiguous(), weight, algebra, left)
    weight = _widened(weight)
    parts = _in_chunks(
        lambda grad, other: _plain_factor(_widened(grad), _widened(other), weight, algebra, left), algebra, grad, other
    )
    return torch.cat([*parts]).to(grad.dtype)


def _factors(grad, x, y, weight, algebra, gate):
    algebra = Algebra(algebra)
    if _kernels(grad):
        from cliffnn.kernels.fully_connected import fully_connected_factors, shares_products

        if shares_products(algebra):
            return fully_connected_factors(grad.contiguous(), x.contiguous(), y.contiguous(), weight, algebra, gate)
    return (
        _one_factor(grad, x, y, weight, algebra, True, gate),
        _one_factor(grad, y, x, weight, algebra, False, gate),
    )


def _weight(grad, x, y, algebra, gate):
    algebra = Algebra(algebra)
    if _kernels(grad):
        from cliffnn.kernels.fully_connected import fully_connected_weight

        return fully_connected_weight(grad.contiguous(), x.contiguous(), y.contiguous(), algebra, gate)
    parts = _in_chunks(
        lambda grad, x, y: _plain_weight(_widened(grad), _read(x, gate), _read(y, gate), algebra), algebra, grad, x, y
    )
    return functools.reduce(torch.add, parts).to(grad.dtype)


def _by_torch(x, y, weight, algebra, gate):
    """For transforms of `torch.func`, and forward mode."""
    x, y = (_gelu(x), _gelu(y)) if gate else (x, y)
    return _plain(x, y, weight, Algebra(algebra))


def _read(factor: Tensor, gate: bool) -> Tensor:
    return _gelu(_widened(factor)) if gate else _widened(factor)


def _widened(x: Tensor) -> Tensor:
    """In the dtype of the arithmetic."""
    return x if x.dtype == torch.float64 else x.float()


class _FullyConnected(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, x, y, weight, algebra, gate):
        ctx.save_for_backward(x, y, weight)
        ctx.algebra, ctx.gate = Algebra(algebra), gate
        return run(x, y, weight, algebra, gate)

    @staticmethod
    def backward(ctx, grad):
        x, y, weight = ctx.saved_tensors
        grad_x = grad_y = grad_weight = None
        _, need_x, need_y, need_weight, *_ = ctx.needs_input_grad
        if need_weight:
            grad_weight = fully_connected_weight(grad, x, y, ctx.algebra, ctx.gate)
        if need_x and need_y and not torch.is_grad_enabled():
            grad_x, grad_y = fully_connected_factors(grad, x, y, weight, ctx.algebra, ctx.gate)
        else:
            if need_x:
                grad_x = _one_factor(grad, x, y, weight, ctx.algebra, True, ctx.gate)
            if need_y:
                grad_y = _one_factor(grad, y, x, weight, ctx.algebra, False, ctx.gate)
        return None, grad_x, grad_y, grad_weight, None, None


class _FullyConnectedFactor(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, grad, other, weight, algebra, left):
        ctx.save_for_backward(grad, other, weight)
        ctx.algebra, ctx.left = Algebra(algebra), left
        return run(grad, other, weight, algebra, left)

    @staticmethod
    def backward(ctx, cotangent):
        grad, other, weight = ctx.saved_tensors
        _, need_grad, need_other, need_weight, *_ = ctx.needs_input_grad
        factors = (cotangent, other) if ctx.left else (other, cotangent)
        return (
            None,
            fully_connected(*factors, weight, ctx.algebra) if need_grad else None,
            fully_connected_factor(grad, cotangent, weight, ctx.algebra, not ctx.left) if need_other else None,
            fully_connected_weight(grad, *factors, ctx.algebra) if need_weight else None,
            None,
            None,
        )


class _FullyConnectedFactors(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, grad, x, y, weight, algebra, gate):
        return run(grad, x, y, weight, algebra, gate)

    @staticmethod
    def backward(ctx, *cotangents):
        _refuse(True)


class _FullyConnectedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, grad, x, y, algebra, gate):
        ctx.save_for_backward(grad, x, y)
        ctx.algebra, ctx.gate = Algebra(algebra), gate
        return run(grad, x, y, algebra, gate)

    @staticmethod
    def backward(ctx, cotangent):
        _refuse(ctx.gate)
        grad, x, y = ctx.saved_tensors
        _, need_grad, need_x, need_y, *_ = ctx.needs_input_grad
        return (
            None,
            fully_connected(x, y, cotangent, ctx.algebra) if need_grad else None,
            fully_connected_factor(grad, y, cotangent, ctx.algebra, left=True) if need_x else None,
            fully_connected_factor(grad, x, cotangent, ctx.algebra, left=False) if need_y else None,
            None,
            None,
        )


def _refuse(gate: bool) -> None:
    if gate:
        raise RuntimeError("this gradient's operator has no derivative; the functions of this module gate before it")


def _fully_connected_fake(x, y, weight, algebra, gate):
    return x.new_empty(*x.shape[:-1], weight.shape[1])


def _fully_connected_factor_fake(grad, other, weight, algebra, left):
    return other.new_empty(other.shape)


def _fully_connected_factors_fake(grad, x, y, weight, algebra, gate):
    return x.new_empty(x.shape), y.new_empty(y.shape)


def _fully_connected_weight_fake(grad, x, y, algebra, gate):
    return x.new_empty(len(Algebra(algebra).paths), grad.shape[-1], x.shape[-1])


# What each operator runs, its derivative, and the shape of its result.
_OPERATORS: dict[str, tuple[Callable, Any, Callable]] = {
    "fully_connected": (_forward, _FullyConnected, _fully_connected_fake),
    "fully_connected_factor": (_factor, _FullyConnectedFactor, _fully_connected_factor_fake),
    "fully_connected_factors": (_factors, _FullyConnectedFactors, _fully_connected_factors_fake),
    "fully_connected_weight": (_weight, _FullyConnectedWeight, _fully_connected_weight_fake),
}

for _name, (_run, _function, _fake) in _OPERATORS.items():
    for _key in ("CPU", "CUDA"):
        library.impl(_name, _run, _key)
    _operator = below_autograd(getattr(torch.ops.cliffnn, _name).default)
    library.impl(_name, functools.partial(_function.apply, _operator), "Autograd")
    torch.library.register_fake(f"cliffnn::{_name}", _fake, lib=library)
library.impl("fully_connected", _by_torch, "FuncTorchDynamicLayerFrontMode")
