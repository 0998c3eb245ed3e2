"""CGENN's own layers and models beside ours: same weights, same inputs, same outputs and gradients, in float64.

    python -m benchmarks.cgenn CHECKOUT [--output FILE]

CHECKOUT is one of github.com/DavidRuhe/clifford-group-equivariant-neural-networks. Its parameters are randomised and
brought over by `cliffnn.interop.from_cgenn`; so are the gradients of its parameters, to compare them with ours.
Reported are the largest relative errors of results and of gradients with respect to inputs and parameters; fails above
1e-10.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.environment import RESULTS, write
from cliffnn import Algebra, layers, models
from cliffnn.edges import Edges
from cliffnn.interop import from_cgenn
from cliffnn.testing import randomize_parameters

TOLERANCE = 1e-10
METRICS = {"R3": (1, 1, 1), "R1,3": (1, -1, -1, -1), "R5": (1, 1, 1, 1, 1)}
BATCH, CHANNELS = 6, 4


class Peer:
    """Modules of a checkout of CGENN."""

    def __init__(self, path: Path):
        if not (path / "algebra" / "cliffordalgebra.py").is_file():
            raise SystemExit(f"{path} holds no algebra/cliffordalgebra.py, wanted a checkout of CGENN")
        sys.path.insert(0, str(path.resolve()))
        # its models count with metrics that need packages which nothing of this needs
        metrics = types.ModuleType("engineer.metrics.metrics")
        for name in ("Accuracy", "LorentzMetric", "Loss", "MetricCollection"):
            setattr(metrics, name, lambda *arguments: None)
        sys.modules[metrics.__name__] = metrics
        self.fcgp, self.gp, self.linear, self.mvlayernorm, self.mvsilu, self.normalization = (
            importlib.import_module(f"models.modules.{name}")
            for name in ("fcgp", "gp", "linear", "mvlayernorm", "mvsilu", "normalization")
        )
        self.nbody, self.hulls, self.o3, self.o5, self.lorentz = (
            importlib.import_module(f"models.{name}")
            for name in ("nbody_cggnn", "hulls_cgmlp", "o3_cgmlp", "o5_cgmlp", "lorentz_cggnn")
        )
        self.algebra = importlib.import_module("algebra.cliffordalgebra").CliffordAlgebra


# A module of theirs and one of ours, inputs, and how each is called with them.
Case = tuple[str, nn.Module, nn.Module, list[Tensor], Callable[..., Tensor], Callable[..., Tensor]]


def layer_cases(peer: Peer, name: str) -> Iterator[Case]:
    """Every layer, on multivectors in our layout."""
    algebra = Algebra(name)
    clifford = peer.algebra([float(s) for s in METRICS[name]])
    n = CHANNELS

    def case(label: str, theirs: nn.Module, ours: nn.Module) -> Case:
        x = torch.randn(BATCH, len(algebra), n)
        return f"{name} {label}", theirs, ours, [x], lambda x: theirs(x.mT).mT, ours

    yield case("MVLinear", peer.linear.MVLinear(clifford, n, 3), layers.MVLinear(n, 3, name))
    shared = peer.linear.MVLinear(clifford, n, 3, subspaces=False)
    yield case("MVLinear, one matrix", shared, layers.MVLinear(n, 3, name, per_grade=False))
    yield case("MVSiLU", peer.mvsilu.MVSiLU(clifford, n), layers.MVSiLU(n, name))
    yield case("MVLayerNorm", peer.mvlayernorm.MVLayerNorm(clifford, n), layers.MVLayerNorm(n, name))
    normalization = peer.normalization.NormalizationLayer(clifford, n)
    yield case("NormalizationLayer", normalization, layers.NormalizationLayer(n, name))
    for first_order, init in ((True, 0), (False, None)):
        options = {"include_first_order": first_order, "normalization_init": init}
        own = {"first_order": first_order, "normalization": init}
        label = "" if first_order else ", bare"
        theirs = peer.gp.SteerableGeometricProductLayer(clifford, n, **options)
        yield case(f"SteerableGP{label}", theirs, layers.SteerableGP(n, name, **own))
        theirs = peer.fcgp.FullyConnectedSteerableGeometricProductLayer(clifford, n, 3, **options)
        ours = layers.FullyConnectedSteerableGP(n, 3, name, **own)
        yield case(f"FullyConnectedSteerableGP{label}", theirs, ours)
    yield case("CEMLP", peer.nbody.CEMLP(clifford, n, 5, 3, 3), models.CEMLP(n, 5, 3, name, 3))


def graph(nodes: int, of: int) -> Tensor:
    """All pairs of nodes within groups of so many: from row 0 to row 1."""
    pairs = (~torch.eye(of, dtype=torch.bool)).nonzero().T
    return torch.cat([pairs + start for start in range(0, nodes, of)], 1)


def model_cases(peer: Peer) -> Iterator[Case]:
    """Every model with the paper's sizes; of the graph networks without what prepares the data."""
    theirs, ours = peer.nbody.NBodyCGGNN(), models.CGENN()
    edges = graph(10, 5)[:, torch.randperm(40)]
    inputs = [torch.randn(10, 8, 3), torch.randn(40, 8, 1)]
    # its edges point from the second row to the first
    yield (
        "CGENN",
        theirs,
        ours,
        inputs,
        lambda x, e: theirs._forward(x.mT, tuple(edges.flip(0)), e.mT).mT,
        lambda x, e: ours(x, edges, e),
    )
    volume, own_volume = peer.o3.O3CGMLP(hidden_features=96, num_layers=4), models.O3SignedVolume()
    points = torch.randn(BATCH, 3, 3)
    embedded = volume.algebra.embed_grade

    def their_volume(points: Tensor) -> Tensor:
        return volume._forward(embedded(points, 1))[:, 0, -1]

    yield "O3SignedVolume", volume, own_volume, [points], their_volume, own_volume
    hull, own_hull = peer.hulls.ConvexHullCGMLP(), models.O5ConvexHull()

    def their_hull(points: Tensor) -> Tensor:
        return hull.mlp(hull._forward(hull.algebra.embed_grade(points, 1)).norm(dim=-1)).squeeze(-1)

    yield "O5ConvexHull", hull, own_hull, [torch.randn(BATCH, 16, 5)], their_hull, own_hull
    regression, own_regression = peer.o5.O5CGMLP(0.0, 1.0), models.O5Regression()

    def their_regression(vectors: Tensor) -> Tensor:
        return regression._forward(regression.algebra.embed_grade(vectors, 1)).squeeze(-1)

    yield "O5Regression", regression, own_regression, [torch.randn(BATCH, 2, 5)], their_regression, own_regression
    yield lorentz_case(peer)


def lorentz_case(peer: Peer) -> Case:
    """In training, but without dropout: batch norms as they are then."""
    theirs, ours = peer.lorentz.LorentzCGGNN(dropout=0.0), models.LorentzCGENN(dropout=0.0)
    jets, particles = 3, 4
    nodes = jets * particles
    edges, batch = graph(nodes, particles), torch.arange(jets).repeat_interleave(particles)

    def their_logits(momenta: Tensor, scalars: Tensor) -> Tensor:
        i, j = edges.flip(0)
        embed = theirs.algebra.embed_grade
        relative = torch.stack([momenta[i] - momenta[j], momenta[i], momenta[j]], 1)
        return theirs._forward(
            h=(scalars := peer.lorentz.psi(scalars)),
            x=embed(momenta[:, None], 1),
            edge_attr_h=None,
            edge_attr_x=embed(relative, 1),
            node_attr_h=scalars,
            node_attr_x=embed(momenta[:, None], 1),
            edges=[i, j],
            node_mask=torch.ones(nodes, 1),
            edge_mask=None,
            n_nodes=particles,
        )

    def our_logits(momenta: Tensor, scalars: Tensor) -> Tensor:
        return ours(momenta, scalars, Edges(edges, nodes), batch, jets)

    inputs = [torch.randn(nodes, 4), torch.randn(nodes, 2)]
    return "LorentzCGENN", theirs, ours, inputs, their_logits, our_logits


def compare(case: Case) -> dict[str, Any]:
    """The largest relative error of the result and of each kind of gradient."""
    name, theirs, ours, inputs, run_theirs, run_ours = case
    randomize_parameters(theirs, scale=0.1)
    state = theirs.state_dict()
    ours.load_state_dict(from_cgenn(ours, state))
    results = []
    for module, run in ((theirs, run_theirs), (ours, run_ours)):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = run(*leaves)
        torch.manual_seed(1)
        (out * torch.randn(out.shape)).sum().backward()
        results.append((out.detach(), [leaf.grad for leaf in leaves], module))
    (right, their_gradients, _), (out, gradients, _) = results
    moved = from_cgenn(ours, {**state, **{key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}})
    own = {key: p.grad for key, p in ours.named_parameters()}
    # biases before a batch norm have a gradient of zero but for rounding
    floor = 1e-6 * float(torch.stack([moved[key].norm() for key in own]).norm())
    errors = {
        "result": [relative_error(out, right)],
        "gradients of inputs": [relative_error(g, w) for g, w in zip(gradients, their_gradients, strict=True)],
        "gradients of parameters": [relative_error(g, moved[key], floor) for key, g in own.items()],
    }
    counts = [sum(p.numel() for p in module.parameters()) for module in (theirs, ours)]
    if counts[0] != counts[1]:
        raise SystemExit(f"{name}: {counts[1]} parameters, CGENN has {counts[0]}")
    return {"case": name, "parameters": counts[1], **{key: max(values) for key, values in errors.items()}}


def relative_error(got: Tensor | None, wanted: Tensor | None, floor: float = 0.0) -> float:
    """Of what should be there; relative to the floor where that is larger."""
    if got is None or wanted is None or got.shape != wanted.shape:
        return float("inf")
    return float((got - wanted).norm() / max(float(wanted.norm()), floor))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--output", type=Path, default=RESULTS / "cgenn.json")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)  # its tables are in the default dtype
    torch.manual_seed(0)
    peer = Peer(arguments.checkout)
    results = []
    for cases in (*(layer_cases(peer, name) for name in METRICS), model_cases(peer)):
        for case in cases:
            result = compare(case)
            print(" ".join(f"{value:.1e}" if isinstance(value, float) else f"{value:<36}" for value in result.values()))
            results.append(result)
    worst = max(value for result in results for value in result.values() if isinstance(value, float))
    if not worst < TOLERANCE:
        raise SystemExit(f"the largest relative error is {worst:.1e}: nothing is written")
    write(arguments.output, tolerance=TOLERANCE, results=results)


if __name__ == "__main__":
    main()
