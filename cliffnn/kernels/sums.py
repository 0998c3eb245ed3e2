"""Partial sums, written by the programs of other kernels, added in a fixed order: the same bits in every run."""

from __future__ import annotations

import functools
from collections.abc import Sequence

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
    first_ptr,
    second_ptr,
    starts_ptr,
    parts,
    STRIDE: tl.constexpr,
    OFFSET: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Group g is the sum of the parts from starts[g] to starts[g + 1], times ``parts``.

    Where there is one group, two results may lie side by side in a part.
    """
    group = tl.program_id(1)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((PARTS, BLOCK), COMPUTE)
    last = tl.load(starts_ptr + group + 1) * parts
    for first in range(tl.load(starts_ptr + group) * parts, last, PARTS):
        part = first + tl.arange(0, PARTS)
        address = part[:, None].to(tl.int64) * STRIDE + OFFSET + index[None, :]
        total += tl.load(partial_ptr + address, (part < last)[:, None] & (index < FIRST + SECOND)[None, :], 0.0)
    sums = tl.sum(total, 0)
    tl.store(first_ptr + group * FIRST + index, sums, index < FIRST)
    if SECOND:
        tl.store(second_ptr + index - FIRST, sums, (index >= FIRST) & (index < FIRST + SECOND))


def sums(partial: Tensor, starts: tuple[int, ...], results: Sequence[Tensor]) -> None:
    """Add groups of parts; two results take one launch.

    Parameters
    ----------
    partial : Tensor
        ``(starts[-1], parts, numbers)``, in the dtype of the arithmetic: of each result its numbers, one result after
        the other.
    starts : tuple of int
        Where groups start along the first dimension, and where the last one ends.
    results : sequence of Tensor
        What is written to: one, ``(groups, ...)``; or, where there is one group, any number, in the order of a part.
    """
    _, parts, stride = partial.shape
    groups, offset = len(starts) - 1, 0
    where = table(starts, partial.device)
    for index in range(0, len(results), 2):
        first, *rest = results[index : index + 2]
        sizes = first.numel() // groups, rest[0].numel() if rest else 0
        run = _prepared(stride, offset, *sizes, partial.dtype)
        run((-(-sum(sizes) // _BLOCK), groups, 1), (partial, first, rest[0] if rest else first, where), parts)
        offset += sum(sizes)


@functools.cache
def _prepared(stride: int, offset: int, first: int, second: int, dtype: torch.dtype) -> Prepared:
    compute = tl.float64 if dtype == torch.float64 else tl.float32
    constants = {"STRIDE": stride, "OFFSET": offset, "FIRST": first, "SECOND": second}
    return Prepared(sums_kernel, {**constants, "PARTS": _PARTS, "BLOCK": _BLOCK, "COMPUTE": compute}, warps=4)
