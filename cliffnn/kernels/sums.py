"""Partial sums, written by the programs of other kernels, added in a fixed order: the same bits in every run."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from cliffnn.kernels.plan import power_of_two
from cliffnn.kernels.prepared import Prepared
from cliffnn.kernels.tables import table

# Parts times numbers that a program adds at a time: few numbers, so that few loads follow each other where a thousand
# programs wrote parts; of large parts so many that some 256 programs are left for each group.
_ELEMENTS, _PROGRAMS, _LEAST, _MOST = 4096, 256, 16, 512


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

    A second result, of the first group alone, lies behind the first in a part.
    """
    group = tl.program_id(1)
    known = FIRST + tl.where(group == 0, SECOND, 0)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((PARTS, BLOCK), COMPUTE)
    last = tl.load(starts_ptr + group + 1) * parts
    for first in range(tl.load(starts_ptr + group) * parts, last, PARTS):
        part = first + tl.arange(0, PARTS)
        address = part[:, None].to(tl.int64) * STRIDE + OFFSET + index[None, :]
        total += tl.load(partial_ptr + address, (part < last)[:, None] & (index < known)[None, :], 0.0)
    sums = tl.sum(total, 0)
    tl.store(first_ptr + group * FIRST + index, sums, index < FIRST)
    if SECOND:
        tl.store(second_ptr + index - FIRST, sums, (index >= FIRST) & (index < known))


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
        What is written to, in the order of a part: one, ``(groups, ...)``, and one of the first group alone; or,
        where there is one group, any number.
    """
    _, parts, stride = partial.shape
    groups, offset = len(starts) - 1, 0
    where = table(starts, partial.device)
    for index in range(0, len(results), 2):
        first, *rest = results[index : index + 2]
        sizes = first.numel() // groups, rest[0].numel() if rest else 0
        run, block = _prepared(stride, offset, *sizes, partial.dtype)
        run((-(-sum(sizes) // block), groups, 1), (partial, first, rest[0] if rest else first, where), parts)
        offset += sum(sizes)


@functools.cache
def _prepared(stride: int, offset: int, first: int, second: int, dtype: torch.dtype) -> tuple[Prepared, int]:
    """The kernel, and how many numbers of a part a program adds up."""
    block = min(max(_LEAST, power_of_two((first + second) // _PROGRAMS)), _MOST)
    constants = {
        "STRIDE": stride,
        "OFFSET": offset,
        "FIRST": first,
        "SECOND": second,
        "PARTS": _ELEMENTS // block,
        "BLOCK": block,
        "COMPUTE": tl.float64 if dtype == torch.float64 else tl.float32,
    }
    return Prepared(sums_kernel, constants, warps=4), block
