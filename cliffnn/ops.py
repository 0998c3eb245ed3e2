"""The torch operator: it evaluates any operation, and its derivative is the same operator with another operation.

``cliffnn::geometric_op`` takes the operation's text and the algebra's name. Derivatives of every order are generated
from the expression, and run fused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.autograd import forward_ad
from torch.nn import Parameter

from cliffnn import cache, generated, traceable
from cliffnn.algebra import Algebra
from cliffnn.operation import Operation, gradient_name, operation

# An argument of the operator, so that the key of torch.compile's cache on disk depends on what is generated.
GENERATOR = cache.fingerprint()

library = torch.library.Library("cliffnn", "DEF")
_PLAIN = {Tensor, Parameter}
# Compilers take seconds for 16 blades, minutes for 32.
_VISIBLE_BLADES = 16

library.define(
    "geometric_op(Tensor[] inputs, str operation, str algebra, float eps, str generator) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def geometric_op(text: str, algebra: Algebra, inputs: Sequence[Tensor], eps: float = 1e-6) -> Tensor:
    """Evaluate an operation, and give its first result; see `cliffnn.generated.run`."""
    return evaluate(text, algebra, inputs, eps)[0]


def evaluate(text: str, algebra: Algebra, inputs: Sequence[Tensor], eps: float = 1e-6) -> Sequence[Tensor]:
    """Evaluate an operation, and give all its results."""
    if unobserved(inputs):
        return evaluate_unobserved(operation(text, algebra.name), inputs, eps)
    return _dispatched(inputs, text, algebra.name, eps, GENERATOR)


def evaluate_into(results: Sequence[Tensor], text: str, algebra: Algebra, inputs: Sequence[Tensor]) -> None:
    """Evaluate an operation, below autograd, on contiguous tensors, into others that are."""
    _executor(inputs[0].device.type).run(operation(text, algebra.name), inputs, 1e-6, results)


def evaluate_unobserved(op: Operation, inputs: Sequence[Tensor], eps: float) -> Sequence[Tensor]:
    """The same past torch's dispatcher; see `unobserved`."""
    if differentiated(inputs):
        return _Unobserved.apply(op, eps, *inputs)
    return _execute(op, inputs, eps)


def differentiated(tensors: Sequence[Tensor]) -> bool:
    """Whether autograd has to know of what is computed of them."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def unobserved(tensors: Sequence[Tensor]) -> bool:
    """Whether an operator has nobody to tell of itself: no compiler, transform, mode or profiler, no kind of tensor.

    What runs is the same, but for linear maps on a CPU, which show their steps to who watches; the way through torch's
    dispatcher costs more than a kernel on a small batch.
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
        or torch.autograd._profiler_enabled()
    ):
        return False
    return {*map(type, tensors)} <= _PLAIN


def transformed() -> bool:
    """Whether a transform of `torch.func`, or forward mode, is at work: torch has rules for its own functions."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


# As `torch.compiler.assume_constant_result` does, which imports the compiler: to be asked while it traces, not read.
transformed._dynamo_marked_constant = True  # type: ignore[attr-defined]


def below_autograd(operator: Callable) -> Callable:
    """An operator's kernels, past the rules of autograd that call them."""

    def run(*arguments):
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*arguments)

    return run


def _dispatched(inputs, text, algebra, eps, generator):
    return torch.ops.cliffnn.geometric_op.default(list(inputs), text, algebra, eps, generator)


@functools.cache
def _executor(device: str) -> ModuleType:
    """What runs operations on a kind of device."""
    if device == "cuda":
        try:
            from cliffnn import kernels
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "triton":
                raise
            raise ImportError("tensors on a CUDA device need Triton: pip install triton") from error
        return kernels
    return generated


def _execute(op: Operation, inputs: Sequence[Tensor], eps: float) -> list[Tensor]:
    return _executor(inputs[0].device.type).run(op, [tensor.contiguous() for tensor in inputs], eps)


def _run(inputs, text, algebra, eps, generator):
    return _execute(operation(text, algebra), inputs, eps)


def _fake(inputs, text, algebra, eps, generator):
    op = operation(text, algebra)
    return list(generated.allocate(op, inputs[op.row]).values())


@functools.cache
def _derivative(
    op: Operation, needed: tuple[bool, ...], given: tuple[bool, ...]
) -> tuple[Operation, list[int | None]] | None:
    """A vector-Jacobian product, and which of its results belongs to each input; None if nothing is to be computed."""
    wrt = [name for name, need in zip(op.inputs, needed, strict=True) if need and name not in op.saved]
    of = [name for name, there in zip(op.outputs, given, strict=True) if there]
    if not of or not wrt:
        return None
    return op.vjp(of, wrt), [wrt.index(name) if name in wrt else None for name in op.inputs]


class _Derivative(torch.autograd.Function):
    """Differentiates an operation by its vector-Jacobian product, which is an operation too."""

    @staticmethod
    def backward(ctx, *cotangents):
        given = tuple([cotangent is not None for cotangent in cotangents])
        found = _derivative(ctx.operation, ctx.needs_input_grad[ctx.others :], given)
        if found is None:
            return (None,) * len(ctx.needs_input_grad)
        derivative, places = found
        tensors = [*ctx.saved_tensors, *[cotangent for cotangent in cotangents if cotangent is not None]]
        if not torch.is_grad_enabled() and unobserved(tensors):
            results = _execute(derivative, tensors, ctx.eps)
        else:
            results = _dispatched(tensors, derivative.text, derivative.algebra.name, ctx.eps, GENERATOR)
        return (*(None,) * ctx.others, *[None if place is None else results[place] for place in places])


class _Function(_Derivative):
    """For torch's transforms and compilers."""

    @staticmethod
    def forward(run, text, algebra, eps, generator, *inputs):
        return tuple(run(inputs, text, algebra, eps, generator))

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, text, algebra, eps, _, *tensors = inputs
        ctx.save_for_forward(*_save(ctx, 5, operation(text, algebra), eps, tensors, output))

    @staticmethod
    def vmap(info, in_dims, run, text, algebra, eps, generator, *inputs):
        outputs, dims = _batched(info, in_dims[5:], inputs, text, algebra, eps, generator)
        return tuple(outputs), tuple(dims)

    @staticmethod
    def jvp(ctx, *tangents):
        """A vector-Jacobian product is linear in its cotangents, and the slope there is the product with the vector."""
        op = ctx.operation
        given = {n: t for n, t in zip(op.inputs, tangents[5:], strict=True) if t is not None and n not in op.saved}
        of = [name for name in op.outputs if name != "scales"]
        if not given:
            return (None,) * len(op.outputs)
        first = op.vjp(of, given)
        slope = first.vjp(first.outputs, [gradient_name(op.order + 1, name) for name in of])
        inputs = ctx.saved_tensors
        # cotangents, which the slope does not depend on
        any_ = [torch.zeros_like(t) for t in generated.allocate(op, inputs[op.row]).values()][: len(of)]
        results = _dispatched((*inputs, *any_, *given.values()), slope.text, op.algebra.name, ctx.eps, GENERATOR)
        return (*results, *(None for name in op.outputs if name not in of))


class _Unobserved(_Derivative):
    """Without `setup_context`, for which torch looks up the names of arguments: that costs more than a launch."""

    @staticmethod
    def forward(ctx, op, eps, *inputs):
        outputs = tuple(_execute(op, inputs, eps))
        _save(ctx, 2, op, eps, inputs, outputs)
        return outputs


def _save(ctx, others, op, eps, inputs, outputs):
    """What the derivative needs; ``others`` is how many arguments come before the inputs."""
    ctx.others, ctx.operation, ctx.eps = others, op, eps
    # a derivative already has among its inputs what was saved
    first = op.normalize and not op.order
    saved = (*inputs, *outputs) if first else inputs
    ctx.save_for_backward(*saved)
    if first:
        ctx.mark_non_differentiable(outputs[1])
    ctx.set_materialize_grads(False)
    return saved


def _autograd(inputs, text, algebra, eps, generator):
    run = below_autograd(torch.ops.cliffnn.geometric_op.default)
    return list(_Function.apply(run, text, algebra, eps, generator, *inputs))


def _transformed(inputs, text, algebra, eps, generator):
    """For transforms of `torch.func`, also in compiled code: they transform functions, not what operators call."""
    operator = torch.ops.cliffnn.geometric_op.default
    return list(_Function.apply(operator, text, algebra, eps, generator, *inputs))


def _batched(info, dims, inputs, text, algebra, eps, generator):
    """The rule of `torch.vmap`: a batch of rows is so many more rows; what rows share is taken one by one."""
    op = operation(text, algebra)
    groups = list(op.inputs.values())
    arguments = text, algebra, eps, generator
    shares = any(group.kind == "shared" for group in op.outputs.values())
    if shares or any(d is not None and group.kind == "shared" for d, group in zip(dims, groups, strict=True)):
        results = []
        for index in range(info.batch_size):
            chosen = [t if d is None else t.select(d, index) for t, d in zip(inputs, dims, strict=True)]
            results.append(_dispatched(chosen, *arguments))
        outputs = [torch.stack(of_output) for of_output in zip(*results, strict=True)]
        return outputs, [0] * len(outputs)
    flat = []
    for tensor, dim, group in zip(inputs, dims, groups, strict=True):
        if group.kind != "shared":
            moved = tensor.movedim(dim, 0) if dim is not None else tensor.expand(info.batch_size, *tensor.shape)
            tensor = moved.flatten(0, 1)
        flat.append(tensor)
    outputs = _dispatched(flat, *arguments)
    return [output.unflatten(0, (info.batch_size, -1)) for output in outputs], [0] * len(outputs)


def _visible(mode, operator, types, args, kwargs):
    """A rule for AOTAutograd: on a CPU the compiler shall see, and fuse, every step of an operation.

    Kernels on a GPU are better than what a compiler makes of the steps, and exported programs shall hold operators.
    """
    inputs, text, algebra, eps, _ = args
    if mode.export or len(Algebra(algebra)) > _VISIBLE_BLADES or inputs[0].device.type != "cpu":
        return mode.__torch_dispatch__(operator, types, args, kwargs)
    run = traceable.run_as_region if _takes_regions() else traceable.run
    with mode:
        return run(operation(text, algebra), inputs, eps)


def _takes_regions() -> bool:
    """Whether torch's compiler is at work, which knows regions again; AOTInductor and C++ wrappers have none."""
    from torch._guards import TracingContext
    from torch._inductor import config

    return TracingContext.try_get() is not None and not (torch.compiler.is_exporting() or config.cpp_wrapper)


for _key in ("CPU", "CUDA"):
    library.impl("geometric_op", _run, _key)
library.impl("geometric_op", _autograd, "Autograd")
library.impl("geometric_op", _transformed, "FuncTorchDynamicLayerFrontMode")
torch.library.register_fake("cliffnn::geometric_op", _fake, lib=library)
torch.library.register_torch_dispatch("cliffnn::geometric_op", FunctionalTensorMode, _visible, lib=library)
