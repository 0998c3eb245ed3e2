"""The paper's network for a function of two vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import cliffnn.functional as F
from cliffnn.algebra import Algebra
from cliffnn.layers import MVLinear, SteerableGP


class O5Regression(nn.Module):
    """A number that two vectors in five dimensions determine: O(5)-invariant.

    One steerable product; then its scalars go through a perceptron. 344,077 parameters, as many as the paper's code
    has.

    Parameters
    ----------
    in_channels : int
        How many vectors there are.
    hidden_channels : int
        Of the product.
    features : int
        Of the perceptron.
    device, dtype
        Of the parameters.

    Raises
    ------
    ValueError, TypeError
        For channels that are no positive int, an input of another shape.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, section 5.2; the
    function is that of Finzi, Welling, Wilson, arXiv:2104.09459.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.models import O5Regression
    >>> O5Regression()(torch.randn(2, 2, 5)).shape
    torch.Size([2])
    """

    algebra = Algebra("R5")

    def __init__(
        self,
        in_channels: int = 2,
        hidden_channels: int = 8,
        features: int = 580,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        options = {"device": device, "dtype": dtype}
        self.gp = nn.Sequential(
            MVLinear(in_channels, hidden_channels, self.algebra, per_grade=False, **options),
            SteerableGP(hidden_channels, self.algebra, **options),
        )
        self.mlp = nn.Sequential(
            nn.Linear(hidden_channels, features, **options),
            nn.ReLU(),
            nn.Linear(features, features, **options),
            nn.ReLU(),
            nn.Linear(features, 1, **options),
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """``(batch, vectors, coordinates)`` to ``(batch,)``."""
        x = self.gp(F.embed(vectors.mT, 1, self.algebra))
        return self.mlp(F.extract(x, 0, self.algebra).squeeze(-2)).squeeze(-1)
