"""The edges of a graph, sorted once for all layers that pass messages along them."""

from __future__ import annotations

import torch
from torch import Tensor

from cliffnn.checks import check_unmapped
from cliffnn.segments import Segments


class Edges:
    """Edges sorted by the nodes that they point to.

    Sums into nodes then read their edges one after the other: in a fixed order, without atomic additions, on every
    device. Several graphs are one whose parts are not connected, as PyTorch Geometric batches them.

    Parameters
    ----------
    edge_index : Tensor
        ``(2, edges)``, int64: from the nodes of row 0 to those of row 1, PyTorch Geometric's convention; in any order.
    nodes : int
        How many nodes there are; some may have no edges.

    Raises
    ------
    ValueError, TypeError
        If ``edge_index`` has another shape or dtype, or (on a CPU) names a node that there is not.

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

    def __init__(self, edge_index: Tensor, nodes: int):
        _check(edge_index, nodes)
        target, self.order = torch.sort(edge_index[1], stable=True)
        self.count = edge_index.shape[1]
        self.nodes = nodes
        self.targets = Segments(target, nodes, ascending=True)
        self.sources = Segments(edge_index[0].index_select(0, self.order), nodes)

    def sorted(self, attributes: Tensor) -> Tensor:
        """Bring attributes ``(edges, ...)``, given in the order of ``edge_index``, into the order of these edges."""
        if attributes.shape[0] != self.count:
            raise ValueError(f"edge_attr: got {attributes.shape[0]} rows, wanted {self.count}, one for each edge")
        return attributes.index_select(0, self.order)

    def from_source(self, x: Tensor) -> Tensor:
        """``(nodes, ...)`` to ``(edges, ...)``: what the node has that an edge comes from."""
        return self.sources.spread(x)

    def from_target(self, x: Tensor) -> Tensor:
        """``(nodes, ...)`` to ``(edges, ...)``: what the node has that an edge points to."""
        return self.targets.spread(x)

    def aggregate(self, x: Tensor, reduce: str) -> Tensor:
        """``(edges, ...)`` to ``(nodes, ...)``: ``"sum"`` or ``"mean"``; zero where no edge points to."""
        return self.targets.sum(x) if reduce == "sum" else self.targets.mean(x)


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
