"""Normalisation of grades, to a learned degree."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import cliffnn.functional as F
from cliffnn.algebra import AlgebraLike, GradesLike
from cliffnn.checks import held_grades
from cliffnn.layers.base import MVLayer, check_input, checked_channels, checked_eps, grades_repr


class NormalizationLayer(MVLayer):
    r"""Divide each grade of each channel by its norm, to a learned degree.

    .. math:: \langle o_c \rangle_k = \frac{\langle x_c \rangle_k}
        {\sigma(a_{k,c}) \left(\|\langle x_c \rangle_k\| - 1\right) + 1 + \varepsilon}

    with the smooth norm of `cliffnn.functional.normalize`.

    From ``(..., blades, channels)`` to as many.

    Parameters
    ----------
    channels : int or None
        None: taken from the first input.
    algebra : str, int, tuple or Algebra
    init : float
        Initial value of the weight; 0 is half way to the division by the norm.
    eps : float
        Added to the denominator.
    device, dtype
        Of the weight.
    grades : int, tuple of int or None
        That the input and the result hold; None: all.

    Attributes
    ----------
    weight : Parameter
        :math:`a`, ``(grades, channels)``.

    Raises
    ------
    ValueError, TypeError
        For channels that are no positive int, an unknown algebra or grade, an input of another shape.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, and the authors' code.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import NormalizationLayer
    >>> NormalizationLayer(16, "R3")(torch.randn(5, 8, 16)).shape
    torch.Size([5, 8, 16])
    """

    def __init__(
        self,
        channels: int | None = None,
        algebra: AlgebraLike | None = None,
        init: float = 0.0,
        eps: float = 1e-6,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        grades: GradesLike = None,
    ):
        super().__init__(algebra)
        self.grades = held_grades(self.algebra, grades)
        self.channels = checked_channels("channels", channels)
        self.init = float(init)
        self.eps = checked_eps(eps)
        self.weight = self.parameter((len(self.grades or self.algebra.grades), self.channels), device, dtype)
        self.finish_init()

    def infer_channels(self, x: Tensor) -> None:
        if self.channels is None:
            self.channels = (x if is_lazy(self.weight) else self.weight).shape[-1]

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        assert self.channels is not None
        return {"weight": (len(self.grades or self.algebra.grades), self.channels)}

    def reset_parameters(self) -> None:
        if self.channels is not None:
            nn.init.constant_(self.weight, self.init)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, "x", x, self.channels, self.weight)
        return F.normalize(x, self.weight, self.algebra, self.eps, self.grades)

    def extra_repr(self) -> str:
        grades = grades_repr(grades=self.grades)
        return f"{self.channels}, algebra={self.algebra.name!r}, init={self.init}, eps={self.eps}{grades}"
