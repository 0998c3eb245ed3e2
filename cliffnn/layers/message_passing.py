"""Message passing between multivectors on the nodes of a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import cliffnn.functional as F
from cliffnn.algebra import AlgebraLike, GradesLike
from cliffnn.checks import held_grades
from cliffnn.edges import Edges, sorted_edges
from cliffnn.layers.base import MVLayer, check_input, checked_channels, grades_repr
from cliffnn.layers.linear import MVLinear
from cliffnn.ops import transformed


class CliffordMessagePassing(MVLayer):
    r"""Every node hears from its neighbours, and changes what it has accordingly.

    .. math:: m_{ij} = \operatorname{message}\left(A (x_i - x_j) + C e_{ij} + b\right), \qquad
        x_i \leftarrow x_i + \operatorname{update}\left(\left[x_i, \operatorname{mean}_{j \to i} m_{ij},
        v_i\right]\right)

    Without ``difference`` the message is that of :math:`A x_i + B x_j + C e_{ij} + b`. The maps A and B work on nodes,
    before their results are gathered for edges: there are fewer nodes, and edges get no tensor of concatenated inputs.
    Besides ``message``, tensors of all edges are written three times forward (two gathers, and their sum in place) and
    once backward (a gather); with ``edge_attr`` five times and twice.

    Parameters
    ----------
    in_channels : int or None
        Of the nodes. None: taken from the first input.
    hidden_channels : int
        That ``message`` takes.
    algebra : str, int, tuple or Algebra
    message : Module or None
        From ``(edges, blades, hidden_channels)`` to ``(edges, blades, message_channels)``; None: the identity.
    update : Module or None
        From ``(nodes, blades, in_channels + message_channels + node_channels)`` to what a node gets; None: the layer
        gives the aggregated messages as they are.
    edge_channels : int
        Of ``edge_attr``, 0 if there is none.
    aggregate : "mean" or "sum"
        Over the edges that point to a node; a node without any gets zero.
    difference : bool
        Whether messages depend on :math:`x_i - x_j`, or on both.
    residual : bool
        Whether the update is added to what the node has.
    device, dtype
        Of the parameters.
    grades : int, tuple of int or None
        That nodes, edges and what ``message`` gets hold; None: all.

    Attributes
    ----------
    receiver : MVLinear
        A.
    sender : MVLinear or None
        B; with ``difference`` it is -A.
    edge : MVLinear or None
        C; all three are initially as large as one map of all inputs, concatenated, would be.
    bias : Parameter or None
        ``(hidden_channels,)``, of the scalars; initially zero; None without scalars.

    Raises
    ------
    ValueError, TypeError
        For channels that are no positive int, an unknown algebra or aggregation, inputs of other shapes.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, section 5.3; Satorras,
    Hoogeboom, Welling: E(n) Equivariant Graph Neural Networks, arXiv:2102.09844.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import CliffordMessagePassing, MVLinear, SGPNormBlock
    >>> layer = CliffordMessagePassing(4, 16, "R3", message=SGPNormBlock(16, "R3"), update=MVLinear(20, 4, "R3"))
    >>> x = torch.randn(5, 8, 4)
    >>> edge_index = torch.tensor([[0, 1, 2], [1, 0, 1]])  # 0 -> 1, 1 -> 0, 2 -> 1
    >>> layer(x, edge_index).shape
    torch.Size([5, 8, 4])
    """

    def __init__(
        self,
        in_channels: int | None,
        hidden_channels: int,
        algebra: AlgebraLike | None = None,
        message: nn.Module | None = None,
        update: nn.Module | None = None,
        edge_channels: int = 0,
        aggregate: str = "mean",
        difference: bool = True,
        residual: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        grades: GradesLike = None,
    ):
        super().__init__(algebra)
        self.grades = held_grades(self.algebra, grades)
        if checked_channels("hidden_channels", hidden_channels) is None:
            raise TypeError("hidden_channels: got None, wanted a positive int")
        if aggregate not in ("mean", "sum"):
            raise ValueError(f"aggregate: got {aggregate!r}, wanted 'mean' or 'sum'")
        self.edge_channels = (edge_channels and checked_channels("edge_channels", edge_channels)) or 0
        self.aggregate = aggregate
        self.difference = difference
        self.residual = residual
        known = checked_channels("in_channels", in_channels)
        fan_in = None if known is None else self._fan_in(known)
        options = {"bias": False, "device": device, "dtype": dtype, "grades": grades, "fan_in": fan_in}
        self.receiver = MVLinear(in_channels, hidden_channels, algebra, **options)
        self.sender = None if difference else MVLinear(in_channels, hidden_channels, algebra, **options)
        # these are as lazy, so that either all parameters wait for the first input or none
        outputs, of_edges = (None, None) if known is None else (hidden_channels, self.edge_channels)
        self.edge = MVLinear(of_edges, hidden_channels, algebra, **options) if edge_channels else None
        scalars = self.grades is None or 0 in self.grades
        self.bias = self.parameter((outputs,), device, dtype) if scalars else None
        self.message = message
        self.update = update
        self.finish_init()

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        assert self.receiver.out_channels is not None
        return {"bias": (self.receiver.out_channels,)}

    def reset_parameters(self) -> None:
        """Draw the linear maps anew; ``message`` and ``update`` are left as they are."""
        if self.bias is not None and not is_lazy(self.bias):
            nn.init.zeros_(self.bias)
        for linear in self._maps():
            linear.reset_parameters()

    def has_uninitialized_params(self) -> bool:
        # the maps wait for this layer, which without a bias has no parameter of its own
        return super().has_uninitialized_params() or any(m.has_uninitialized_params() for m in self._maps())

    def initialize_parameters(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        super().initialize_parameters(x)
        if self.edge is not None:
            self.edge.in_channels = self.edge_channels
        for linear in self._maps():
            linear.fan_in = self._fan_in(x.shape[-1])
            linear.initialize_parameters(x)

    def _maps(self) -> list[MVLinear]:
        return [linear for linear in (self.receiver, self.sender, self.edge) if linear is not None]

    def _fan_in(self, in_channels: int) -> int:
        """That of the one map which has all inputs, concatenated."""
        return (1 if self.difference else 2) * in_channels + self.edge_channels

    def forward(
        self, x: Tensor, edge_index: Tensor | Edges, edge_attr: Tensor | None = None, node_attr: Tensor | None = None
    ) -> Tensor:
        """Pass messages once.

        Parameters
        ----------
        x : Tensor
            ``(nodes, blades, in_channels)``.
        edge_index : Tensor or Edges
            ``(2, edges)``, from row 0 to row 1; or its `Edges`, which several layers share, sorted once.
        edge_attr : Tensor, optional
            ``(edges, blades, edge_channels)``, in the order of ``edge_index``, that of the tensor also where `Edges`
            are given. Those that `Edges` were made with need not be given, and are sorted once.
        node_attr : Tensor, optional
            ``(nodes, blades, node_channels)``, shown to ``update``.

        Returns
        -------
        Tensor
            ``(nodes, blades, channels)``.
        """
        check_input(self, "x", x, self.receiver.in_channels, self.receiver.weight)
        if x.ndim != 3:
            raise ValueError(f"x: got shape {tuple(x.shape)}, wanted (nodes, blades, channels)")
        edges = sorted_edges(edge_index, x.shape[0], edge_attr)
        self._check_attributes(edges.edge_attr)

        heard = self.receiver(x)
        # negative here, where there are fewer rows: the gradient of a difference would be negated edge by edge
        said = -heard if self.sender is None else self.sender(x)
        bias = self.bias
        if bias is not None and self.edge is None:
            heard = heard + F.embed(bias[None, None].to(heard.dtype), 0, self.algebra, self.grades)
        # in place, since what is gathered is nobody else's, and as large as all edges; vmap may have it once for all
        # samples, whose sums differ
        add = torch.add if transformed() else Tensor.add_
        hidden = add(edges.from_target(heard), edges.from_source(said))
        if self.edge is not None:
            # there the bias costs nothing
            hidden = add(hidden, self.edge(edges.edge_attr, bias=bias))
        messages = hidden if self.message is None else self.message(hidden)
        received = edges.aggregate(messages, self.aggregate)
        if self.update is None:
            return received
        inputs = [x, received] if node_attr is None else [x, received, node_attr]
        out = self.update(torch.cat(inputs, -1))
        return x + out if self.residual else out

    def _check_attributes(self, edge_attr: Tensor | None) -> None:
        if (edge_attr is None) != (self.edge is None):
            got = "None" if edge_attr is None else f"shape {tuple(edge_attr.shape)}"
            raise ValueError(f"edge_attr: got {got}, wanted {self.edge_channels} channels as edge_channels says")
        if edge_attr is None or self.edge is None:
            return
        check_input(self.edge, "edge_attr", edge_attr, self.edge_channels, self.edge.weight)
        if edge_attr.ndim != 3:
            raise ValueError(f"edge_attr: got shape {tuple(edge_attr.shape)}, wanted (edges, blades, channels)")

    def extra_repr(self) -> str:
        grades = grades_repr(grades=self.grades)
        return f"algebra={self.algebra.name!r}, aggregate={self.aggregate!r}, residual={self.residual}{grades}"
