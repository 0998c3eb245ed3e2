"""The fused operator on a CPU, forward and backward, eager and compiled, against CGENN's layers.

    python -m benchmarks.cpu [--output FILE] [--cgenn CHECKOUT] [--threads 2] [--case R3/500/28 ...]

Ours is `gelu_sgp_norm` in float32 and its gradients with respect to x, y and weight. CGENN's (a checkout of
github.com/DavidRuhe/clifford-group-equivariant-neural-networks) is what its networks have in that place, eager: MVSiLU
of both factors, the contraction of SteerableGeometricProductLayer with the weight as the layer expands it, without the
layer's linear maps; MVLayerNorm, or NormalizationLayer, which norms by grade as ours does. Gradients likewise with
respect to both factors and the product's weight. The columns are measured in turns, so that a busy machine slows all
alike; each is the best of several medians. Refuses to report on a wrong result or gradient.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.environment import RESULTS, write
from cliffnn import Algebra, generated
from cliffnn import functional as F
from cliffnn.operation import operation

CASES = ("R3/500/28", "R3/2000/28", "R3/4096/64")


def milliseconds(run: Callable[[], Any], calls: int = 15) -> float:
    """Median time of a call."""
    times = []
    for _ in range(calls + 2):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[2:])


# Options of inductor, with which it stores as little of intermediate results as it can, and computes them again in its
# next loop (`docs/pytorch.md`).
LITTLE_STORED = {"realize_opcount_threshold": 300, "realize_reads_threshold": 100}
# How our operator runs: options of inductor's, or None for eager.
WAYS: dict[str, dict[str, Any] | None] = {
    "eager": None,
    "compiled": {},
    "compiled, little stored": LITTLE_STORED,
}


def ours(algebra: Algebra, rows: int, channels: int, options: dict[str, Any] | None) -> Callable[[], Any]:
    """A call of forward and backward, its gradients checked."""
    x, y, grad = (torch.randn(rows, len(algebra), channels) for _ in range(3))
    leaves = [x.requires_grad_(), y.requires_grad_(), torch.randn(len(algebra.paths), channels, requires_grad=True)]

    def function(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return F.gelu_sgp_norm(x, y, weight, algebra)

    if options is not None:
        function = torch.compile(function, fullgraph=True, dynamic=False, options=options)

    def run() -> list[Tensor]:
        out = function(*leaves)
        return [out, *torch.autograd.grad(out, leaves, grad)]

    exact = [leaf.detach().double() for leaf in leaves]
    forward = operation("gelu_weighted_geometric_product.norm", algebra.name)
    saved = generated.run(forward, exact, 1e-6)
    wanted = generated.run(forward.vjp(["out"], forward.inputs), [*exact, *saved, grad.double()], 1e-6)
    pairs = zip(run(), [saved[0], *wanted], strict=True)
    error = max(float((got.double() - right).norm() / right.norm()) for got, right in pairs)
    if not error < 1e-5:
        raise SystemExit(f"{algebra}, {rows} x {channels}: relative error {error:.1e}; nothing is reported")
    return run


def cgenn(checkout: Path, algebra: Algebra, rows: int, channels: int, norm: str) -> Callable[[], Any]:
    """A call of forward and backward by CGENN's layers, its product checked against ours."""
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    clifford = importlib.import_module("algebra.cliffordalgebra").CliffordAlgebra([float(s) for s in algebra.signature])
    gates = [importlib.import_module("models.modules.mvsilu").MVSiLU(clifford, channels) for _ in range(2)]
    product = importlib.import_module("models.modules.gp").SteerableGeometricProductLayer(
        clifford, channels, include_first_order=False, normalization_init=None
    )
    module = "mvlayernorm" if norm == "MVLayerNorm" else "normalization"
    normalize = getattr(importlib.import_module(f"models.modules.{module}"), norm)(clifford, channels)
    x, y, grad = (torch.randn(rows, channels, len(algebra)) for _ in range(3))
    leaves = [x.requires_grad_(), y.requires_grad_(), product.weight]

    def multiply(x: Tensor, y: Tensor) -> Tensor:
        return torch.einsum("bni, nijk, bnk -> bnj", x, product._get_weight(), y)

    def run() -> tuple[Tensor, ...]:
        out = normalize(multiply(*(gate(factor) for gate, factor in zip(gates, (x, y), strict=True))))
        return torch.autograd.grad(out, leaves, grad)

    with torch.no_grad():
        # its paths are ordered (grade of x, grade of the output, grade of y)
        order = sorted(range(len(algebra.paths)), key=lambda p: (algebra.paths[p][0], *algebra.paths[p][:0:-1]))
        weight = torch.empty(len(order), channels)
        weight[order] = product.weight.T
        right = F.weighted_geometric_product(x.transpose(1, 2), y.transpose(1, 2), weight, algebra).transpose(1, 2)
        error = float((multiply(x, y) - right).norm() / right.norm())
    if not error < 1e-5:
        raise SystemExit(f"CGENN's product differs from ours by {error:.1e}: not the same is compared")
    return run


def measure(case: str, checkout: Path | None, rounds: int) -> dict[str, Any]:
    """Best of several medians of each column, and ratios."""
    name, *size = case.split("/")
    algebra, (rows, channels) = Algebra(name), map(int, size)
    columns = {f"ours, {way}": ours(algebra, rows, channels, options) for way, options in WAYS.items()}
    if checkout:
        for norm in ("MVLayerNorm", "NormalizationLayer"):
            columns[f"CGENN, {norm}"] = cgenn(checkout, algebra, rows, channels, norm)
    medians = [{column: milliseconds(run) for column, run in columns.items()} for _ in range(rounds)]
    best = {column: round(min(median[column] for median in medians), 3) for column in columns}
    ratios = {
        f"{theirs} / {mine}": round(best[theirs] / best[mine], 1)
        for theirs in columns
        if theirs.startswith("CGENN")
        for mine in columns
        if mine.startswith("ours")
    }
    return {"case": case, "milliseconds": best, "ratios": ratios, "load": round(os.getloadavg()[0], 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu.json")
    parser.add_argument("--cgenn", type=Path, help="a checkout of CGENN")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", nargs="+", default=CASES, help="ALGEBRA/ROWS/CHANNELS")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = []
    for case in arguments.case:
        torch.compiler.reset()
        result = measure(case, arguments.cgenn, arguments.rounds)
        print(f"{case:12} {result['milliseconds']} {result['ratios']} load {result['load']}", flush=True)
        results.append(result)
    write(arguments.output, results=results)


if __name__ == "__main__":
    main()
