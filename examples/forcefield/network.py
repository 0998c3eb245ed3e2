"""An energy made of multivectors, and the forces that are its gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cliffnn import functional as F
from cliffnn.layers import MVGELU, SGP, Invariants, MVLinear
from examples.common.checks import within
from examples.common.networks import all_pairs

ALGEBRA = "R3"
NEIGHBOURS = 8  # whose messages sum to about the size of one, scaled by the root


class ForceField(nn.Module):
    r"""Energy and forces of clusters of atoms, from their elements and positions.

    .. math:: E = \sum_i \epsilon(h_i), \qquad F_i = -\frac{\partial E}{\partial x_i}

    The energy of an atom is a perceptron of the invariants of its state h. Energies are smooth, do not depend on where
    a cluster is and how it is turned, and those of clusters out of each other's reach add up.

    Parameters
    ----------
    elements : int
        How many there are.
    channels : int
        Multivectors in the state of an atom.
    layers : int
        `Layer`, one after the other.
    radial : int
        Functions of the distance.
    cutoff : float
        Beyond which atoms don't see each other, in Å.
    hidden : int
        Width of the perceptron.
    products : bool
        Whether atoms take Clifford products of what they have.
    """

    def __init__(
        self,
        elements: int,
        channels: int,
        layers: int,
        radial: int = 8,
        cutoff: float = 6.0,
        hidden: int = 32,
        products: bool = True,
    ):
        super().__init__()
        within("layers", layers, 1)
        within("hidden", hidden, 1)
        self.embedding = MVLinear(elements, channels, ALGEBRA)
        self.edges = Edges(radial, cutoff)
        self.layers = nn.ModuleList(Layer(channels, radial, products) for _ in range(layers))
        invariants = Invariants(channels, ALGEBRA)
        perceptron = nn.Linear(4 * channels, hidden), nn.SiLU(), nn.Linear(hidden, 1)
        self.readout = nn.Sequential(invariants, *perceptron)

    def energy(self, kinds: Tensor, positions: Tensor) -> Tensor:
        """From ``(clusters, atoms, elements)`` and ``(clusters, atoms, 3)`` to ``(clusters,)``."""
        receivers, senders = all_pairs(kinds.shape[1], kinds.device)
        edges = self.edges(positions[:, senders] - positions[:, receivers])
        nodes = self.embedding(F.embed(kinds[..., None, :], 0, ALGEBRA))
        for layer in self.layers:
            nodes = layer(nodes, edges, receivers, senders)
        return self.readout(nodes).sum((1, 2))

    def forward(self, kinds: Tensor, positions: Tensor) -> Tensor:
        """Energy and then forces, ``(clusters, 1 + 3 atoms)``; in training, forces can be differentiated again."""
        with torch.enable_grad():
            positions = positions.detach().requires_grad_()
            energy = self.energy(kinds, positions)
            (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=self.training)
        return torch.cat([energy[:, None], -gradient.flatten(1)], 1)


class Edges(nn.Module):
    r"""Pairs of atoms as multivectors: functions of the distance as scalars, the same times the direction as vectors.

    .. math:: b_n(r) = \frac{\sin(n \pi r / r_c)}{r} \left(1 - (r / r_c)^2\right)^3

    They and three of their derivatives are zero at the cutoff :math:`r_c`, and they are zero beyond.

    Parameters
    ----------
    radial : int
        Functions.
    cutoff : float
    """

    def __init__(self, radial: int, cutoff: float):
        super().__init__()
        if radial < 1 or not cutoff > 0:
            raise ValueError(f"radial, cutoff: got {radial} and {cutoff}, wanted both positive")
        self.radial, self.cutoff = radial, cutoff

    def forward(self, vectors: Tensor) -> Tensor:
        """From ``(..., 3)`` to ``(..., blades, radial)``."""
        distance = vectors.square().sum(-1, keepdim=True).sqrt()
        waves = torch.arange(1, self.radial + 1, device=vectors.device) * (math.pi / self.cutoff)
        envelope = (1 - (distance / self.cutoff).square()).clamp(min=0) ** 3
        basis = ((waves * distance).sin() * (envelope / distance))[..., None, :]
        directed = (vectors / distance)[..., None] * basis
        return F.embed(torch.cat([basis, directed], -2), (0, 1), ALGEBRA)


class Layer(nn.Module):
    r"""Atoms hear from their neighbours, and multiply what they have heard.

    .. math:: m_i = \sum_j \langle A h_i + B h_j \rangle_0 \, C e_{ij}, \qquad
        u_i = \operatorname{gelu}(D [h_i, m_i]), \qquad h_i \leftarrow h_i + G u_i + \operatorname{wgp}(u_i, H u_i)

    Messages are linear in the edge, so they go to zero at the cutoff as smoothly as it does. Products of sums over
    neighbours tell of angles, and cost atoms, not pairs of them. Their weights start at zero. Nothing is normalised:
    the norm of a vector has no derivative at zero.

    Parameters
    ----------
    channels, radial : int
    products : bool
        Without them :math:`\operatorname{wgp}` is left out.
    """

    def __init__(self, channels: int, radial: int, products: bool):
        super().__init__()
        self.receiver = MVLinear(channels, channels, ALGEBRA)
        self.sender = MVLinear(channels, channels, ALGEBRA)
        self.edge = MVLinear(radial, channels, ALGEBRA, bias=False)
        self.mix = nn.Sequential(MVLinear(2 * channels, channels, ALGEBRA), MVGELU(ALGEBRA))
        self.linear = MVLinear(channels, channels, ALGEBRA)
        self.factor = MVLinear(channels, channels, ALGEBRA) if products else None
        self.product = SGP(channels, ALGEBRA) if products else None
        if self.product is not None:
            nn.init.zeros_(self.product.weight)

    def forward(self, nodes: Tensor, edges: Tensor, receivers: Tensor, senders: Tensor) -> Tensor:
        """Shapes: nodes ``(clusters, atoms, blades, channels)``, edges ``(clusters, pairs, blades, radial)``."""
        scalars = self.receiver(nodes)[:, receivers, :1] + self.sender(nodes)[:, senders, :1]
        messages = scalars * self.edge(edges)
        # Pairs come sorted by receiver, so those of one atom are neighbours.
        received = messages.unflatten(1, (nodes.shape[1], -1)).sum(2) / math.sqrt(NEIGHBOURS)
        mixed = self.mix(torch.cat([nodes, received], -1))
        update = self.linear(mixed)
        if self.product is not None:
            assert self.factor is not None
            update = update + self.product(mixed, self.factor(mixed))
        return nodes + update
