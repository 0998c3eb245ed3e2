"""The fully connected geometric product, and the block made of it."""

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


class FCGP(MVLayer):
    r"""The geometric product of two multivectors, with a learned weight for each pair of channels and path.

    .. math:: o_c = \sum_{c'} \sum_{(i, j, k)} W_{ijk,c c'}
        \left\langle \langle x_{c'} \rangle_i \langle y_{c'} \rangle_j \right\rangle_k

    From two ``(..., blades, in_channels)`` to ``(..., blades, out_channels)``.

    Parameters
    ----------
    in_channels : int or None
        None: taken from the first input.
    out_channels : int or None
        None: as many as come in.
    algebra : str, int, tuple or Algebra
    device, dtype
        Of the weight.
    x_grades, y_grades, out_grades : int, tuple of int or None
        That the factors and the result hold; None: all.

    Attributes
    ----------
    weight : Parameter
        ``(paths, out_channels, in_channels)``, in the order of `paths`; initially normal, with the variance
        that keeps the size of blades whose factors are independent and of unit variance.
    paths : tuple of tuple of int
        `Algebra.paths_between` the grades.

    Raises
    ------
    ValueError, TypeError
        For channels that are no positive int, an unknown algebra or grade, grades that no product has,
        inputs of other shapes.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, section 3.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import FCGP
    >>> x, y = torch.randn(2, 5, 8, 16)
    >>> FCGP(16, 32, "R3")(x, y).shape
    torch.Size([5, 8, 32])
    """

    def __init__(
        self,
        in_channels: int | None = None,
        out_channels: int | None = None,
        algebra: AlgebraLike | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        x_grades: GradesLike = None,
        y_grades: GradesLike = None,
        out_grades: GradesLike = None,
    ):
        super().__init__(algebra)
        self.x_grades = held_grades(self.algebra, x_grades, "x_grades")
        self.y_grades = held_grades(self.algebra, y_grades, "y_grades")
        self.out_grades = held_grades(self.algebra, out_grades, "out_grades")
        self.paths = checked_paths(self.algebra, self.x_grades, self.y_grades, self.out_grades)
        self.in_channels = checked_channels("in_channels", in_channels)
        self.out_channels = checked_channels("out_channels", out_channels)
        self.weight = self.parameter((len(self.paths), self.out_channels, self.in_channels), device, dtype)
        self.finish_init()

    def grades_of(self, name: str) -> tuple[int, ...] | None:
        return self.x_grades if name == "x" else self.y_grades

    def infer_channels(self, x: Tensor) -> None:
        loaded = (None, None) if is_lazy(self.weight) else self.weight.shape[1:]
        self.in_channels = self.in_channels or loaded[1] or x.shape[-1]
        self.out_channels = self.out_channels or loaded[0] or self.in_channels

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        assert self.in_channels is not None
        assert self.out_channels is not None
        return {"weight": (len(self.paths), self.out_channels, self.in_channels)}

    def reset_parameters(self) -> None:
        if self.in_channels is not None and self.out_channels is not None:
            initialize_product_weight(self.weight, self.algebra, self.paths, channels=self.in_channels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        check_input(self, "x", x, self.in_channels, self.weight)
        check_input(self, "y", y, self.in_channels, self.weight)
        grades = self.x_grades, self.y_grades, self.out_grades
        return F.fully_connected_geometric_product(x, y, self.weight, self.algebra, *grades)

    def extra_repr(self) -> str:
        grades = grades_repr(x_grades=self.x_grades, y_grades=self.y_grades, out_grades=self.out_grades)
        return f"{self.in_channels}, {self.out_channels}, algebra={self.algebra.name!r}{grades}"


class FCGPNormBlock(MVLayer):
    r"""Multiply an input with a linear map of itself: linear, GELU, fully connected geometric product, RMS norm.

    .. math:: o = \operatorname{rms\_norm}(\operatorname{fcgp}(
        \operatorname{gelu}(x), \operatorname{gelu}(\operatorname{linear}(x)), W))

    It equals `MVLinear`, `MVGELU`, `FCGP` and `MVRMSNorm` one after the other; the gates run fused with the product.

    From ``(..., blades, in_channels)`` to ``(..., blades, out_channels)``.

    Parameters
    ----------
    in_channels : int or None
        None: taken from the first input.
    out_channels : int or None
        None: as many as come in.
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
        From ``in_channels`` to as many.
    weight : Parameter
        Of the product, ``(paths, out_channels, in_channels)``.

    Raises
    ------
    ValueError, TypeError
        For channels that are no positive int, an unknown algebra or grade, grades without the
        scalar, an input of another shape.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, section 3, for
    the product; `MVGELU`, `MVRMSNorm`.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from cliffnn.layers import FCGPNormBlock
    >>> model = nn.Sequential(FCGPNormBlock(2, 16, "R2"), FCGPNormBlock(algebra="R2"))
    >>> model(torch.randn(5, 4, 2)).shape
    torch.Size([5, 4, 16])
    """

    def __init__(
        self,
        in_channels: int | None = None,
        out_channels: int | None = None,
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
        self.in_channels = checked_channels("in_channels", in_channels)
        self.out_channels = checked_channels("out_channels", out_channels)
        self.normalize = normalize
        self.eps = checked_eps(eps)
        self.linear = MVLinear(in_channels, in_channels, algebra, bias, device, dtype, grades=grades)
        self.weight = self.parameter((len(self.paths), self.out_channels, self.in_channels), device, dtype)
        self.finish_init()

    def infer_channels(self, x: Tensor) -> None:
        loaded = (None, None) if is_lazy(self.weight) else self.weight.shape[1:]
        self.in_channels = self.in_channels or loaded[1] or x.shape[-1]
        self.out_channels = self.out_channels or loaded[0] or self.in_channels

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        assert self.in_channels is not None
        assert self.out_channels is not None
        return {"weight": (len(self.paths), self.out_channels, self.in_channels)}

    def reset_parameters(self) -> None:
        if self.in_channels is not None and self.out_channels is not None:
            self.linear.reset_parameters()
            initialize_product_weight(self.weight, self.algebra, self.paths, channels=self.in_channels)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, "x", x, self.in_channels, self.weight)
        grades = self.grades, self.grades, self.out_grades
        return F.gelu_fcgp_norm(x, self.linear(x), self.weight, self.algebra, self.normalize, self.eps, *grades)

    def extra_repr(self) -> str:
        grades = grades_repr(grades=self.grades, out_grades=self.out_grades)
        return (
            f"{self.in_channels}, {self.out_channels}, algebra={self.algebra.name!r}, normalize={self.normalize}, "
            f"eps={self.eps}, bias={self.linear.bias is not None}{grades}"
        )
