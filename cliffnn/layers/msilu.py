"""The nonlinearity of group action networks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import cliffnn.functional as F
from cliffnn.algebra import AlgebraLike, GradesLike
from cliffnn.checks import held_grades
from cliffnn.layers.base import MVLayer, check_input, checked_channels, grades_repr


class MSiLU(MVLayer):
    r"""Gate each grade by a learned linear form of all blades.

    .. math:: \langle o_c \rangle_k = \sigma\left(\sum_b \beta_{k,b,c} \, x_{b,c} + \gamma_{k,c}\right)
        \langle x_c \rangle_k

    It is not equivariant, unless only the scalar weighs: the nonlinearity for `VersorLinear`, which is not either.
    `MVSiLU` gates by invariants, and is equivariant.

    From ``(..., blades, channels)`` to as many.

    Parameters
    ----------
    channels : int or None
        None: taken from the first input.
    algebra : str, int, tuple or Algebra
    device, dtype
        Of the parameters.
    grades : int, tuple of int or None
        That the input and the result hold; None: all.

    Attributes
    ----------
    weight : Parameter
        :math:`\beta`, ``(grades, blades, channels)``, initially normal with variance 1 / blades.
    bias : Parameter
        :math:`\gamma`, ``(grades, channels)``, initially zero.

    Raises
    ------
    ValueError, TypeError
        For channels that are no positive int, an unknown algebra or grade, an input of another shape.

    References
    ----------
    Ruhe, Gupta, De Keninck, Welling, Brandstetter: Geometric Clifford Algebra Networks, arXiv:2302.06594.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import MSiLU
    >>> MSiLU(16, "R3,0,1")(torch.randn(5, 16, 16)).shape
    torch.Size([5, 16, 16])
    """

    def __init__(
        self,
        channels: int | None = None,
        algebra: AlgebraLike | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        grades: GradesLike = None,
    ):
        super().__init__(algebra)
        self.grades = held_grades(self.algebra, grades)
        self.channels = checked_channels("channels", channels)
        self._held = len(self.grades or self.algebra.grades), len(self.algebra.blades_of(self.grades))
        self.weight = self.parameter((*self._held, self.channels), device, dtype)
        self.bias = self.parameter((self._held[0], self.channels), device, dtype)
        self.finish_init()

    def infer_channels(self, x: Tensor) -> None:
        if self.channels is None:
            self.channels = (x if is_lazy(self.weight) else self.weight).shape[-1]

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        assert self.channels is not None
        return {"weight": (*self._held, self.channels), "bias": (self._held[0], self.channels)}

    def reset_parameters(self) -> None:
        if self.channels is not None:
            nn.init.normal_(self.weight, std=1 / math.sqrt(self._held[1]))
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, "x", x, self.channels, self.weight)
        return F.msilu(x, self.weight, self.bias, self.algebra, self.grades)

    def extra_repr(self) -> str:
        return f"{self.channels}, algebra={self.algebra.name!r}{grades_repr(grades=self.grades)}"
