"""What multivectors of some grades save: products, forward and backward, by the grades that are held.

    python -m benchmarks.grades [--output FILE] [--rows 4096] [--channels 64]

On a GPU if there is one, else on a CPU. Cases are measured in turns, so that a busy machine slows all alike; each is
the best of several medians. Refuses to report on a result that is not what embedding, the full product and extracting
give.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cpu import milliseconds
from benchmarks.environment import RESULTS, write
from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.algebra import GradesLike

ALGEBRAS = ("R3", "R1,3")
PRODUCTS = {
    "weighted": F.weighted_geometric_product,
    "fully connected": F.fully_connected_geometric_product,
}


def cases(algebra: Algebra) -> dict[str, tuple[GradesLike, GradesLike, GradesLike]]:
    """What the factors and the result hold."""
    even = algebra.grades[::2]
    return {
        "full": (None, None, None),
        "even subalgebra": (even, even, even),
        "vectors to scalars and bivectors": (1, 1, (0, 2)),
    }


def step(
    product: str, algebra: Algebra, grades: tuple[GradesLike, ...], rows: int, channels: int, device: str
) -> tuple[Callable[[], Any], int]:
    """A call of forward and backward, its result checked; and the bytes that its multivectors take."""
    x_grades, y_grades, out_grades = grades
    x, y, grad = (
        torch.randn(rows, len(algebra.blades_of(held)), channels, device=device)
        for held in (x_grades, y_grades, out_grades)
    )
    paths = algebra.paths_between(*grades)
    function, shape = PRODUCTS[product], (channels,) if product == "weighted" else (channels, channels)
    weight = torch.randn(len(paths), *shape, device=device)
    leaves = [tensor.requires_grad_() for tensor in (x, y, weight)]

    def run() -> tuple[Tensor, ...]:
        out = function(x, y, weight, algebra, *grades)
        gradients = torch.autograd.grad(out, leaves, grad)
        if device == "cuda":
            torch.cuda.synchronize()
        return out, *gradients

    with torch.no_grad():
        full = torch.zeros(len(algebra.paths), *shape, device=device)
        full[[algebra.paths.index(path) for path in paths]] = weight
        factors = (F.embed(t, algebra.grades if k is None else k, algebra) for t, k in ((x, x_grades), (y, y_grades)))
        right = function(*factors, full, algebra)
        right = F.extract(right, algebra.grades if out_grades is None else out_grades, algebra)
    error = float((run()[0].detach() - right).norm() / right.norm())
    if not error < 1e-5:
        raise SystemExit(
            f"{product}, {algebra}, {grades}: relative error {error:.1e}; nothing is reported on a wrong result"
        )
    return run, sum(tensor.nbytes for tensor in (x, y, grad))


def measure(product: str, algebra: Algebra, rows: int, channels: int, device: str, rounds: int) -> list[dict[str, Any]]:
    steps = {name: step(product, algebra, grades, rows, channels, device) for name, grades in cases(algebra).items()}
    medians = [{name: milliseconds(run) for name, (run, _) in steps.items()} for _ in range(rounds)]
    best = {name: min(of_round[name] for of_round in medians) for name in steps}
    return [
        {
            "product": product,
            "algebra": algebra.name,
            "case": name,
            "paths": len(algebra.paths_between(*grades)),
            "blades": [len(algebra.blades_of(held)) for held in grades],
            "milliseconds": round(best[name], 3),
            "share_of_full": round(best[name] / best["full"], 3),
            "share_of_bytes": round(steps[name][1] / steps["full"][1], 3),
        }
        for name, grades in cases(algebra).items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "grades.json")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    results = []
    for product, name in itertools.product(PRODUCTS, ALGEBRAS):
        results += measure(product, Algebra(name), arguments.rows, arguments.channels, device, arguments.rounds)
    for result in results:
        what = f"{result['product']:15} {result['algebra']:5} {result['case']:33}"
        print(f"{what} {result['milliseconds']:8.3f} ms {result['share_of_full']:.0%}")
    load = round(os.getloadavg()[0], 2)
    write(arguments.output, load=load, results=results)


if __name__ == "__main__":
    main()
