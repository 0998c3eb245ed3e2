"""The paper's network for volumes of convex hulls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import cliffnn.functional as F
from cliffnn.algebra import Algebra
from cliffnn.layers import MVLinear, SteerableGP
from cliffnn.models.cemlp import check_layers


class O5ConvexHull(nn.Module):
    """The volume of the convex hull of points in five dimensions: O(5)-invariant.

    Four steerable products; then the norms of all multivectors go through a perceptron. 58,849 parameters, as many as
    the paper's code has.

    Parameters
    ----------
    in_channels : int
        How many points there are.
    hidden_channels : int
    layers : int
        Products.
    device, dtype
        Of the parameters.

    Raises
    ------
    ValueError, TypeError
        For channels or layers that are no positive int, an input of another shape.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, section 5.2.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.models import O5ConvexHull
    >>> O5ConvexHull()(torch.randn(2, 16, 5)).shape
    torch.Size([2])
    """

    algebra = Algebra("R5")

    def __init__(
        self,
        in_channels: int = 16,
        hidden_channels: int = 32,
        layers: int = 4,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_layers(layers)
        options = {"device": device, "dtype": dtype}
        self.net = nn.Sequential(
            MVLinear(in_channels, hidden_channels, self.algebra, per_grade=False, **options),
            *(SteerableGP(hidden_channels, self.algebra, **options) for _ in range(layers)),
        )
        self.mlp = nn.Sequential(
            nn.Linear(hidden_channels, hidden_channels, **options),
            nn.SiLU(),
            nn.Linear(hidden_channels, 1, **options),
        )

    def forward(self, points: Tensor) -> Tensor:
        """``(batch, points, coordinates)`` to ``(batch,)``."""
        x = self.net(F.embed(points.mT, 1, self.algebra))
        return self.mlp(x.norm(dim=-2)).squeeze(-1)
