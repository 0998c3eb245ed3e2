"""Sums over rows that share an index: in a fixed order on every device, and to every order of derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cliffnn.ops import library, transformed


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
        if _traced_transform():
            index, _, offsets = self.tables
            return x.new_zeros(offsets.shape[0] - 1, *x.shape[1:]).index_add(0, index, x)
        return _choose(_Sum, _TransformableSum).apply(x, *self.tables)

    def max(self, x: Tensor) -> Tensor:
        """``(rows, ...)`` to ``(segments, ...)``, without a derivative; minus infinity where a segment is empty."""
        return _reduce(x.detach(), "max", *self.tables)

    def spread(self, x: Tensor) -> Tensor:
        """``(segments, ...)`` to ``(rows, ...)``: each row gets what its segment has."""
        if _traced_transform():
            return x.index_select(0, self.tables[0])
        return _choose(_Spread, _TransformableSpread).apply(x, *self.tables)


def _traced_transform() -> bool:
    """Compilers let no function of ours through a transform of `torch.func`: its derivatives would be lost."""
    return torch.compiler.is_compiling() and transformed()


def _choose(plain: Any, transformable: Any) -> Any:
    """Compilers trace no function that has a rule for forward mode, and what `torch.func` asks for costs host time."""
    return transformable if transformed() else plain


class _Sum(torch.autograd.Function):
    """torch's own reduction of segments has no second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(index, order, offsets)
        return _reduce(x, "sum", index, order, offsets)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _choose(_Spread, _TransformableSpread).apply(grad, *ctx.saved_tensors), None, None, None


class _Spread(torch.autograd.Function):
    """torch's own derivative of a selection adds atomically."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(index, order, offsets)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _choose(_Sum, _TransformableSum).apply(grad, *ctx.saved_tensors), None, None, None


class _Transformable(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])


class _TransformableSum(_Transformable):
    backward = staticmethod(_Sum.backward)

    @staticmethod
    def forward(x: Tensor, index: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
        return _reduce(x, "sum", index, order, offsets)

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


def _reduce(x: Tensor, reduce: str, index: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
    if reduce == "sum" and not x.is_cuda:
        # ten times as fast there, and in a fixed order; as a compiler writes it, it is neither, so to that it is an
        # operator, but for exported programs, which may run where there is none of ours
        if not torch.compiler.is_compiling():
            return _added(x, index, offsets.shape[0] - 1)
        if not torch.compiler.is_exporting():
            return torch.ops.cliffnn.segment_sum(x, index, offsets.shape[0] - 1)
    rows = x if order is None else x.index_select(0, order)
    return torch.segment_reduce(rows, reduce, offsets=offsets, axis=0, unsafe=True)


def _added(x: Tensor, index: Tensor, count: int) -> Tensor:
    return x.new_zeros(count, *x.shape[1:]).index_add_(0, index, x)


library.define("segment_sum(Tensor x, Tensor index, SymInt count) -> Tensor")
library.impl("segment_sum", _added, "CPU")
torch.library.register_fake(
    "cliffnn::segment_sum", lambda x, index, count: x.new_empty(count, *x.shape[1:]), lib=library
)
