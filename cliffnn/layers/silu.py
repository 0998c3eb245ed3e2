"""The nonlinearity of Clifford group networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import cliffnn.functional as F
from cliffnn.algebra import AlgebraLike, GradesLike
from cliffnn.checks import held_grades
from cliffnn.layers.base import MVLayer, check_input, checked_channels, grades_repr


class MVSiLU(MVLayer):
    r"""Gate each grade by its invariant, with a learned slope and threshold.

    .. math:: \langle o_c \rangle_k = \sigma\left(a_{k,c} \, \iota_k(x_c) + b_{k,c}\right) \langle x_c \rangle_k,
        \qquad \iota_0(x) = \langle x \rangle_0, \quad \iota_k(x) = q_k(x)

    with the algebra's quadratic form :math:`q_k` on grade k.

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
    weight, bias : Parameter
        :math:`a` and :math:`b`, ``(grades, channels)``, initially one and zero.

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
    >>> from cliffnn.layers import MVSiLU
    >>> MVSiLU(16, "R3")(torch.randn(5, 8, 16)).shape
    torch.Size([5, 8, 16])
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
        shape = (len(self.grades or self.algebra.grades), self.channels)
        self.weight = self.parameter(shape, device, dtype)
        self.bias = self.parameter(shape, device, dtype)
        self.finish_init()

    def infer_channels(self, x: Tensor) -> None:
        if self.channels is None:
            self.channels = (x if is_lazy(self.weight) else self.weight).shape[-1]

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        assert self.channels is not None
        return dict.fromkeys(("weight", "bias"), (len(self.grades or self.algebra.grades), self.channels))

    def reset_parameters(self) -> None:
        if self.channels is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, "x", x, self.channels, self.weight)
        return F.silu(x, self.weight, self.bias, self.algebra, self.grades)

    def extra_repr(self) -> str:
        return f"{self.channels}, algebra={self.algebra.name!r}{grades_repr(grades=self.grades)}"
