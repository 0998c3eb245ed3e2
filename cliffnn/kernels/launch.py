"""The kernels of an expression: found, compiled on first use, and launched."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from cliffnn import cache
from cliffnn.algebra import Algebra
from cliffnn.expressions import EXPRESSIONS
from cliffnn.kernels import plan, source
from cliffnn.kernels.plan import Tiling
from cliffnn.kernels.prepared import Prepared, multiprocessors, shared_memory
from cliffnn.kernels.source import Kernel
from cliffnn.kernels.sums import sums
from cliffnn.norm import compute_dtype, sign_tolerance


class Launch:
    """A kernel on tiles of rows of so many channels.

    Parameters
    ----------
    kernel : Kernel
    kind : str
        ``"forward"``, ``"scale"``, ``"inner"`` or ``"backward"``.
    tiling : Tiling
    channels : int
    dtype : torch.dtype
        Of the rows.
    **constants
        Others that the kernel takes.
    """

    def __init__(self, kernel: Kernel, kind: str, tiling: Tiling, channels: int, dtype: torch.dtype, **constants: Any):
        generate = getattr(source, f"{kind}_source")
        module = cache.load(kernel.name(kind), lambda: generate(kernel))
        self.tiling = tiling
        self.tensors: tuple[str, ...] = module.TENSORS
        self._run = Prepared(
            getattr(module, f"{kind}_kernel"),
            {
                "channels": channels,
                **constants,
                "ROWS": tiling.rows,
                "CHANNELS": tiling.channels,
                "VECTOR": tiling.vector,
                "STAGES": tiling.stages,
                "COMPUTE": tl.float64 if dtype == torch.float64 else tl.float32,
            },
            tiling.warps,
        )

    def programs(self, rows: int, device: torch.device) -> int:
        """How many programs share the rows."""
        tiles = max(1, -(-rows // self.tiling.rows))
        if self.tiling.resident is None:
            return tiles
        return max(1, min(tiles, multiprocessors(device) * self.tiling.resident // self.tiling.blocks))

    def __call__(self, tensors: Mapping[str, Tensor], rows: int) -> None:
        arguments = [tensors[name] for name in self.tensors]
        self._run((self.programs(rows, arguments[0].device), self.tiling.blocks, 1), arguments, rows)


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
    count, _, channels = x.shape
    specification = EXPRESSIONS[expression]
    tensors = dict(zip(specification.inputs, (*rows, *params), strict=True))
    tensors["out"] = out = torch.empty_like(x)
    scales = x.new_empty(count, len(algebra.grades) if normalize else 0, dtype=compute_dtype(x.dtype))
    if normalize and algebra.normed_grades != algebra.grades:
        scales.fill_(1)  # the kernels write none where a grade has no norm
    tensors["scales"] = scales
    if count == 0:
        return out, scales
    first, scale = _forward_launches(expression, algebra, normalize, eps, channels, x.dtype, shared_memory(x.device))
    if scale is None:
        first(tensors, count)
        return out, scales
    table = x.new_empty(first.tiling.blocks, *scales.shape, dtype=scales.dtype)
    # not yet normalised, the product may be too large for half precision
    product = out if out.dtype == scales.dtype else torch.empty_like(out, dtype=scales.dtype)
    first({**tensors, "out": product, "scales": table}, count)
    normed = len(algebra.normed_grades)  # the lowest; the others, of null blades alone, keep their scale of 1
    torch.rsqrt(table.sum(0)[:, :normed] / channels + eps, out=scales[:, :normed])
    scale({"product": product, "scales": scales, "out": out}, count)
    return out, scales


@functools.cache
def _forward_launches(
    expression: str, algebra: Algebra, normalize: bool, eps: float, channels: int, dtype: torch.dtype, shared: int
) -> tuple[Launch, Launch | None]:
    """The kernel, and one that normalises what it left unfinished."""
    blades = len(algebra)
    tiling = plan.forward_tiling(blades, channels, dtype.itemsize, shared)
    kernel = Kernel(expression, algebra, normalize, whole_rows=tiling.whole_rows, loop=tiling.resident is not None)
    first = Launch(kernel, "forward", tiling, channels, dtype, EPS=eps)
    if tiling.whole_rows or not normalize:
        return first, None
    kernel = Kernel("identity", algebra, True, loop=False)
    return first, Launch(kernel, "scale", plan.scale_tiling(blades, channels), channels, dtype)


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
    count, _, channels = grad.shape
    compute = compute_dtype(grad.dtype)
    specification = EXPRESSIONS[expression]
    sources = dict(zip(specification.inputs, (*rows, *params), strict=True))
    chosen = tuple(name for name, wanted in zip(sources, wrt, strict=True) if wanted)
    if count == 0:
        return [torch.zeros_like(sources[name]) for name in chosen]
    inner, launches = _backward_launches(
        expression, algebra, normalize, chosen, channels, grad.dtype, shared_memory(grad.device)
    )
    programs = launches[0].programs(count, grad.device)
    tensors = {**sources, "grad": grad, "out": out, "scales": scales}
    for name in chosen:
        tensors[f"grad_{name}"] = (
            # each program writes its share
            grad.new_empty(1, programs, *sources[name].shape, dtype=compute)
            if name in specification.params
            else torch.empty_like(sources[name])
        )
    if inner is not None:
        table = grad.new_empty(inner.tiling.blocks, count, len(algebra.grades), dtype=compute)
        inner({"grad": grad, "out": out, "inner": table}, count)
        tensors["inner"] = table[0] if inner.tiling.whole_rows else table.sum(0)
    for launch in launches:
        launch(tensors, count)
    return [
        sums(tensors[f"grad_{name}"], (0, 1), sources[name].dtype)[0]
        if name in specification.params
        else tensors[f"grad_{name}"]
        for name in chosen
    ]


@functools.cache
def _backward_launches(
    expression: str,
    algebra: Algebra,
    normalize: bool,
    wrt: tuple[str, ...],
    channels: int,
    dtype: torch.dtype,
    shared: int,
) -> tuple[Launch | None, list[Launch]]:
    """The kernel that sums what the norm's gradient needs, if another has to, and those of the gradients."""
    blades = len(algebra)
    tiling = plan.backward_tiling(blades, channels, dtype.itemsize, shared)
    tolerance = sign_tolerance(compute_dtype(dtype) if tiling.recompute else dtype)
    inner = None
    if normalize and not tiling.whole_rows:
        inner_tiling = plan.inner_tiling(blades, channels)
        kernel = Kernel("identity", algebra, True, whole_rows=inner_tiling.whole_rows, loop=False)
        inner = Launch(kernel, "inner", inner_tiling, channels, dtype)
    launches = []
    for group in _groups(expression, algebra, wrt):
        kernel = Kernel(expression, algebra, normalize, group, tiling.whole_rows, tiling.recompute)
        launches.append(Launch(kernel, "backward", tiling, channels, dtype, TOLERANCE=tolerance))
    return inner, launches


def _groups(expression: str, algebra: Algebra, wrt: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Which gradients are computed by one kernel: all, or what the registers hold."""
    if len(algebra) <= 16:
        return [wrt]
    params = EXPRESSIONS[expression].params
    groups = [tuple(name for name in wrt if (name in params) == summed) for summed in (False, True)]
    return [group for group in groups if group]
