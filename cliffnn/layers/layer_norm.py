"""Normalisation of whole multivectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import cliffnn.functional as F
from cliffnn.algebra import AlgebraLike, GradesLike
from cliffnn.checks import held_grades
from cliffnn.layers.base import MVLayer, check_input, checked_channels, checked_eps, grades_repr


class MVLayerNorm(MVLayer):
    r"""Divide by the mean norm over the channels.

    .. math:: o_c = \frac{a_c \, x_c}{\operatorname{mean}_{c'} \|x_{c'}\| + \varepsilon}

    with the smooth norm of `cliffnn.functional.layer_norm`. `MVRMSNorm` divides each grade by a norm of its own.

    From ``(..., blades, channels)`` to as many.

    Parameters
    ----------
    channels : int or None
        None: taken from the first input.
    algebra : str, int, tuple or Algebra
    eps : float
        Added to the mean norm.
    device, dtype
        Of the weight.
    grades : int, tuple of int or None
        That the input and the result hold; None: all.

    Attributes
    ----------
    weight : Parameter
        :math:`a`, ``(channels,)``, initially one.

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
    >>> from cliffnn.layers import MVLayerNorm
    >>> x = MVLayerNorm(16, "R3")(100 * torch.randn(5, 8, 16))
    >>> x.norm(dim=-2).mean(-1).detach().round(decimals=3)
    tensor([1., 1., 1., 1., 1.])
    """

    def __init__(
        self,
        channels: int | None = None,
        algebra: AlgebraLike | None = None,
        eps: float = 1e-6,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        grades: GradesLike = None,
    ):
        super().__init__(algebra)
        self.grades = held_grades(self.algebra, grades)
        self.channels = checked_channels("channels", channels)
        self.eps = checked_eps(eps)
        self.weight = self.parameter((self.channels,), device, dtype)
        self.finish_init()

    def infer_channels(self, x: Tensor) -> None:
        if self.channels is None:
            self.channels = (x if is_lazy(self.weight) else self.weight).shape[-1]

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        assert self.channels is not None
        return {"weight": (self.channels,)}

    def reset_parameters(self) -> None:
        if self.channels is not None:
            nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, "x", x, self.channels, self.weight)
        return F.layer_norm(x, self.weight, self.algebra, self.eps, self.grades)

    def extra_repr(self) -> str:
        return f"{self.channels}, algebra={self.algebra.name!r}, eps={self.eps}{grades_repr(grades=self.grades)}"
