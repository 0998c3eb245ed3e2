"""Networks that several experiments use, made of the library's layers, and the plain one beside them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.layers import MVLinear, SGPNormBlock
from examples.common.checks import within


def two_blocks(channels: int, algebra: str) -> nn.Sequential:
    """The multivectors' perceptron.

    The norm of the first block is how the network divides, and so comes to forces that fall off with distance. The
    second block has none: what it says may be weak or strong.
    """
    return nn.Sequential(SGPNormBlock(channels, algebra), SGPNormBlock(channels, algebra, normalize=False))


class Interaction(nn.Module):
    r"""Every particle hears from all the others, and changes its state accordingly.

    .. math:: m_{ij} = \phi(A h_i + B h_j + C e_{ij}), \qquad
        h_i \leftarrow h_i + \psi(D [h_i, \operatorname{mean}_{j \neq i} m_{ij}])

    Parameters
    ----------
    channels : int
        Multivectors in the state of a particle.
    algebra : str
    """

    def __init__(self, channels: int, algebra: str):
        super().__init__()
        self.receiver = MVLinear(channels, channels, algebra)
        self.sender = MVLinear(channels, channels, algebra)
        self.pair = MVLinear(1, channels, algebra)
        self.message = two_blocks(channels, algebra)
        self.update = nn.Sequential(MVLinear(2 * channels, channels, algebra), two_blocks(channels, algebra))

    def forward(self, nodes: Tensor, pairs: Tensor, receivers: Tensor, senders: Tensor) -> Tensor:
        """Shapes: nodes ``(systems, particles, blades, channels)``, pairs ``(systems, pairs, blades, 1)``."""
        hidden = self.receiver(nodes)[:, receivers] + self.sender(nodes)[:, senders] + self.pair(pairs)
        # Pairs come sorted by receiver, so those of one particle are neighbours.
        received = self.message(hidden).unflatten(1, (nodes.shape[1], -1)).mean(2)
        return nodes + self.update(torch.cat([nodes, received], -1))


def all_pairs(particles: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Receivers and senders of all ordered pairs, sorted by receiver."""
    particle = torch.arange(particles, device=device)
    # what `nonzero` finds has no size that a compiler knows
    receivers, others = particle.repeat_interleave(particles - 1), particle[1:].repeat(particles) - 1
    return receivers, others + (others >= receivers)


def complete_graphs(systems: int, particles: int, device: torch.device) -> Tensor:
    """Edges from sender to receiver, ``(2, edges)``, of all pairs in each system, one system after the other."""
    receivers, senders = all_pairs(particles, device)
    first = torch.arange(systems, device=device)[:, None] * particles
    return torch.stack([(first + senders).flatten(), (first + receivers).flatten()])


class ParticleNetwork(nn.Module):
    """Predict where particles will be, from what they carry, their positions and velocities.

    Parameters
    ----------
    algebra : str
    charge_grade : int
        What a charge is: 0 for a scalar, the dimension for a pseudoscalar, which changes sign in a mirror.
    channels : int
        Multivectors in the state of a particle.
    layers : int
        Interactions, one after the other.
    """

    def __init__(self, algebra: str, charge_grade: int, channels: int, layers: int):
        super().__init__()
        within("layers", layers, 1)
        self.algebra = Algebra(algebra)
        self.charge_grade = charge_grade
        self.embedding = MVLinear(3, channels, algebra)
        self.interactions = nn.ModuleList(Interaction(channels, algebra) for _ in range(layers))
        self.readout = MVLinear(channels, 1, algebra)

    def forward(self, charges: Tensor, positions: Tensor, velocities: Tensor) -> Tensor:
        """Shapes: charges ``(systems, particles)``, all others ``(systems, particles, dimensions)``."""
        receivers, senders = all_pairs(charges.shape[1], charges.device)
        # Positions, seen from their mean, and velocities are vectors; a product of two charges is a scalar.
        centred = positions - positions.mean(1, keepdim=True)
        carried = F.embed(charges[..., None, None], self.charge_grade, self.algebra)
        vectors = F.embed(torch.stack([centred, velocities], -1), 1, self.algebra)
        products = charges[:, receivers] * charges[:, senders]
        pairs = F.embed(products[..., None, None], 0, self.algebra)

        nodes = self.embedding(torch.cat([carried, vectors], -1))
        for interaction in self.interactions:
            nodes = interaction(nodes, pairs, receivers, senders)
        return positions + F.extract(self.readout(nodes), 1, self.algebra).squeeze(-1)


class VectorsToScalar(nn.Module):
    r"""A scalar or a pseudoscalar of some vectors.

    Blocks of geometric products; then, for a pseudoscalar, what they leave in the last grade, and for a scalar, an
    ordinary perceptron on the invariants of what goes into the blocks (which still tells how large it is) and of what
    comes out.

    Parameters
    ----------
    algebra : str
    vectors : int
        How many come in.
    channels : int
        Multivectors in the hidden layers.
    layers : int
        Blocks.
    normalize : bool
        Whether the blocks normalise.
    hidden : int or None
        Width of the ordinary perceptron; None: the answer is the pseudoscalar.
    """

    def __init__(
        self,
        algebra: str,
        vectors: int,
        channels: int,
        layers: int,
        normalize: bool = True,
        hidden: int | None = None,
    ):
        super().__init__()
        within("layers", layers, 1)
        self.algebra = Algebra(algebra)
        self.embedding = MVLinear(vectors, channels, algebra)
        self.blocks = nn.Sequential(*(SGPNormBlock(channels, algebra, normalize) for _ in range(layers)))
        self.readout: nn.Module = MVLinear(channels, 1, algebra)
        self.pseudoscalar = hidden is None
        if hidden is not None:
            self.readout = MLP(2 * channels * (1 + len(self.algebra.grades)), hidden, 2)

    def forward(self, vectors: Tensor) -> Tensor:
        """From ``(samples, vectors, dimensions)`` to ``(samples,)``."""
        x = self.embedding(F.embed(vectors.mT, 1, self.algebra))
        y = self.blocks(x)
        if self.pseudoscalar:
            return F.extract(self.readout(y), self.algebra.dim, self.algebra)[:, 0, 0]
        return self.readout(torch.cat([invariants(x, self.algebra), invariants(y, self.algebra)], -1))


def invariants(x: Tensor, algebra: Algebra) -> Tensor:
    """The scalar part and the quadratic form of each grade, of each channel: ``(..., (1 + grades) channels)``.

    The forms are compressed as by :func:`asinh`, which is linear at zero and a logarithm far out.
    """
    metric = x.new_tensor(algebra.quadratic_form)[:, None]
    squares = [(metric[part] * x[..., part, :].square()).sum(-2) for part in algebra.grade_slices]
    return torch.cat([x[..., 0, :], *(square.asinh() for square in squares)], -1)


class MLP(nn.Module):
    """The perceptron that knows no geometry.

    Parameters
    ----------
    inputs : int
        Numbers that come in.
    hidden : int
        Width.
    layers : int
        Hidden layers.
    """

    def __init__(self, inputs: int, hidden: int, layers: int, outputs: int = 1):
        super().__init__()
        for name, value in {"inputs": inputs, "hidden": hidden, "layers": layers, "outputs": outputs}.items():
            within(name, value, 1)
        widths = [inputs] + [hidden] * layers
        body = [module for a, b in pairwise(widths) for module in (nn.Linear(a, b), nn.SiLU())]
        self.body = nn.Sequential(*body, nn.Linear(hidden, outputs))

    def forward(self, vectors: Tensor) -> Tensor:
        """From ``(samples, vectors, dimensions)`` to ``(samples,)``."""
        return self.body(vectors.flatten(1)).squeeze(-1)


class ParticleMLP(MLP):
    """The perceptron, for what `ParticleNetwork` predicts.

    Parameters
    ----------
    particles, dimensions : int
        Of the systems.
    hidden, layers : int
        As of `MLP`.
    """

    def __init__(self, particles: int, dimensions: int, hidden: int, layers: int):
        super().__init__(particles * (1 + 2 * dimensions), hidden, layers, particles * dimensions)

    def forward(self, charges: Tensor, positions: Tensor, velocities: Tensor) -> Tensor:  # type: ignore[override]
        """Shapes: charges ``(systems, particles)``, all others ``(systems, particles, dimensions)``."""
        centred = positions - positions.mean(1, keepdim=True)
        together = torch.cat([charges, centred.flatten(1), velocities.flatten(1)], -1)
        return positions + self.body(together).view_as(positions)
