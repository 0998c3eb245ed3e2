"""Which pairs of blades a kernel of the fully connected product multiplies, as tables of integers."""

from __future__ import annotations

import functools
from itertools import accumulate, chain

import torch
from torch import Tensor

from cliffnn.algebra import Algebra
from cliffnn.kernels.tables import table


def tables(algebra: Algebra, by: str) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int, int]], list[int]]:
    """What the kernels read of the algebra's products.

    Parameters
    ----------
    algebra : Algebra
    by : str
        What a kernel computes: blades of ``"x"``, ``"y"`` or ``"out"``, of the three multivectors ``x y = out``; or
        the matrix of a ``"path"``.

    Returns
    -------
    groups
        The blades of that multivector, or the paths, those with most terms first: their number, and where their entries
        begin and end.
    entries
        Path and blade, of that multivector or the result; where their terms begin, and how many there are.
    terms
        The blades of the two others (of the result and the other factor, if one of the factors is computed) and the
        sign, as ``first + 256 * second + 65536 * (sign + 1)``.
    """
    order = {"out": (2, 0, 1), "path": (2, 0, 1), "x": (0, 2, 1), "y": (1, 2, 0)}[by]
    grade = algebra.grade_of_blades
    number = {path: index for index, path in enumerate(algebra.paths)}
    found: dict[tuple[int, int], list[int]] = {}
    for *blades, sign in algebra.products:
        path = number[grade[blades[0]], grade[blades[1]], grade[blades[2]]]
        result, first, second = (blades[n] for n in order)
        found.setdefault((path, result), []).append(first + 256 * second + 65536 * (sign + 1))
    of = 0 if by == "path" else 1
    keys = sorted(found, key=lambda key: (key[of], key))
    counts = [len(found[key]) for key in keys]
    ends = accumulate(counts)
    entries = [(*key, end - count, count) for key, count, end in zip(keys, counts, ends, strict=True)]
    places: dict[int, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key[of], []).append(place)
    groups = [(group, of_group[0], of_group[-1] + 1) for group, of_group in places.items()]
    groups.sort(key=lambda group: -sum(counts[group[1] : group[2]]))
    return groups, entries, list(chain(*(found[key] for key in keys)))


@functools.cache
def device_tables(algebra: Algebra, by: str, device: torch.device) -> tuple[Tensor, ...]:
    """`tables` as tensors, made once."""
    groups, entries, terms = tables(algebra, by)
    return tuple(table(tuple(values), device) for values in (chain(*groups), chain(*entries), terms))
