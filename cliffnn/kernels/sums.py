"""Partial sums, written by the programs of other kernels, added in a fixed order: the same bits in every run."""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from cliffnn.kernels.prepared import Prepared
from cliffnn.kernels.tables import table

# so that few loads follow each other where a thousand programs wrote parts
_PARTS, _BLOCK = 256, 16


@triton.jit(do_not_specialize=["parts"])
def sums_kernel(
    partial_ptr,
    out_ptr,
    starts_ptr,
    parts,
    SIZE: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Group g of the result is the sum of the parts from starts[g] to starts[g + 1], times ``parts``."""
    group = tl.program_id(1)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((PARTS, BLOCK), COMPUTE)
    last = tl.load(starts_ptr + group + 1) * parts
    for first in range(tl.load(starts_ptr + group) * parts, last, PARTS):
        part = first + tl.arange(0, PARTS)
        address = part[:, None].to(tl.int64) * SIZE + index[None, :]
        total += tl.load(partial_ptr + address, (part < last)[:, None] & (index < SIZE)[None, :], 0.0)
    tl.store(out_ptr + group * SIZE + index, tl.sum(total, 0), index < SIZE)


def sums(partial: Tensor, starts: tuple[int, ...], dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """Add groups of parts.

    Parameters
    ----------
    partial : Tensor
        ``(starts[-1], parts, *shape)``, in the dtype of the arithmetic.
    starts : tuple of int
        Where groups start along the first dimension, and where the last one ends.
    dtype : torch.dtype
        Of the result.
    out : Tensor or None
        Where the result goes; None: to memory of its own.

    Returns
    -------
    Tensor
        ``(groups, *shape)``
    """
    if out is None:
        out = partial.new_empty(len(starts) - 1, *partial.shape[2:], dtype=dtype)
    size = out[0].numel()
    grid = (-(-size // _BLOCK), len(starts) - 1, 1)
    _prepared(size, partial.dtype)(grid, (partial, out, table(starts, partial.device)), partial.shape[1])
    return out


@functools.cache
def _prepared(size: int, dtype: torch.dtype) -> Prepared:
    compute = tl.float64 if dtype == torch.float64 else tl.float32
    constants = {"SIZE": size, "PARTS": _PARTS, "BLOCK": _BLOCK, "COMPUTE": compute}
    return Prepared(sums_kernel, constants, warps=4)
