"""Which pairs of blades a kernel of the fully connected product multiplies, as tables of integers."""

from __future__ import annotations

import functools
from itertools import accumulate, chain
from typing import NamedTuple

import torch
from torch import Tensor

from cliffnn.graded_product import GradedProduct
from cliffnn.kernels.tables import table


class Tables(NamedTuple):
    """What the kernels read of a product.

    Attributes
    ----------
    blades : list of tuple
        The blades of the result, those with most terms first: number, and where the entries of their paths begin and
        end.
    entries : list of tuple
        The paths, by grade of their result: number, the first blade of that grade and how many there are, where their
        terms begin, and how many each blade has.
    terms : list of int
        Pairs of blades and their sign, as ``first + 256 * second + 65536 * (sign + 1)``: the first one of each blade
        of the grade, then the second, and so on. Where a blade has fewer the sign is 0.
    """

    blades: list[tuple[int, int, int]]
    entries: list[tuple[int, int, int, int, int]]
    terms: list[int]


@functools.cache
def tables(product: GradedProduct) -> Tables:
    found: dict[tuple[int, int], list[int]] = {}
    for path, x, y, out, sign in product.terms:
        found.setdefault((path, out), []).append(x + 256 * y + 65536 * (sign + 1))
    blades: list[tuple[int, int, int, int]] = []
    entries: list[tuple[int, int, int, int, int]] = []
    terms: list[int] = []
    for k, of_grade in product.out_slices.items():
        begin, work = len(entries), 0
        for path, (*_, result) in enumerate(product.paths):
            if result == k:
                each = [found.get((path, out), []) for out in range(of_grade.start, of_grade.stop)]
                count = max(map(len, each))
                entries.append((path, of_grade.start, len(each), len(terms), count))
                terms += [own[n] if n < len(own) else 65536 for n in range(count) for own in each]
                work += count
        blades += [(-work, out, begin, len(entries)) for out in range(of_grade.start, of_grade.stop)]
    return Tables([(out, begin, end) for _, out, begin, end in sorted(blades)], entries, terms)


@functools.cache
def device_tables(product: GradedProduct, device: torch.device) -> tuple[Tensor, ...]:
    """`tables` as tensors, made once."""
    blades, entries, terms = tables(product)
    return tuple(table(tuple(values), device) for values in (chain(*blades), chain(*entries), terms))


@functools.cache
def mixed_table(product: GradedProduct, device: torch.device) -> Tensor:
    """What a block of rows is cut into where each grade is multiplied with the matrices of its paths.

    As many tiles of each path as its grade has blades: the path's number, the first blade and how many there are, how
    many blades of results lie before those of the path, and the number of the tile; one after the other.
    """
    before = (0, *accumulate(product.path_sizes))
    values = (
        value
        for path, first, size, *_ in tables(product).entries
        for tile in range(size)
        for value in (path, first, size, before[path], tile)
    )
    return table(tuple(values), device)


def shares(product: GradedProduct, programs: int, blocks: int) -> tuple[list[tuple[int, int, int]], tuple[int, ...]]:
    """How programs share the paths, each of which takes some of the blocks of rows.

    Parameters
    ----------
    product : GradedProduct
    programs : int
        About how many there should be.
    blocks : int
        At most so many are of use to a path.

    Returns
    -------
    programs
        By number of the path: its entry, which of its shares, and of how many.
    starts
        The first program of each path, and their number.
    """
    entries = sorted(enumerate(tables(product).entries), key=lambda entry: entry[1])
    counts = [max(1, min(blocks, count)) for count in _counts(product, programs)]
    of_paths = [(entry, n, count) for (entry, _), count in zip(entries, counts, strict=True) for n in range(count)]
    return of_paths, (0, *accumulate(counts))


@functools.cache
def _counts(product: GradedProduct, programs: int) -> list[int]:
    """How many of the programs each path has, by its work."""
    # reading the gradient and multiplying matrices takes as long as two terms
    work = [size * (2 + terms) for _, _, size, _, terms in sorted(tables(product).entries)]
    return [own * programs // sum(work) for own in work]


def device_shares(
    product: GradedProduct, programs: int, blocks: int, device: torch.device
) -> tuple[Tensor, tuple[int, ...]]:
    """`shares`, the programs as a tensor."""
    # of more blocks the shares are the same
    return _device_shares(product, programs, min(blocks, max(_counts(product, programs))), device)


@functools.cache
def _device_shares(
    product: GradedProduct, programs: int, blocks: int, device: torch.device
) -> tuple[Tensor, tuple[int, ...]]:
    of_programs, starts = shares(product, programs, blocks)
    return table(tuple(chain(*of_programs)), device), starts
