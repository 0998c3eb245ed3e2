"""The product layers of Clifford group networks: an input times a linear map of itself, and a term of first order."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import cliffnn.functional as F
from cliffnn.algebra import AlgebraLike, GradesLike
from cliffnn.checks import checked_paths, held_grades
from cliffnn.layers.base import MVLayer, check_input, checked_channels, grades_repr
from cliffnn.layers.linear import MVLinear
from cliffnn.layers.normalization import NormalizationLayer


class _Steerable(MVLayer):
    """What both products share: the linear maps, the normalisation of the right factor, the term of first order."""

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int | None,
        algebra: AlgebraLike | None,
        first_order: bool,
        normalization: float | None,
        grades: GradesLike,
        options: dict[str, Any],
    ):
        super().__init__(algebra)
        self.grades = held_grades(self.algebra, grades)
        self.paths = checked_paths(self.algebra, self.grades, self.grades, self.grades)
        options = {**options, "grades": grades}
        bias = self.grades is None or 0 in self.grades
        self.linear_left = MVLinear(in_channels, out_channels, algebra, bias, **options) if first_order else None
        self.linear_right = MVLinear(in_channels, in_channels, algebra, bias=False, **options)
        self.normalization = (
            None if normalization is None else NormalizationLayer(in_channels, algebra, normalization, **options)
        )

    def reset_parts(self) -> None:
        for part in (self.linear_left, self.linear_right, self.normalization):
            if part is not None:
                part.reset_parameters()

    def right(self, x: Tensor) -> Tensor:
        """The right factor."""
        y = self.linear_right(x)
        return y if self.normalization is None else self.normalization(y)

    def with_first_order(self, x: Tensor, product: Tensor) -> Tensor:
        return product if self.linear_left is None else (product + self.linear_left(x)) * math.sqrt(0.5)


class SteerableGP(_Steerable):
    r"""Multiply an input with a normalised linear map of itself, and add a linear map of it.

    .. math:: o = \frac{1}{\sqrt 2} \left(\operatorname{linear}_l(x) +
        \operatorname{wgp}(x, \operatorname{normalize}(\operatorname{linear}_r(x)), w)\right)

    From ``(..., blades, channels)`` to as many.

    Parameters
    ----------
    channels : int or None
        None: taken from the first input.
    algebra : str, int, tuple or Algebra
    first_order : bool
        Whether the linear map is added; without it there is no :math:`1/\sqrt 2` either.
    normalization : float or None
        Initial weight of the `NormalizationLayer` of the right factor; None: it is not normalised.
    device, dtype
        Of the parameters.
    grades : int, tuple of int or None
        That the input and the result hold, as the even subalgebra; None: all. Without the scalar there is no bias.

    Attributes
    ----------
    linear_left : MVLinear or None
    linear_right : MVLinear
        Without a bias.
    normalization : NormalizationLayer or None
    weight : Parameter
        Of the product, ``(paths, channels)``, initially normal with variance 1 / (n + 1), n the dimension of space.

    Raises
    ------
    ValueError, TypeError
        For channels that are no positive int, an unknown algebra or grade, grades that have no products,
        an input of another shape.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, equation 11, and the
    authors' code.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import SteerableGP
    >>> SteerableGP(16, "R3")(torch.randn(5, 8, 16)).shape
    torch.Size([5, 8, 16])
    """

    def __init__(
        self,
        channels: int | None = None,
        algebra: AlgebraLike | None = None,
        first_order: bool = True,
        normalization: float | None = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        grades: GradesLike = None,
    ):
        options = {"device": device, "dtype": dtype}
        super().__init__(channels, channels, algebra, first_order, normalization, grades, options)
        self.channels = checked_channels("channels", channels)
        self.weight = self.parameter((len(self.paths), self.channels), device, dtype)
        self.finish_init()

    def infer_channels(self, x: Tensor) -> None:
        if self.channels is None:
            self.channels = (x if is_lazy(self.weight) else self.weight).shape[-1]
        if self.normalization is not None and self.normalization.has_uninitialized_params():
            # its weight goes into the product: nobody calls it
            self.normalization._infer_parameters(self.normalization, (x,))

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        assert self.channels is not None
        return {"weight": (len(self.paths), self.channels)}

    def reset_parameters(self) -> None:
        if self.channels is not None:
            self.reset_parts()
            nn.init.normal_(self.weight, std=1 / math.sqrt(self.algebra.dim + 1))

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, "x", x, self.channels, self.weight)
        grades = [self.grades] * 3
        if self.linear_left is None or self.normalization is None:
            product = F.weighted_geometric_product(x, self.right(x), self.weight, self.algebra, *grades)
            return self.with_first_order(x, product)
        degree, eps = self.normalization.weight, self.normalization.eps
        left, x = self.linear_left(x, beside=True)
        right, x = self.linear_right(x, beside=True)
        return F.steerable_geometric_product(x, right, left, self.weight, degree, self.algebra, eps, *grades)

    def extra_repr(self) -> str:
        return f"{self.channels}, algebra={self.algebra.name!r}{grades_repr(grades=self.grades)}"


class FullyConnectedSteerableGP(_Steerable):
    r"""`SteerableGP` with a weight for each path, output channel and input channel.

    .. math:: o_c = \frac{1}{\sqrt 2} \left(\operatorname{linear}_l(x)_c + \sum_{c'} \sum_{(i, j, k)} w_{ijk,cc'}
        \left\langle \langle x_{c'} \rangle_i \langle y_{c'} \rangle_j \right\rangle_k \right), \qquad
        y = \operatorname{normalize}(\operatorname{linear}_r(x))

    From ``(..., blades, in_channels)`` to ``(..., blades, out_channels)``.

    Parameters
    ----------
    in_channels : int or None
        None: taken from the first input.
    out_channels : int or None
        None: as many as come in.
    algebra : str, int, tuple or Algebra
    first_order : bool
        Whether the linear map is added; without it there is no :math:`1/\sqrt 2` either.
    normalization : float or None
        Initial weight of the `NormalizationLayer` of the right factor; None: it is not normalised.
    device, dtype
        Of the parameters.
    grades : int, tuple of int or None
        That the input and the result hold, as the even subalgebra; None: all. Without the scalar there is no bias.

    Attributes
    ----------
    linear_left : MVLinear or None
    linear_right : MVLinear
        From the input channels to as many, without a bias.
    normalization : NormalizationLayer or None
    weight : Parameter
        Of the product, ``(paths, out_channels, in_channels)``, initially normal with variance
        1 / (in_channels (n + 1)), n the dimension of space.

    Raises
    ------
    ValueError, TypeError
        For channels that are no positive int, an unknown algebra or grade, grades that have no products,
        an input of another shape.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, equation 10, and the
    authors' code.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import FullyConnectedSteerableGP
    >>> FullyConnectedSteerableGP(3, 16, "R3")(torch.randn(5, 8, 3)).shape
    torch.Size([5, 8, 16])
    """

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int | None,
        algebra: AlgebraLike | None = None,
        first_order: bool = True,
        normalization: float | None = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        grades: GradesLike = None,
    ):
        options = {"device": device, "dtype": dtype}
        super().__init__(in_channels, out_channels, algebra, first_order, normalization, grades, options)
        self.in_channels = checked_channels("in_channels", in_channels)
        self.out_channels = checked_channels("out_channels", out_channels)
        shape = (len(self.paths), self.out_channels, self.in_channels)
        self.weight = self.parameter(shape, device, dtype)
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
            self.reset_parts()
            nn.init.normal_(self.weight, std=1 / math.sqrt(self.in_channels * (self.algebra.dim + 1)))

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, "x", x, self.in_channels, self.weight)
        product = F.fully_connected_geometric_product(x, self.right(x), self.weight, self.algebra, *[self.grades] * 3)
        return self.with_first_order(x, product)

    def extra_repr(self) -> str:
        grades = grades_repr(grades=self.grades)
        return f"{self.in_channels}, {self.out_channels}, algebra={self.algebra.name!r}{grades}"
