"""Dropout."""

from __future__ import annotations

from torch import Tensor

import cliffnn.functional as F
from cliffnn.algebra import AlgebraLike
from cliffnn.dropout import check_probability
from cliffnn.layers.base import MVLayer


class MVDropout(MVLayer):
    """In training, set multivectors to zero at random, and scale the others by 1 / (1 - p).

    Parameters
    ----------
    p : float
        The probability to be set to zero.
    algebra : str, int, tuple or Algebra
    by_grade : bool
        Whether each grade falls by itself, or the whole multivector.

    Raises
    ------
    ValueError, TypeError
        If ``p`` is no probability, for an unknown algebra, or an input of another shape.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import MVDropout
    >>> layer, x = MVDropout(0.1, "R3"), torch.randn(5, 8, 16)
    >>> torch.equal(layer.eval()(x), x)
    True
    """

    def __init__(self, p: float = 0.5, algebra: AlgebraLike | None = None, by_grade: bool = False):
        super().__init__(algebra)
        check_probability(p)
        self.p = p
        self.by_grade = by_grade
        self.finish_init()

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.algebra, self.p, self.training, self.by_grade)

    def extra_repr(self) -> str:
        return f"p={self.p}, algebra={self.algebra.name!r}, by_grade={self.by_grade}"
