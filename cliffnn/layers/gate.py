"""The nonlinearity."""

from __future__ import annotations

from torch import Tensor

import cliffnn.functional as F
from cliffnn.algebra import AlgebraLike
from cliffnn.layers.base import MVLayer


class MVGELU(MVLayer):
    r"""Gate each multivector by its scalar part, :math:`x \, \Phi(\langle x \rangle_0)`.

    Parameters
    ----------
    algebra : str, int, tuple or Algebra

    Raises
    ------
    ValueError, TypeError
        For an unknown algebra, or an input that is no ``(..., blades, channels)``.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import MVGELU
    >>> MVGELU("R3")(torch.randn(5, 8, 16)).shape
    torch.Size([5, 8, 16])
    """

    def __init__(self, algebra: AlgebraLike | None = None):
        super().__init__(algebra)
        self.finish_init()

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, self.algebra)

    def extra_repr(self) -> str:
        return f"algebra={self.algebra.name!r}"
