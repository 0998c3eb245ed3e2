"""The paper's network for signed volumes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import cliffnn.functional as F
from cliffnn.algebra import Algebra
from cliffnn.layers import FullyConnectedSteerableGP, MVSiLU
from cliffnn.models.cemlp import check_layers


class O3SignedVolume(nn.Module):
    """The signed volume of a tetrahedron: O(3)-equivariant, a pseudoscalar.

    As the paper's code has it, whose ``layers`` count gates: two products with all gates but one between them. 48,913
    parameters with these defaults, the ones of its experiment.

    Parameters
    ----------
    in_channels : int
        How many points there are.
    hidden_channels : int
    layers : int
        One more than there are gates.
    device, dtype
        Of the parameters.

    Raises
    ------
    ValueError, TypeError
        For channels or layers that are no positive int, an input of another shape.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, section 5.1.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.models import O3SignedVolume
    >>> points = torch.randn(5, 3, 3)
    >>> model = O3SignedVolume()
    >>> torch.allclose(model(-points), -model(points), atol=1e-5)  # an inversion mirrors it
    True
    """

    algebra = Algebra("R3")

    def __init__(
        self,
        in_channels: int = 3,
        hidden_channels: int = 96,
        layers: int = 4,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_layers(layers)
        options = {"device": device, "dtype": dtype}
        self.net = nn.Sequential(
            FullyConnectedSteerableGP(in_channels, hidden_channels, self.algebra, **options),
            *(MVSiLU(hidden_channels, self.algebra, **options) for _ in range(layers - 1)),
            FullyConnectedSteerableGP(hidden_channels, 1, self.algebra, **options),
        )

    def forward(self, points: Tensor) -> Tensor:
        """``(batch, points, coordinates)`` to ``(batch,)``."""
        x = F.embed(points.mT, 1, self.algebra)
        return F.extract(self.net(x), self.algebra.dim, self.algebra)[..., 0, 0]
