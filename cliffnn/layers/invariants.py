"""Invariants, to read out numbers that don't turn."""

from __future__ import annotations

from torch import Tensor

import cliffnn.functional as F
from cliffnn.algebra import AlgebraLike, GradesLike
from cliffnn.checks import held_grades
from cliffnn.invariants import feature_count
from cliffnn.layers.base import MVLayer, check_input, checked_channels, grades_repr


class Invariants(MVLayer):
    r"""The invariants of a multivector: its scalars, and the quadratic form of every other grade.

    .. math:: \langle x_c \rangle_0, \qquad q_k(x_c), \qquad \text{or}\quad q_k(x_c, x_{c'}) \text{ for } c \le c'

    They are polynomials, smooth everywhere. See `cliffnn.functional.invariants`.

    From ``(..., blades, channels)`` to ``(..., out_features)``.

    Parameters
    ----------
    channels : int or None
        None: any number.
    algebra : str, int, tuple or Algebra
    inner_products : bool
        Whether the form is taken between all pairs of channels, or of each channel alone.
    grades : int, tuple of int or None
        That the input holds; None: all.

    Attributes
    ----------
    out_features : int or None
        How many come out; None where the channels are not given.

    Raises
    ------
    ValueError, TypeError
        For channels that are no positive int, an unknown algebra, an input of another shape.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, section 2, for
    the form of each grade.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from cliffnn.layers import Invariants
    >>> readout = Invariants(16, "R3")  # 16 scalars, and as many norms of vectors, bivectors and trivectors
    >>> energy = nn.Sequential(readout, nn.Linear(readout.out_features, 1))
    >>> energy(torch.randn(5, 8, 16)).shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        channels: int | None = None,
        algebra: AlgebraLike | None = None,
        inner_products: bool = False,
        *,
        grades: GradesLike = None,
    ):
        super().__init__(algebra)
        self.grades = held_grades(self.algebra, grades)
        feature_count(self.algebra, 1, inner_products, self.grades)  # complains if there are none
        self.channels = checked_channels("channels", channels)
        self.inner_products = inner_products
        self.finish_init()

    @property
    def out_features(self) -> int | None:
        if self.channels is None:
            return None
        return feature_count(self.algebra, self.channels, self.inner_products, self.grades)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, "x", x, self.channels)
        return F.invariants(x, self.algebra, self.inner_products, self.grades)

    def extra_repr(self) -> str:
        grades = grades_repr(grades=self.grades)
        return f"{self.channels}, algebra={self.algebra.name!r}, inner_products={self.inner_products}{grades}"
