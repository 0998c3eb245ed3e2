"""The torch operators: one for every expression and algebra, and its backward.

``cliffnn::geometric_op`` evaluates an expression row by row and, if asked, normalises the result by grade. Its
backward is an operator too; the backward of that one differentiates the generated torch code with autograd, so
derivatives of any order are right, though only the first is fused.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.nn import Parameter

from cliffnn import cache, generated, traceable
from cliffnn.algebra import Algebra
from cliffnn.norm import compute_dtype

# An argument of the operators, so that the key of torch.compile's cache on disk depends on what is generated.
GENERATOR = cache.fingerprint()

library = torch.library.Library("cliffnn", "DEF")
# Compilers take seconds for 16 blades, minutes for 32.
_VISIBLE_BLADES = 16

library.define(
    "geometric_op(Tensor[] rows, Tensor[] params, str expression, str algebra, bool normalize, float eps,"
    " str generator) -> (Tensor, Tensor)"
)
library.define(
    "geometric_op_backward(Tensor grad, Tensor out, Tensor scales, Tensor[] rows, Tensor[] params,"
    " str expression, str algebra, bool normalize, float eps, bool[] wrt, str generator) -> Tensor[]"
)


def geometric_op(
    expression: str,
    algebra: Algebra,
    rows: Sequence[Tensor],
    params: Sequence[Tensor] = (),
    normalize: bool = False,
    eps: float = 1e-6,
) -> Tensor:
    """Evaluate an expression on contiguous ``(rows, blades, channels)`` tensors; see `cliffnn.generated.forward`."""
    tensors = [*rows, *params]
    if unobserved(tensors):
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            arguments = len(rows), expression, algebra.name, normalize, eps, GENERATOR
            return _Forward.apply(_forward, *arguments, *tensors)[0]
        return _forward(rows, params, expression, algebra.name, normalize, eps, GENERATOR)[0]
    out, _ = torch.ops.cliffnn.geometric_op.default(
        list(rows), list(params), expression, algebra.name, normalize, eps, GENERATOR
    )
    return out


def unobserved(tensors: Sequence[Tensor]) -> bool:
    """Whether an operator has nobody to tell of itself: no compiler, transform, mode or profiler, no kind of tensor.

    What runs is the same; the way through torch's dispatcher costs more than a kernel on a small batch.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or torch.autograd._profiler_enabled()
    ) and all(type(tensor) in (Tensor, Parameter) for tensor in tensors)


def _executor(device: torch.device) -> ModuleType:
    if device.type == "cuda":
        try:
            from cliffnn import kernels
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "triton":
                raise
            raise ImportError("tensors on a CUDA device need Triton: pip install triton") from error
        return kernels
    return generated


def _forward(rows, params, expression, algebra, normalize, eps, generator):
    run = _executor(rows[0].device).forward
    return run(expression, Algebra(algebra), _contiguous(rows), _contiguous(params), normalize, eps)


def _backward(grad, out, scales, rows, params, expression, algebra, normalize, eps, wrt, generator):
    run = _executor(grad.device).backward
    grad, out, scales = _contiguous([grad, out, scales])
    rows, params = _contiguous(rows), _contiguous(params)
    return run(expression, Algebra(algebra), grad, out, scales, rows, params, normalize, wrt)


def _contiguous(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]


def _forward_fake(rows, params, expression, algebra, normalize, eps, generator):
    grades = len(Algebra(algebra).grades) if normalize else 0
    scales = rows[0].new_empty(rows[0].shape[0], grades, dtype=compute_dtype(rows[0].dtype))
    return torch.empty_like(rows[0]), scales


def _backward_fake(grad, out, scales, rows, params, expression, algebra, normalize, eps, wrt, generator):
    return [torch.empty_like(t) for t, wanted in zip([*rows, *params], wrt, strict=True) if wanted]


class _Forward(torch.autograd.Function):
    """Differentiates `geometric_op` by `geometric_op_backward`."""

    @staticmethod
    def forward(ctx, run, count, expression, algebra, normalize, eps, generator, *tensors):
        out, scales = run(tensors[:count], tensors[count:], expression, algebra, normalize, eps, generator)
        # without the norm nothing needs the result, which may then be changed in place
        ctx.save_for_backward(out if normalize else scales, scales, *tensors)
        ctx.mark_non_differentiable(scales)
        ctx.set_materialize_grads(False)
        ctx.arguments = count, expression, algebra, normalize, eps, generator
        return out, scales

    @staticmethod
    def backward(ctx, grad, _):
        count, expression, algebra, normalize, eps, generator = ctx.arguments
        wrt = ctx.needs_input_grad[7:]
        if grad is None or not any(wrt):
            return (None,) * (7 + len(wrt))
        out, scales, *tensors = ctx.saved_tensors
        alone = not torch.is_grad_enabled() and unobserved([grad, *tensors])
        run = _backward if alone else torch.ops.cliffnn.geometric_op_backward.default
        rows, params = tensors[:count], tensors[count:]
        gradients = iter(
            run(grad, out, scales, rows, params, expression, algebra, normalize, eps, list(wrt), generator)
        )
        return (None,) * 7 + tuple(next(gradients) if wanted else None for wanted in wrt)


class _Backward(torch.autograd.Function):
    """Differentiates `geometric_op_backward` through the generated torch code, to any order."""

    @staticmethod
    def forward(ctx, count, expression, algebra, normalize, eps, wrt, generator, grad, out, scales, *tensors):
        with torch._C._AutoDispatchBelowAutograd():
            gradients = torch.ops.cliffnn.geometric_op_backward.default(
                grad, out, scales, tensors[:count], tensors[count:], expression, algebra, normalize, eps, wrt, generator
            )
        ctx.save_for_backward(grad, *tensors)
        ctx.set_materialize_grads(False)
        ctx.arguments = count, expression, algebra, normalize, eps, wrt
        return tuple(gradients)

    @staticmethod
    def backward(ctx, *cotangents):
        count, expression, algebra, normalize, eps, wrt = ctx.arguments
        # out and scales are functions of rows and params here, so nothing flows through them as inputs
        saved = ctx.saved_tensors
        needed = [ctx.needs_input_grad[7], *ctx.needs_input_grad[10:]]
        higher = torch.is_grad_enabled()
        with torch.enable_grad():
            # a view, not a copy: with create_graph the result stays connected to what was saved
            grad, *tensors = [t.view_as(t) if higher else t.detach().requires_grad_() for t in saved]
            tensors = [t if t.requires_grad else t.detach().requires_grad_() for t in tensors]
            value = traceable.differentiable(
                expression, Algebra(algebra), tensors[:count], tensors[count:], normalize, eps
            )
            chosen = [t for t, wanted in zip(tensors, wrt, strict=True) if wanted]
            first = torch.autograd.grad(value, chosen, grad, create_graph=True)
            pairs = [(f, c) for f, c in zip(first, cotangents, strict=True) if c is not None]
            targets = [t for t, wanted in zip([grad, *tensors], needed, strict=True) if wanted]
            second = iter(
                torch.autograd.grad(
                    [f for f, _ in pairs],
                    targets,
                    [c for _, c in pairs],
                    create_graph=higher,
                    allow_unused=True,
                )
                if pairs and targets
                else [None] * len(targets)
            )
        results = [next(second) if wanted else None for wanted in needed]
        return (None,) * 7 + (results[0], None, None, *results[1:])


def _forward_autograd(rows, params, expression, algebra, normalize, eps, generator):
    return _Forward.apply(_below_autograd, len(rows), expression, algebra, normalize, eps, generator, *rows, *params)


def _below_autograd(*arguments):
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.cliffnn.geometric_op.default(*arguments)


def _backward_autograd(grad, out, scales, rows, params, expression, algebra, normalize, eps, wrt, generator):
    gradients = _Backward.apply(
        len(rows), expression, algebra, normalize, eps, list(wrt), generator, grad, out, scales, *rows, *params
    )
    return list(gradients)


def _visible(run):
    """A rule for AOTAutograd: on a CPU the compiler shall see, and fuse, every step of an operator.

    Kernels on a GPU are better than what a compiler makes of the steps, and exported programs shall hold operators.
    """

    def rule(mode, operator, types, args, kwargs):
        arguments = dict(zip((argument.name for argument in operator._schema.arguments), args, strict=True))
        small = len(Algebra(arguments["algebra"])) <= _VISIBLE_BLADES
        if mode.export or not small or arguments["rows"][0].device.type != "cpu":
            return mode.__torch_dispatch__(operator, types, args, kwargs)
        with mode:
            return run(**arguments)

    return rule


def _forward_visible(rows, params, expression, algebra, normalize, eps, generator):
    return traceable.forward(expression, Algebra(algebra), rows, params, normalize, eps)


def _backward_visible(grad, out, scales, rows, params, expression, algebra, normalize, eps, wrt, generator):
    return traceable.backward(expression, Algebra(algebra), grad, out, scales, rows, params, normalize, wrt)


for _key in ("CPU", "CUDA"):
    library.impl("geometric_op", _forward, _key)
    library.impl("geometric_op_backward", _backward, _key)
library.impl("geometric_op", _forward_autograd, "Autograd")
library.impl("geometric_op_backward", _backward_autograd, "Autograd")
torch.library.register_fake("cliffnn::geometric_op", _forward_fake, lib=library)
torch.library.register_fake("cliffnn::geometric_op_backward", _backward_fake, lib=library)
for _name, _rule in (("geometric_op", _forward_visible), ("geometric_op_backward", _backward_visible)):
    torch.library.register_torch_dispatch(f"cliffnn::{_name}", FunctionalTensorMode, _visible(_rule), lib=library)
