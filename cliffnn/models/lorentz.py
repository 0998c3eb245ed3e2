"""The paper's network for jets of particles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import cliffnn.functional as F
from cliffnn.algebra import Algebra
from cliffnn.checks import check_batch, check_graphs
from cliffnn.edges import Edges, sorted_edges
from cliffnn.grades import by_blade
from cliffnn.layers import FullyConnectedSteerableGP, MVLayerNorm, MVLinear
from cliffnn.models.cemlp import check_layers
from cliffnn.segments import Segments

ALGEBRA = Algebra("R1,3")
GRADES = len(ALGEBRA.grades)


class LorentzInteraction(nn.Module):
    r"""A round of messages of multivectors x and invariant features h, which weigh each other.

    .. math::
        m_{ij} = \phi_x(x_i, x_j, x_i - x_j, p_i - p_j, p_i, p_j), \quad
        n_{ij} = \phi_h(\iota(m_{ij}), h_i, h_j, h_i - h_j) \\
        h_i \leftarrow \theta_h(h_i, \operatorname{mean}_{j \to i} n_{ij}, \iota(x_i), s_i), \quad
        x_i \leftarrow \sigma(\chi_x(h_i)) \, \theta_x(x_i, \operatorname{mean}_{j \to i} \sigma(\psi_x(n_{ij}))
        m_{ij}, p_i)

    with momenta p, scalars s, and the invariants :math:`\iota` of all grades; factors are one for each grade.

    Parameters
    ----------
    channels : int
        Multivectors of a node.
    features : int
        Invariant features of a node.
    scalars : int
        That each node comes with.
    device, dtype
        Of the parameters.
    """

    def __init__(self, channels: int, features: int, scalars: int, **options: Any):
        super().__init__()
        invariants = channels * GRADES

        def product(inputs: int) -> nn.Sequential:
            return nn.Sequential(
                FullyConnectedSteerableGP(inputs, channels, ALGEBRA, normalization=None, **options),
                MVLayerNorm(channels, ALGEBRA, **options),
            )

        def weights() -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(features, features, **options), nn.ReLU(), nn.Linear(features, invariants, **options)
            )

        self.phi_x = product(3 * channels + 3)
        self.theta_x = product(2 * channels + 1)
        self.phi_h = nn.Sequential(
            nn.Linear(3 * features + invariants, features, bias=False, **options),
            nn.BatchNorm1d(features, **options),
            nn.ReLU(),
            nn.Linear(features, features, **options),
            nn.ReLU(),
        )
        self.theta_h = nn.Sequential(
            nn.Linear(2 * features + invariants + scalars, features, **options),
            nn.BatchNorm1d(features, **options),
            nn.ReLU(),
            nn.Linear(features, features, **options),
        )
        self.psi_x = weights()
        self.chi_x = weights()

    def forward(
        self, x: Tensor, h: Tensor, edges: Edges, relative: Tensor, momenta: Tensor, scalars: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Shapes: x ``(nodes, 16, channels)``, h ``(nodes, features)``, relative ``(edges, 16, 3)``."""
        x_i, x_j = edges.from_target(x), edges.from_source(x)
        h_i, h_j = edges.from_target(h), edges.from_source(h)
        message = self.phi_x(torch.cat([x_i, x_j, x_i - x_j, relative], -1))
        note = self.phi_h(torch.cat([invariants(message), h_i, h_j, h_i - h_j], -1))
        message = weigh(message, self.psi_x(note))
        update = self.theta_x(torch.cat([x, edges.aggregate(message, "mean"), momenta], -1))
        h = self.theta_h(torch.cat([h, edges.aggregate(note, "mean"), invariants(x), scalars], -1))
        return weigh(update, self.chi_x(h)), h


class LorentzCGENN(nn.Module):
    """Classes of jets from their particles: O(1,3)-invariant; 320,594 parameters, as many as the paper's code has.

    That code pads jets to one length and divides the sum over a jet's particles by it; here it is their mean. Without
    padding both are the same.

    Parameters
    ----------
    scalars : int
        Of each particle, as its mass.
    features, channels : int
        Invariant features and multivectors of each particle.
    decoder_features : int
    classes : int
    layers : int
        Rounds of messages.
    dropout : float
        In the decoder.
    device, dtype
        Of the parameters.

    Raises
    ------
    ValueError, TypeError
        For channels or layers that are no positive int, inputs of other shapes, a ``batch`` of another dtype or device,
        or (on a CPU) with a jet outside ``graphs``.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, section 5.4.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.models import LorentzCGENN
    >>> edge_index = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])  # two jets of two particles
    >>> model = LorentzCGENN()
    >>> model(torch.randn(4, 4), torch.randn(4, 2), edge_index, torch.tensor([0, 0, 1, 1]), 2).shape
    torch.Size([2, 2])
    """

    algebra = ALGEBRA

    def __init__(
        self,
        scalars: int = 2,
        features: int = 72,
        channels: int = 8,
        decoder_features: int = 64,
        classes: int = 2,
        layers: int = 4,
        dropout: float = 0.2,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_layers(layers)
        options = {"device": device, "dtype": dtype}
        self.embedding_h = nn.Linear(scalars, features, **options)
        self.embedding_x = MVLinear(1, channels, ALGEBRA, per_grade=False, **options)
        self.layers = nn.ModuleList(LorentzInteraction(channels, features, scalars, **options) for _ in range(layers))
        self.decoder = nn.Sequential(
            nn.Linear(features + channels * GRADES, decoder_features, **options),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(decoder_features, classes, **options),
        )

    def forward(
        self, momenta: Tensor, scalars: Tensor, edge_index: Tensor | Edges, batch: Tensor, graphs: int
    ) -> Tensor:
        """Logits of the classes of each jet.

        Parameters
        ----------
        momenta : Tensor
            ``(particles, 4)``, the energy first.
        scalars : Tensor
            ``(particles, scalars)``.
        edge_index : Tensor or Edges
            ``(2, edges)``, from row 0 to row 1.
        batch : Tensor
            ``(particles,)``, int64: the jet of each particle.
        graphs : int
            How many jets there are.

        Returns
        -------
        Tensor
            ``(graphs, classes)``.
        """
        check_batch(batch, "momenta", momenta, "particles, 4")
        check_graphs(batch, "graphs", graphs)
        edges = sorted_edges(edge_index, momenta.shape[0], name="momenta")
        p_i, p_j = edges.from_target(momenta), edges.from_source(momenta)
        relative = F.embed(torch.stack([p_i - p_j, p_i, p_j], -1), 1, ALGEBRA)
        vectors = F.embed(momenta[..., None], 1, ALGEBRA)
        scalars = scalars.sign() * scalars.abs().log1p()

        x, h = self.embedding_x(vectors), self.embedding_h(scalars)
        for layer in self.layers:
            x, h = layer(x, h, edges, relative, vectors, scalars)
        return self.decoder(Segments(batch, graphs).mean(torch.cat([h, invariants(x)], -1)))


def invariants(x: Tensor) -> Tensor:
    """Scalar, and quadratic forms of the other grades, channel by channel: ``(nodes, channels * grades)``."""
    return F.invariants(x, ALGEBRA).unflatten(-1, (GRADES, -1)).mT.flatten(1)


def weigh(x: Tensor, weights: Tensor) -> Tensor:
    """Gate each grade by the logistic function of a number ``(nodes, channels * grades)``."""
    return x * by_blade(torch.sigmoid(weights.unflatten(-1, (-1, GRADES)).mT), ALGEBRA)
