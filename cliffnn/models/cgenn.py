"""The graph network of the paper's n-body experiment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cliffnn.algebra import AlgebraLike
from cliffnn.edges import Edges, sorted_edges
from cliffnn.layers import CliffordMessagePassing, MVLinear
from cliffnn.models.cemlp import CEMLP, check_layers, product_block


class CGENN(nn.Module):
    """Clifford group equivariant graph network: embedding, rounds of message passing, projection.

    Its defaults are those of the charged n-body experiment: charge, position and velocity of each particle, the
    product of charges for each pair; 134,625 parameters, as many as the paper's code has.

    Parameters
    ----------
    in_channels, hidden_channels, out_channels : int
        Of the nodes.
    edge_channels : int
        Of ``edge_attr``, 0 if there is none.
    layers : int
        Rounds of message passing.
    algebra : str, int, tuple or Algebra
    normalization : float or None
        See `SteerableGP`.
    residual : bool
        Whether each round adds to what the nodes have.
    device, dtype
        Of the parameters.

    Raises
    ------
    ValueError, TypeError
        For channels or layers that are no positive int, an unknown algebra, inputs of other shapes.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, section 5.3.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.models import CGENN
    >>> model = CGENN()
    >>> edge_index = torch.tensor([[0, 1, 2], [1, 0, 1]])  # 0 -> 1, 1 -> 0, 2 -> 1
    >>> model(torch.randn(5, 8, 3), edge_index, torch.randn(3, 8, 1)).shape
    torch.Size([5, 8, 1])
    """

    def __init__(
        self,
        in_channels: int = 3,
        hidden_channels: int = 28,
        out_channels: int = 1,
        edge_channels: int = 1,
        layers: int = 3,
        algebra: AlgebraLike = "R3",
        normalization: float | None = 0.0,
        residual: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_layers(layers)
        options = {"device": device, "dtype": dtype}

        def round() -> CliffordMessagePassing:
            # the message's perceptron has its first linear map in the message passing
            message = CEMLP(hidden_channels, hidden_channels, hidden_channels, algebra, 1, normalization, **options)
            update = CEMLP(2 * hidden_channels, hidden_channels, hidden_channels, algebra, 2, normalization, **options)
            return CliffordMessagePassing(
                hidden_channels,
                hidden_channels,
                algebra,
                nn.Sequential(*product_block(hidden_channels, algebra, normalization, **options), *message),
                update,
                edge_channels,
                residual=residual,
                **options,
            )

        self.embedding = MVLinear(in_channels, hidden_channels, algebra, per_grade=False, **options)
        self.layers = nn.ModuleList(round() for _ in range(layers))
        self.projection = MVLinear(hidden_channels, out_channels, algebra, **options)

    def forward(self, x: Tensor, edge_index: Tensor | Edges, edge_attr: Tensor | None = None) -> Tensor:
        """From multivectors of nodes to multivectors of nodes.

        Parameters
        ----------
        x : Tensor
            ``(nodes, blades, in_channels)``.
        edge_index : Tensor or Edges
            ``(2, edges)``, from row 0 to row 1; or its `Edges`.
        edge_attr : Tensor, optional
            ``(edges, blades, edge_channels)``, in the order of ``edge_index``, that of the tensor also where `Edges`
            are given. Those that `Edges` were made with need not be given.

        Returns
        -------
        Tensor
            ``(nodes, blades, out_channels)``.
        """
        edges = sorted_edges(edge_index, x.shape[0], edge_attr)
        x = self.embedding(x)
        for layer in self.layers:
            x = layer(x, edges)
        return self.projection(x)
