"""The steerable geometric product."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import cliffnn.functional as F
from cliffnn.algebra import Algebra, AlgebraLike
from cliffnn.layers.base import MVLayer, check_input, checked_channels


class SGP(MVLayer):
    r"""The geometric product of two multivectors, with a learned weight for each channel and path.

    .. math:: o_c = \sum_{(i, j, k)} w_{ijk,c}
        \left\langle \langle x_c \rangle_i \langle y_c \rangle_j \right\rangle_k

    Parameters
    ----------
    channels : int or None
        None: taken from the first input.
    algebra : str, int, tuple or Algebra
    device, dtype
        Of the weight.

    Attributes
    ----------
    weight : Parameter
        ``(paths, channels)``, in the order of `Algebra.paths`; initially normal, with the variance that keeps the
        size of blades whose factors are independent and of unit variance.

    Raises
    ------
    ValueError, TypeError
        For channels that are no positive int, an unknown algebra, inputs of other shapes.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, equation 11.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import SGP
    >>> x, y = torch.randn(2, 5, 8, 16)
    >>> SGP(16, "R3")(x, y).shape
    torch.Size([5, 8, 16])
    """

    def __init__(
        self,
        channels: int | None = None,
        algebra: AlgebraLike | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(algebra)
        self.channels = checked_channels("channels", channels)
        self.weight = self.parameter((len(self.algebra.paths), self.channels), device, dtype)
        self.finish_init()

    def infer_channels(self, x: Tensor) -> None:
        if self.channels is None:
            self.channels = (x if is_lazy(self.weight) else self.weight).shape[-1]

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        assert self.channels is not None
        return {"weight": (len(self.algebra.paths), self.channels)}

    def reset_parameters(self) -> None:
        if self.channels is not None:
            initialize_product_weight(self.weight, self.algebra)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        check_input(self, "x", x, self.channels, self.weight)
        check_input(self, "y", y, self.channels, self.weight)
        return F.weighted_geometric_product(x, y, self.weight, self.algebra)

    def extra_repr(self) -> str:
        return f"{self.channels}, algebra={self.algebra.name!r}"


def initialize_product_weight(weight: Tensor, algebra: Algebra, channels: int = 1) -> None:
    """Normal weights, their variance one over the number of products that a blade of the path's result sums.

    They are summed over so many channels.
    """
    products = [0] * len(algebra.grades)
    for _, _, blade, _ in algebra.products:
        products[algebra.grade_of_blades[blade]] += 1
    with torch.no_grad():
        for path, (_, _, k) in enumerate(algebra.paths):
            nn.init.normal_(weight[path], std=math.sqrt(algebra.grade_sizes[k] / (products[k] * channels)))
