"""Kernels found, compiled on first use, and launched."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from cliffnn import cache
from cliffnn.algebra import Algebra
from cliffnn.expressions import EXPRESSIONS
from cliffnn.kernels import plan, source
from cliffnn.kernels.plan import Tiling
from cliffnn.kernels.source import Kernel
from cliffnn.norm import compute_dtype, sign_tolerance

# How many blades a kernel has at most whose gradients are computed all together, with what it can hold.
_SMALL = 8


def forward(
    expression: str,
    algebra: Algebra,
    rows: Sequence[Tensor],
    params: Sequence[Tensor],
    normalize: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """See `cliffnn.generated.forward`."""
    x = rows[0]
    count, blades, channels = x.shape
    compute = compute_dtype(x.dtype)
    specification = EXPRESSIONS[expression]
    tensors = dict(zip((*specification.rows, *specification.params), (*rows, *params), strict=True))
    tensors["out"] = out = torch.empty_like(x)
    scales = x.new_empty(count, len(algebra.grades) if normalize else 0, dtype=compute)
    if normalize and algebra.normed_grades != algebra.grades:
        scales.fill_(1)  # the kernels write none where a grade has no norm
    tensors["scales"] = scales
    tiling = plan.forward_tiling(blades, channels, x.dtype.itemsize)
    kernel = Kernel(expression, algebra, normalize, whole_rows=tiling.whole_rows)
    if not normalize or tiling.whole_rows:
        _launch(kernel, "forward", tiling, tensors, EPS=eps)
        return out, scales
    sums = x.new_empty(tiling.blocks, *scales.shape, dtype=compute)
    # not yet normalised, the product may be too large for half precision
    product = out if out.dtype == compute else torch.empty_like(out, dtype=compute)
    _launch(kernel, "forward", tiling, {**tensors, "out": product, "scales": sums}, EPS=eps)
    torch.rsqrt(sums.sum(0) / channels + eps, out=scales)
    tensors["product"] = product
    _launch(Kernel("identity", algebra, True), "scale", plan.scale_tiling(blades, channels), tensors)
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
    """See `cliffnn.generated.backward`."""
    blades, channels = grad.shape[-2:]
    compute = compute_dtype(grad.dtype)
    tiling = plan.backward_tiling(blades, channels, grad.dtype.itemsize)
    small = blades <= _SMALL
    specification = EXPRESSIONS[expression]
    sources = dict(zip((*specification.rows, *specification.params), (*rows, *params), strict=True))
    chosen = [name for name, wanted in zip(sources, wrt, strict=True) if wanted]
    programs = _programs(tiling, grad)

    tensors = {**sources, "grad": grad, "out": out, "scales": scales}
    for name in chosen:
        gradient = torch.empty_like(sources[name])
        if name in specification.params:
            # each program writes its share, and shares are added in a fixed order: the same bits in every run
            gradient = grad.new_empty(programs, *gradient.shape, dtype=compute)
        tensors[f"grad_{name}"] = gradient
    whole_rows = tiling.whole_rows
    if normalize and not whole_rows:
        tensors["inner"] = _inner(algebra, grad, out)
    for group in _groups(algebra, chosen):
        kernel = Kernel(expression, algebra, normalize, group, whole_rows, recompute=small, weights_once=small)
        _launch(kernel, "backward", tiling, tensors, TOLERANCE=sign_tolerance(compute if small else grad.dtype))
    return [
        tensors[f"grad_{name}"].sum(0).to(sources[name].dtype)
        if name in specification.params
        else tensors[f"grad_{name}"]
        for name in chosen
    ]


def _groups(algebra: Algebra, names: list[str]) -> list[tuple[str, ...]]:
    """Which gradients are computed by one kernel: all, or what the registers hold."""
    if len(algebra) <= 16:
        return [tuple(names)]
    return [(name,) for name in names]


def _inner(algebra: Algebra, grad: Tensor, out: Tensor) -> Tensor:
    """The sums over blades and channels of gradient times result, ``(rows, grades)``."""
    count, blades, channels = grad.shape
    tiling = plan.inner_tiling(blades, channels)
    kernel = Kernel("identity", algebra, True, whole_rows=tiling.whole_rows)
    sums = grad.new_empty(tiling.blocks, count, len(algebra.grades), dtype=compute_dtype(grad.dtype))
    _launch(kernel, "inner", tiling, {"grad": grad, "out": out, "inner": sums})
    return sums[0] if tiling.whole_rows else sums.sum(0)


def _launch(kernel: Kernel, kind: str, tiling: Tiling, tensors: Mapping[str, Tensor], **constants: Any) -> None:
    """Run a kernel on the tensors that its source names, all shaped as the first."""
    module = _module(kernel, kind)
    arguments = [tensors[name] for name in module.TENSORS]
    first = arguments[0]
    count, _, channels = first.shape
    if count == 0:
        # nothing is read, and what is summed over rows is zero
        for name in kernel.wrt:
            tensors[f"grad_{name}"].zero_()
        return
    with _device_of(first):
        getattr(module, f"{kind}_kernel")[(_programs(tiling, first), tiling.blocks)](
            *arguments,
            count,
            channels,
            **constants,
            ROWS=tiling.rows,
            CHANNELS=tiling.channels,
            STAGES=tiling.stages,
            COMPUTE=tl.float64 if compute_dtype(first.dtype) == torch.float64 else tl.float32,
            num_warps=tiling.warps,
        )


def _programs(tiling: Tiling, like: Tensor) -> int:
    """How many programs share the rows."""
    tiles = max(1, -(-like.shape[0] // tiling.rows))
    if tiling.resident is None:
        return tiles
    return max(1, min(tiles, _multiprocessors(like.device) * tiling.resident // tiling.blocks))


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return 1


def _device_of(tensor: Tensor) -> AbstractContextManager:
    if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
        return torch.cuda.device(tensor.device)
    return nullcontext()


@functools.cache
def _module(kernel: Kernel, kind: str) -> ModuleType:
    generate = getattr(source, f"{kind}_source")
    return cache.load(kernel.name(kind), lambda: generate(kernel))
