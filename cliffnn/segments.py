"""Sums over rows that share an index: in a fixed order on every device, and to every order of derivative.

What is in half precision is summed in float32, as are gradients, and rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cliffnn.ops import library, transformed
from cliffnn.precision import compute_dtype


class Segments:
    """The rows of each index, for ``(rows, ...)`` tensors.

    Sorting first costs less than it seems and needs no atomic addition, whose order, and so whose rounding, would
    change from run to run.

    Parameters
    ----------
    index : Tensor
        ``(rows,)``, int64, in any order.
    count : int
        How many segments there are; those that no row belongs to are empty.
    ascending : bool
        Whether the index is known to ascend: then nothing is sorted.
    """

    def __init__(self, index: Tensor, count: int, ascending: bool = False):
        ordered, order = (index, None) if ascending else torch.sort(index, stable=True)
        offsets = torch.searchsorted(ordered, torch.arange(count + 1, device=index.device))
        self.tables = index, order, offsets
        self.sizes = offsets.diff()

    def sum(self, x: Tensor) -> Tensor:
        """``(rows, ...)`` to ``(segments, ...)``; zero where a segment is empty."""
        return _total(x, *self.tables).to(x.dtype)

    def mean(self, x: Tensor) -> Tensor:
        """``(rows, ...)`` to ``(segments, ...)``; zero where a segment is empty."""
        total = _total(x, *self.tables)
        sizes = self.sizes.clamp(min=1).to(total.dtype)
        return (total / sizes.view(-1, *[1] * (x.ndim - 1))).to(x.dtype)

    def max(self, x: Tensor) -> Tensor:
        """``(rows, ...)`` to ``(segments, ...)``, without a derivative; minus infinity where a segment is empty."""
        return _reduce(x.detach(), "max", *self.tables)

    def spread(self, x: Tensor) -> Tensor:
        """``(segments, ...)`` to ``(rows, ...)``: each row gets what its segment has."""
        return _spread(x, *self.tables)


def _traced_transform() -> bool:
    """Compilers let no function of ours through a transform of `torch.func`: its derivatives would be lost."""
    return torch.compiler.is_compiling() and transformed()


def _choose(plain: Any, transformable: Any) -> Any:
    """Compilers trace no function that has a rule for forward mode, and what `torch.func` asks for costs host time."""
    return transformable if transformed() else plain


def _total(x: Tensor, index: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
    """The sum, not yet rounded."""
    if _traced_transform():
        return _added(x, index, offsets.shape[0] - 1)
    return _choose(_Sum, _TransformableSum).apply(x, index, order, offsets)


def _spread(x: Tensor, index: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
    if _traced_transform():
        # widened, since torch's own derivative adds in the dtype of what was selected from
        return x.to(compute_dtype(x.dtype)).index_select(0, index).to(x.dtype)
    return _choose(_Spread, _TransformableSpread).apply(x, index, order, offsets)


class _Sum(torch.autograd.Function):
    """In float32 at least; torch's own reduction of segments has no second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(index, order, offsets)
        ctx.dtype = x.dtype
        return _sum(x, index, order, offsets)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        # rounded where there are fewer rows
        return _spread(grad.to(ctx.dtype), *ctx.saved_tensors), None, None, None


class _Spread(torch.autograd.Function):
    """torch's own derivative of a selection adds atomically."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(index, order, offsets)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _total(grad, *ctx.saved_tensors).to(grad.dtype), None, None, None


class _Transformable(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])
        ctx.dtype = inputs[0].dtype


class _TransformableSum(_Transformable):
    backward = staticmethod(_Sum.backward)

    @staticmethod
    def forward(x: Tensor, index: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
        return _sum(x, index, order, offsets)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _TransformableSum.apply(tangent, *ctx.saved_tensors)


class _TransformableSpread(_Transformable):
    backward = staticmethod(_Spread.backward)

    @staticmethod
    def forward(x: Tensor, index: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
        return x.index_select(0, index)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _TransformableSpread.apply(tangent, *ctx.saved_tensors)


def _sum(x: Tensor, index: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
    if not x.is_cuda:
        # ten times as fast there, and in a fixed order; as a compiler writes it, it is neither, so to that it is an
        # operator, but for exported programs, which may run where there is none of ours
        if not torch.compiler.is_compiling():
            return _added(x, index, offsets.shape[0] - 1)
        if not torch.compiler.is_exporting():
            return torch.ops.cliffnn.segment_sum(x, index, offsets.shape[0] - 1)
    return _reduce(x, "sum", index, order, offsets)


def _reduce(x: Tensor, reduce: str, index: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
    rows = x if order is None else x.index_select(0, order)
    # torch's kernel adds in the dtype of its input
    return torch.segment_reduce(rows.to(compute_dtype(x.dtype)), reduce, offsets=offsets, axis=0, unsafe=True)


def _added(x: Tensor, index: Tensor, count: int) -> Tensor:
    x = x.to(compute_dtype(x.dtype))
    return x.new_zeros(count, *x.shape[1:]).index_add_(0, index, x)


def _added_shape(x: Tensor, index: Tensor, count: int) -> Tensor:
    return x.new_empty(count, *x.shape[1:], dtype=compute_dtype(x.dtype))


library.define("segment_sum(Tensor x, Tensor index, SymInt count) -> Tensor")
library.impl("segment_sum", _added, "CPU")
torch.library.register_fake("cliffnn::segment_sum", _added_shape, lib=library)
