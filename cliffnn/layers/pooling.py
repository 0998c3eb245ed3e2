"""From many nodes to one multivector."""

from __future__ import annotations

from torch import Tensor

import cliffnn.functional as F
from cliffnn.algebra import AlgebraLike, GradesLike
from cliffnn.checks import held_grades
from cliffnn.layers.base import MVLayer, grades_repr
from cliffnn.pooling import check_reduction


class MVPool(MVLayer):
    r"""Reduce nodes to one multivector: their sum, their mean, or the one of the largest norm.

    See `cliffnn.functional.pool`.

    From ``(..., nodes, blades, channels)`` to ``(..., blades, channels)``, or, with a ``batch``, from
    ``(nodes, blades, channels)`` to ``(graphs, blades, channels)``.

    Parameters
    ----------
    reduce : "sum", "mean" or "max"
        The maximum is, channel by channel, the multivector of the largest :math:`\sum_k |q_k(x)|`.
    algebra : str, int, tuple or Algebra
    dim : int
        The dimension of the nodes where there is no ``batch``.
    by_grade : bool
        Whether the maximum is chosen for each grade, or for the whole multivector.
    grades : int, tuple of int or None
        That the input and the result hold; None: all.

    Raises
    ------
    ValueError, TypeError
        For an unknown reduction or algebra, or an input of another shape.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import MVPool
    >>> MVPool("mean", "R3")(torch.randn(10, 5, 8, 16)).shape
    torch.Size([10, 8, 16])
    >>> graph_of_nodes = torch.tensor([0, 0, 1, 1, 1])
    >>> MVPool("max", "R3")(torch.randn(5, 8, 16), graph_of_nodes).shape
    torch.Size([2, 8, 16])
    """

    def __init__(
        self,
        reduce: str = "mean",
        algebra: AlgebraLike | None = None,
        dim: int = -3,
        by_grade: bool = False,
        *,
        grades: GradesLike = None,
    ):
        super().__init__(algebra)
        self.grades = held_grades(self.algebra, grades)
        check_reduction(reduce)
        self.reduce = reduce
        self.dim = dim
        self.by_grade = by_grade
        self.finish_init()

    def forward(self, x: Tensor, batch: Tensor | None = None, size: int | None = None) -> Tensor:
        return F.pool(x, self.algebra, self.reduce, batch, size, self.dim, self.by_grade, self.grades)

    def extra_repr(self) -> str:
        grades = grades_repr(grades=self.grades)
        return f"{self.reduce!r}, algebra={self.algebra.name!r}, dim={self.dim}, by_grade={self.by_grade}{grades}"
