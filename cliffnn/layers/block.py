"""The block that models are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

import cliffnn.functional as F
from cliffnn.algebra import AlgebraLike, GradesLike
from cliffnn.checks import checked_paths, gated_grades, held_grades
from cliffnn.layers.base import MVLayer, check_input, checked_channels, checked_eps, grades_repr
from cliffnn.layers.linear import MVLinear
from cliffnn.layers.product import initialize_product_weight


class SGPNormBlock(MVLayer):
    r"""Multiply an input with a linear map of itself: linear, GELU, weighted geometric product, RMS norm.

    .. math:: o = \operatorname{rms\_norm}(\operatorname{wgp}(
        \operatorname{gelu}(x), \operatorname{gelu}(\operatorname{linear}(x)), w))

    It equals `MVLinear`, `MVGELU`, `SGP` and `MVRMSNorm` one after the other; all but the linear map run fused.

    From ``(..., blades, channels)`` to as many.

    Parameters
    ----------
    channels : int or None
        None: taken from the first input.
    algebra : str, int, tuple or Algebra
    normalize : bool
        Whether the result is normalised.
    eps : float
        Added inside the root of the norm.
    bias : bool
        Whether the linear map has a bias (on the scalar blade).
    device, dtype
        Of the parameters.
    grades : int, tuple of int or None
        That the input holds, the scalar among them; None: all.
    out_grades : int, tuple of int or None
        That the result holds; None: all.

    Attributes
    ----------
    linear : MVLinear
        From as many channels to as many.
    weight : Parameter
        Of the product, ``(paths, channels)``, in the order of `paths`.
    paths : tuple of tuple of int
        `Algebra.paths_between` the grades.

    Raises
    ------
    ValueError, TypeError
        For channels that are no positive int, an unknown algebra or grade, grades without the scalar or
        that no product has, an input of another shape.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, equation 11, for
    the product; `MVGELU`, `MVRMSNorm`.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from cliffnn.layers import MVLinear, SGPNormBlock
    >>> model = nn.Sequential(MVLinear(2, 16, "R2"), SGPNormBlock(algebra="R2"), SGPNormBlock(algebra="R2"))
    >>> model(torch.randn(5, 4, 2)).shape
    torch.Size([5, 4, 16])
    """

    def __init__(
        self,
        channels: int | None = None,
        algebra: AlgebraLike | None = None,
        normalize: bool = True,
        eps: float = 1e-6,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        grades: GradesLike = None,
        out_grades: GradesLike = None,
    ):
        super().__init__(algebra)
        self.grades = gated_grades(self.algebra, grades)
        self.out_grades = held_grades(self.algebra, out_grades, "out_grades")
        self.paths = checked_paths(self.algebra, self.grades, self.grades, self.out_grades)
        self.channels = checked_channels("channels", channels)
        self.normalize = normalize
        self.eps = checked_eps(eps)
        self.linear = MVLinear(channels, channels, algebra, bias, device, dtype, grades=grades)
        self.weight = self.parameter((len(self.paths), self.channels), device, dtype)
        self.finish_init()

    def infer_channels(self, x: Tensor) -> None:
        if self.channels is None:
            self.channels = (x if is_lazy(self.weight) else self.weight).shape[-1]

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        assert self.channels is not None
        return {"weight": (len(self.paths), self.channels)}

    def reset_parameters(self) -> None:
        if self.channels is not None:
            self.linear.reset_parameters()
            initialize_product_weight(self.weight, self.algebra, self.paths)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, "x", x, self.channels, self.weight)
        grades = self.grades, self.grades, self.out_grades
        y, x = self.linear(x, beside=True)
        return F.gelu_sgp_norm(x, y, self.weight, self.algebra, self.normalize, self.eps, *grades)

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, algebra={self.algebra.name!r}, normalize={self.normalize}, eps={self.eps}, "
            f"bias={self.linear.bias is not None}{grades_repr(grades=self.grades, out_grades=self.out_grades)}"
        )
