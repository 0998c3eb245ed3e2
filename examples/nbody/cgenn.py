"""The paper's network, as the n-body experiment wants it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cliffnn import functional as F
from cliffnn.models import CGENN
from examples.common.networks import complete_graphs

ALGEBRA = "R3"


class NBodyCGENN(nn.Module):
    """Predict positions from charges, positions and velocities, with the network of arXiv:2305.11141.

    Parameters
    ----------
    channels : int
        Multivectors in the state of a particle.
    layers : int
        Rounds of message passing.
    """

    def __init__(self, channels: int = 28, layers: int = 3):
        super().__init__()
        self.network = CGENN(hidden_channels=channels, layers=layers, algebra=ALGEBRA)

    def forward(self, charges: Tensor, positions: Tensor, velocities: Tensor) -> Tensor:
        """Shapes: charges ``(systems, particles)``, all others ``(systems, particles, 3)``."""
        edges = complete_graphs(*charges.shape, charges.device)
        products = charges.flatten()[edges].prod(0)

        centred = positions - positions.mean(1, keepdim=True)
        vectors = torch.stack([centred, velocities], -1).flatten(0, 1)
        scalars = F.embed(charges.reshape(-1, 1, 1), 0, ALGEBRA)
        nodes = torch.cat([scalars, F.embed(vectors, 1, ALGEBRA)], -1)
        out = self.network(nodes, edges, F.embed(products[:, None, None], 0, ALGEBRA))
        return positions + F.extract(out, 1, ALGEBRA).reshape(positions.shape)
