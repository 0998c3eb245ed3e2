"""Dropout."""

from __future__ import annotations

from torch import Tensor

import cliffnn.functional as F
from cliffnn.algebra import AlgebraLike, GradesLike
from cliffnn.checks import held_grades
from cliffnn.dropout import check_probability
from cliffnn.layers.base import MVLayer, grades_repr


class MVDropout(MVLayer):
    """In training, set multivectors to zero at random, and scale the others by 1 / (1 - p).

    From ``(..., blades, channels)`` to as many.

    Parameters
    ----------
    p : float
        The probability to be set to zero.
    algebra : str, int, tuple or Algebra
    by_grade : bool
        Whether each grade falls by itself, or the whole multivector.
    grades : int, tuple of int or None
        That the input and the result hold; None: all.

    Raises
    ------
    ValueError, TypeError
        If ``p`` is no probability, for an unknown algebra, or an input of another shape.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov: Dropout, JMLR 15, 2014.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import MVDropout
    >>> layer, x = MVDropout(0.1, "R3"), torch.randn(5, 8, 16)
    >>> torch.equal(layer.eval()(x), x)
    True
    """

    def __init__(
        self,
        p: float = 0.5,
        algebra: AlgebraLike | None = None,
        by_grade: bool = False,
        *,
        grades: GradesLike = None,
    ):
        super().__init__(algebra)
        self.grades = held_grades(self.algebra, grades)
        check_probability(p)
        self.p = p
        self.by_grade = by_grade
        self.finish_init()

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.algebra, self.p, self.training, self.by_grade, self.grades)

    def extra_repr(self) -> str:
        grades = grades_repr(grades=self.grades)
        return f"p={self.p}, algebra={self.algebra.name!r}, by_grade={self.by_grade}{grades}"
