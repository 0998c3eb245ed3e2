"""The edges of a graph, sorted once for all layers that pass messages along them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from cliffnn.checks import check_unmapped
from cliffnn.segments import Segments


class Edges:
    """Edges sorted by the nodes that they point to, and their attributes with them.

    Sums into nodes then read their edges one after the other: in a fixed order, without atomic additions, on every
    device. Several graphs are one whose parts are not connected, as PyTorch Geometric batches them.

    Parameters
    ----------
    edge_index : Tensor
        ``(2, edges)``, int64: from the nodes of row 0 to those of row 1, PyTorch Geometric's convention; in any order.
    nodes : int
        How many nodes there are; some may have no edges.
    edge_attr : Tensor, optional
        ``(edges, ...)``, in the order of ``edge_index``.

    Attributes
    ----------
    edge_attr : Tensor or None
        In the order of these edges.

    Raises
    ------
    ValueError, TypeError
        If ``edge_index`` has another shape or dtype, or (on a CPU) names a node that there is not; if ``edge_attr`` has
        another number of rows.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.edges import Edges
    >>> edges = Edges(torch.tensor([[0, 1, 2], [1, 0, 1]]), 4)  # 0 -> 1, 1 -> 0, 2 -> 1; node 3 is alone
    >>> edges.aggregate(edges.from_source(torch.tensor([[1.0], [10.0], [100.0], [1000.0]])), "sum")
    tensor([[ 10.],
            [101.],
            [  0.],
            [  0.]])
    """

    def __init__(self, edge_index: Tensor, nodes: int, edge_attr: Tensor | None = None):
        _check(edge_index, nodes)
        target, self.order = torch.sort(edge_index[1], stable=True)
        self.count = edge_index.shape[1]
        self.nodes = nodes
        self.targets = Segments(target, nodes, ascending=True)
        self.sources = Segments(edge_index[0].index_select(0, self.order), nodes)
        self.edge_attr = None if edge_attr is None else self._sorted(edge_attr)

    def with_attr(self, edge_attr: Tensor) -> Edges:
        """The same edges with other attributes, given as to the constructor: only these are sorted."""
        edges = copy.copy(self)
        edges.edge_attr = self._sorted(edge_attr)
        return edges

    def _sorted(self, edge_attr: Tensor) -> Tensor:
        if not isinstance(edge_attr, Tensor):
            raise TypeError(f"edge_attr: got {type(edge_attr).__name__}, wanted a torch.Tensor")
        rows = edge_attr.shape[0] if edge_attr.ndim else 0
        if edge_attr.ndim == 0 or rows != self.count:
            raise ValueError(f"edge_attr: got {rows} rows, wanted {self.count}, one for each edge")
        return edge_attr.index_select(0, self.order)

    def from_source(self, x: Tensor) -> Tensor:
        """``(nodes, ...)`` to ``(edges, ...)``: what the node has that an edge comes from."""
        return self.sources.spread(x)

    def from_target(self, x: Tensor) -> Tensor:
        """``(nodes, ...)`` to ``(edges, ...)``: what the node has that an edge points to."""
        return self.targets.spread(x)

    def aggregate(self, x: Tensor, reduce: str) -> Tensor:
        """``(edges, ...)`` to ``(nodes, ...)``: ``"sum"`` or ``"mean"``; zero where no edge points to."""
        return self.targets.sum(x) if reduce == "sum" else self.targets.mean(x)


def sorted_edges(edge_index: Tensor | Edges, nodes: int, edge_attr: Tensor | None = None, name: str = "x") -> Edges:
    """What a layer or a model is given, sorted unless it is; nodes are counted by the argument of that name."""
    if not isinstance(edge_index, Edges):
        return Edges(edge_index, nodes, edge_attr)
    if edge_index.nodes != nodes:
        raise ValueError(f"{name}: got {nodes} nodes, wanted {edge_index.nodes}, as the edges have")
    if edge_attr is None:
        return edge_index
    if edge_index.edge_attr is not None:
        raise ValueError("edge_attr: got a tensor, wanted None, since the edges have attributes; or Edges.with_attr")
    return edge_index.with_attr(edge_attr)


def _check(edge_index: Tensor, nodes: int) -> None:
    if not isinstance(edge_index, Tensor) or edge_index.dtype != torch.int64:
        got = edge_index.dtype if isinstance(edge_index, Tensor) else type(edge_index).__name__
        raise TypeError(f"edge_index: got {got}, wanted a torch.Tensor of torch.int64")
    check_unmapped("edge_index", edge_index)
    if edge_index.ndim != 2 or edge_index.shape[0] != 2:
        raise ValueError(f"edge_index: got shape {tuple(edge_index.shape)}, wanted (2, edges)")
    # a GPU would have to be waited for; there torch itself stops at such an index
    if edge_index.device.type == "cpu" and not torch.compiler.is_compiling() and edge_index.numel():
        least, most = edge_index.aminmax()
        if least < 0 or most >= nodes:
            raise ValueError(f"edge_index: got nodes {int(least)} to {int(most)}, wanted 0 to {nodes - 1}")
