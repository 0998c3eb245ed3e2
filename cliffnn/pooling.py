"""From the multivectors of many nodes to one of each graph."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from cliffnn.algebra import Algebra, AlgebraLike, GradesLike
from cliffnn.checks import check_batch, check_graphs, check_multivector, held_grades
from cliffnn.grades import by_blade
from cliffnn.invariants import quadratic_form
from cliffnn.segments import Segments

REDUCTIONS = ("sum", "mean", "max")


def pool(
    x: Tensor,
    algebra: AlgebraLike,
    reduce: str = "mean",
    batch: Tensor | None = None,
    size: int | None = None,
    dim: int = -3,
    by_grade: bool = False,
    grades: GradesLike = None,
) -> Tensor:
    r"""Reduce nodes to one multivector: their sum, their mean, or the one of the largest norm.

    The maximum is, channel by channel, the multivector of the largest :math:`\sum_k |q_k(x)|`, with the algebra's
    quadratic form :math:`q_k` on grade k; by grade it is, grade by grade, the part of the largest :math:`|q_k(x)|`.
    Versors leave these as they are, and so the choice. The mean of those that share the maximum is taken: the order
    of the nodes never matters, and a grade whose blades are all null is averaged.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``; with ``batch``, ``(nodes, blades, channels)``.
    algebra : str, int, tuple or Algebra
    reduce : "sum", "mean" or "max"
    batch : Tensor or None
        ``(nodes,)``, int64: the graph of each node, in any order, as PyTorch Geometric has it. None: the nodes lie
        along ``dim``.
    size : int or None
        Number of graphs; None: the last graph that has nodes ends them, which a GPU is waited for to tell. Needed
        under ``torch.compile``.
    dim : int
        The dimension of the nodes where there is no ``batch``.
    by_grade : bool
        Whether the maximum is chosen for each grade, or for the whole multivector.
    grades : int, tuple of int or None
        That ``x`` and the result hold; None: all.

    Returns
    -------
    Tensor
        As ``x`` without ``dim``, or ``(graphs, blades, channels)``. A graph without nodes gets zero. The sums are
        taken in a fixed order on every device.

    Raises
    ------
    ValueError, TypeError
        For an unknown reduction, a ``dim`` that is none of the leading ones, a ``batch`` of another shape, dtype or
        device than these, or with an index outside ``size``.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> x = F.embed(torch.tensor([[[1.0], [0.0]], [[0.0], [2.0]], [[5.0], [0.0]]]), 1, "R2")
    >>> F.pool(x, "R2")[..., 0]
    tensor([0.0000, 2.0000, 0.6667, 0.0000])
    >>> F.pool(x, "R2", "max", batch=torch.tensor([0, 0, 2]))[..., 0]
    tensor([[0., 0., 2., 0.],
            [0., 0., 0., 0.],
            [0., 5., 0., 0.]])
    """
    algebra = Algebra(algebra)
    grades = held_grades(algebra, grades)
    check_multivector("x", x, algebra, grades)
    check_reduction(reduce)
    groups = _Dimension(x, dim, size) if batch is None else _graphs(x, batch, size)
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    if reduce == "sum":
        return groups.sum(values).to(x.dtype)
    if reduce == "mean":
        return (groups.sum(values) / groups.sizes).to(x.dtype)
    chosen = _largest(values.detach(), algebra, groups, by_grade, grades)
    # a group has at least one of the largest norm, unless it is empty
    return (groups.sum(chosen * values) / groups.sum(chosen).clamp(min=1)).to(x.dtype)


def check_reduction(reduce: str) -> None:
    """Complain about what `pool` does not know."""
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce: got {reduce!r}, wanted one of {', '.join(map(repr, REDUCTIONS))}")


class _Groups(Protocol):
    """Which nodes go together."""

    @property
    def sizes(self) -> Tensor | int:
        """Number of nodes of each group, but at least 1; broadcasts with sums."""

    def sum(self, x: Tensor) -> Tensor: ...

    def is_largest(self, x: Tensor) -> Tensor:
        """Of each value, whether no other in its group is larger."""


class _Dimension:
    """The nodes along one leading dimension."""

    def __init__(self, x: Tensor, dim: int, size: int | None):
        if not isinstance(dim, int) or isinstance(dim, bool):
            raise TypeError(f"dim: got {dim!r}, wanted an int")
        if not -x.ndim <= dim < x.ndim or dim % x.ndim >= x.ndim - 2:
            raise ValueError(
                f"dim: got {dim}, wanted one of the {x.ndim - 2} dimensions before blades and channels of "
                f"x, {tuple(x.shape)}"
            )
        if size is not None:
            raise ValueError(f"size: got {size!r} without batch, wanted None: the dimension dim is one graph")
        self.dim = dim % x.ndim
        self.sizes = max(x.shape[self.dim], 1)

    def sum(self, x: Tensor) -> Tensor:
        return x.sum(self.dim)

    def is_largest(self, x: Tensor) -> Tensor:
        return x == x.amax(self.dim, keepdim=True) if x.shape[self.dim] else torch.zeros_like(x, dtype=torch.bool)


class _Graphs:
    """The nodes of each graph of a batch."""

    def __init__(self, batch: Tensor, size: int):
        self.segments = Segments(batch, size)
        self.sizes = self.segments.sizes.clamp(min=1)[:, None, None]

    def sum(self, x: Tensor) -> Tensor:
        return self.segments.sum(x)

    def is_largest(self, x: Tensor) -> Tensor:
        return x == self.segments.spread(self.segments.max(x))


def _graphs(x: Tensor, batch: Tensor, size: int | None) -> _Graphs:
    check_batch(batch, "x", x, "nodes, blades, channels")
    if size is None:
        size = int(batch.max()) + 1 if batch.shape[0] else 0
    check_graphs(batch, "size", size)
    return _Graphs(batch, size)


def _largest(x: Tensor, algebra: Algebra, groups: _Groups, by_grade: bool, grades: GradesLike) -> Tensor:
    """One where a multivector, or its grade, has the largest norm of its group, zero elsewhere; broadcasts with x."""
    slices = algebra.slices_of(grades)
    norms = torch.stack([quadratic_form(x[..., s, :], k, algebra).abs() for k, s in slices.items()], -2)
    if not by_grade:
        return groups.is_largest(norms.sum(-2, keepdim=True)).to(x.dtype)
    return by_blade(groups.is_largest(norms).to(x.dtype), algebra, grades)
