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
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cliffnn import path_products
from cliffnn.algebra import Algebra
from cliffnn.graded_product import GradedProduct
from cliffnn.operation import operation, text
from cliffnn.ops import below_autograd, differentiated, geometric_op, library, transformed, unobserved

library.define("fully_connected(Tensor x, Tensor y, Tensor weight, str product, bool gate) -> Tensor")
library.define("fully_connected_factor(Tensor grad, Tensor other, Tensor weight, str product, bool left) -> Tensor")
library.define(
    "fully_connected_factors(Tensor grad, Tensor x, Tensor y, Tensor weight, str product, bool gate)"
    " -> (Tensor, Tensor)"
)
library.define("fully_connected_weight(Tensor grad, Tensor x, Tensor y, str product, bool gate) -> Tensor")

# Channels from which products that are written are faster, on an H100 (`docs/kernels.md`): of up to 8 blades; of more,
# and of the gradients of factors.
_WIDE = 512, 256


def fully_connected(x: Tensor, y: Tensor, weight: Tensor, product: str, gate: bool = False) -> Tensor:
    """Multiply channel by channel, and mix the channels of each path.

    Parameters
    ----------
    x, y : Tensor
        ``(rows, blades, in_channels)``.
    weight : Tensor
        ``(paths, out_channels, in_channels)``.
    product : str
        The text of a `GradedProduct`: the algebra's name, and grades if not all are held.
    gate : bool
        Whether `gelu` of the factors are multiplied.

    Returns
    -------
    Tensor
        ``(rows, blades, out_channels)``.
    """
    if transformed() and not torch.compiler.is_compiling():
        return _by_path(x, y, weight, product, gate)
    return _call("fully_connected", x, y, weight, product, gate)


def fully_connected_factor(grad: Tensor, other: Tensor, weight: Tensor, product: str, left: bool) -> Tensor:
    """The gradient of `fully_connected` with respect to one factor.

    Parameters
    ----------
    grad : Tensor
        ``(rows, blades, out_channels)``.
    other : Tensor
        The other factor, ``(rows, blades, in_channels)``.
    weight : Tensor
        ``(paths, out_channels, in_channels)``.
    product : str
    left : bool
        Whether the gradient is that of the left factor, x.

    Returns
    -------
    Tensor
        ``(rows, blades, in_channels)``.
    """
    return _call("fully_connected_factor", grad, other, weight, product, left)


def fully_connected_factors(
    grad: Tensor, x: Tensor, y: Tensor, weight: Tensor, product: str, gate: bool = False
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
    product : str
    gate : bool
        Whether `gelu` of the factors are multiplied.

    Returns
    -------
    tuple of Tensor
        ``(rows, blades, in_channels)`` each.
    """
    return _call("fully_connected_factors", grad, x, y, weight, product, gate)


def fully_connected_weight(grad: Tensor, x: Tensor, y: Tensor, product: str, gate: bool = False) -> Tensor:
    """The gradient of `fully_connected` with respect to its weight.

    Parameters
    ----------
    grad : Tensor
        ``(rows, blades, out_channels)``.
    x, y : Tensor
        ``(rows, blades, in_channels)``.
    product : str
    gate : bool
        Whether `gelu` of the factors are multiplied.

    Returns
    -------
    Tensor
        ``(paths, out_channels, in_channels)``.
    """
    if gate and torch.is_grad_enabled():
        of = GradedProduct.of(product)
        x, y, gate = _gelu(x, of.algebra, of.x), _gelu(y, of.algebra, of.y), False
    return _call("fully_connected_weight", grad, x, y, product, gate)


def _call(name: str, *arguments):
    """An operator, or where nobody would notice, and nobody differentiates, what it runs."""
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    if not unobserved(tensors):
        return getattr(torch.ops.cliffnn, name).default(*arguments)
    run, function, _ = _OPERATORS[name]
    if differentiated(tensors):
        return function.apply(run, *arguments)
    return run(*arguments)


def _gelu(x: Tensor, algebra: Algebra, grades: tuple[int, ...]) -> Tensor:
    return geometric_op(text("gelu", {"x": grades, "out": grades}), algebra, [x])


def _one_factor(grad: Tensor, x: Tensor, y: Tensor, weight: Tensor, product: str, gate: bool, left: bool) -> Tensor:
    """The gradient with respect to one factor, by what it is made of."""
    own, other = (x, y) if left else (y, x)
    if not gate:
        return fully_connected_factor(grad, other, weight, product, left)
    of = GradedProduct.of(product)
    own_grades, other_grades = (of.x, of.y) if left else (of.y, of.x)
    slope = fully_connected_factor(grad, _gelu(other, of.algebra, other_grades), weight, product, left)
    gelu = operation(text("gelu", {"x": own_grades, "out": own_grades}), of.algebra.name)
    return geometric_op(gelu.vjp(("out",), ("x",)).text, of.algebra, [own, slope])


def _kernels(x: Tensor, outputs: int, wide: int) -> bool:
    """Whether kernels are used, which form products on chip.

    Most devices have no tensor cores for float64; wide matrices are faster where products are written and read.
    """
    if not x.is_cuda or x.dtype == torch.float64:
        return False
    from cliffnn.kernels.linear import dot_precision

    return min(x.shape[-1], outputs) < wide or x.dtype != torch.float32 or dot_precision(x) != "tf32"


def _forward(x, y, weight, product, gate):
    of = GradedProduct.of(product)
    if _kernels(x, weight.shape[1], _WIDE[max(of.sizes) > 8]):
        from cliffnn.kernels.fully_connected import fully_connected

        return fully_connected(x.contiguous(), y.contiguous(), weight.contiguous(), of, gate)
    return _by_path(x, y, weight, product, gate)


def _factor(grad, other, weight, product, left):
    known, of = _widened(other), GradedProduct.of(product)
    # of the factor itself only the shape is of use
    shape = known.shape[0], of.sizes[0 if left else 1], known.shape[2]
    own = known if known.shape == shape else known.new_empty(shape)
    x, y, name = (own, known, "x") if left else (known, own, "y")
    (result,) = path_products.factors(_widened(grad), x, y, _widened(weight), of, wrt=(name,))
    return result.to(grad.dtype)


def _factors(grad, x, y, weight, product, gate):
    of = GradedProduct.of(product)
    if _kernels(x, weight.shape[1], _WIDE[1]):
        from cliffnn.kernels.fully_connected import fully_connected_factors, shares_products

        if shares_products(of):
            return fully_connected_factors(grad.contiguous(), x.contiguous(), y.contiguous(), weight, of, gate)
    tensors = _widened(grad), _widened(x), _widened(y), _widened(weight)
    return tuple(gradient.to(grad.dtype) for gradient in path_products.factors(*tensors, of, gate))


def _weight(grad, x, y, product, gate):
    of = GradedProduct.of(product)
    if _kernels(x, grad.shape[-1], _WIDE[max(of.sizes) > 8]):
        from cliffnn.kernels.fully_connected import fully_connected_weight

        return fully_connected_weight(grad.contiguous(), x.contiguous(), y.contiguous(), of, gate)
    return path_products.weights(_widened(grad), _widened(x), _widened(y), of, gate).to(grad.dtype)


def _by_path(x, y, weight, product, gate):
    """Transforms of `torch.func`, and forward mode, differentiate this."""
    of = GradedProduct.of(product)
    return path_products.multiply(_widened(x), _widened(y), _widened(weight), of, gate).to(x.dtype)


def _widened(x: Tensor) -> Tensor:
    """In the dtype of the arithmetic; a GPU multiplies matrices of half precision with sums in float32."""
    return x if x.dtype == torch.float64 or x.is_cuda else x.float()


class _FullyConnected(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, x, y, weight, product, gate):
        ctx.save_for_backward(x, y, weight)
        ctx.product, ctx.gate = product, gate
        return run(x, y, weight, product, gate)

    @staticmethod
    def backward(ctx, grad):
        x, y, weight = ctx.saved_tensors
        grad_x = grad_y = grad_weight = None
        _, need_x, need_y, need_weight, *_ = ctx.needs_input_grad
        if need_weight:
            grad_weight = fully_connected_weight(grad, x, y, ctx.product, ctx.gate)
        if need_x and need_y and not torch.is_grad_enabled():
            grad_x, grad_y = fully_connected_factors(grad, x, y, weight, ctx.product, ctx.gate)
        else:
            if need_x:
                grad_x = _one_factor(grad, x, y, weight, ctx.product, ctx.gate, left=True)
            if need_y:
                grad_y = _one_factor(grad, x, y, weight, ctx.product, ctx.gate, left=False)
        return None, grad_x, grad_y, grad_weight, None, None


class _FullyConnectedFactor(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, grad, other, weight, product, left):
        ctx.save_for_backward(grad, other, weight)
        ctx.product, ctx.left = product, left
        return run(grad, other, weight, product, left)

    @staticmethod
    def backward(ctx, cotangent):
        grad, other, weight = ctx.saved_tensors
        _, need_grad, need_other, need_weight, *_ = ctx.needs_input_grad
        factors = (cotangent, other) if ctx.left else (other, cotangent)
        return (
            None,
            fully_connected(*factors, weight, ctx.product) if need_grad else None,
            fully_connected_factor(grad, cotangent, weight, ctx.product, not ctx.left) if need_other else None,
            fully_connected_weight(grad, *factors, ctx.product) if need_weight else None,
            None,
            None,
        )


class _FullyConnectedFactors(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, grad, x, y, weight, product, gate):
        return run(grad, x, y, weight, product, gate)

    @staticmethod
    def backward(ctx, *cotangents):
        _refuse(True)


class _FullyConnectedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, grad, x, y, product, gate):
        ctx.save_for_backward(grad, x, y)
        ctx.product, ctx.gate = product, gate
        return run(grad, x, y, product, gate)

    @staticmethod
    def backward(ctx, cotangent):
        _refuse(ctx.gate)
        grad, x, y = ctx.saved_tensors
        _, need_grad, need_x, need_y, *_ = ctx.needs_input_grad
        return (
            None,
            fully_connected(x, y, cotangent, ctx.product) if need_grad else None,
            fully_connected_factor(grad, y, cotangent, ctx.product, left=True) if need_x else None,
            fully_connected_factor(grad, x, cotangent, ctx.product, left=False) if need_y else None,
            None,
            None,
        )


def _refuse(gate: bool) -> None:
    if gate:
        raise RuntimeError("this gradient's operator has no derivative; the functions of this module gate before it")


def _fully_connected_fake(x, y, weight, product, gate):
    return x.new_empty(x.shape[0], GradedProduct.of(product).sizes[2], weight.shape[1])


def _fully_connected_factor_fake(grad, other, weight, product, left):
    x, y, _ = GradedProduct.of(product).sizes
    return other.new_empty(other.shape[0], x if left else y, other.shape[2])


def _fully_connected_factors_fake(grad, x, y, weight, product, gate):
    return x.new_empty(x.shape), y.new_empty(y.shape)


def _fully_connected_weight_fake(grad, x, y, product, gate):
    return x.new_empty(len(GradedProduct.of(product).paths), grad.shape[-1], x.shape[-1])


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
library.impl("fully_connected", _by_path, "FuncTorchDynamicLayerFrontMode")
