"""The volume of the convex hull of sixteen points in five dimensions.

Coordinates are normal, volumes qhull's: the convex hull experiment of the Clifford group network paper
(arXiv:2305.11141). The volume is the same in every orientation and in a mirror, and so is the prediction, whatever
the weights are.

    python -m examples.convex_hulls_o5 fit --config configs/convex_hulls_o5_small.yaml    # two minutes on a CPU
    python -m examples.sweep convex_hulls_o5 --config configs/convex_hulls_o5_small.yaml --sizes 256 1024 4096
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import ConvexHull
from tqdm import tqdm

from examples.common.cli import Experiment
from examples.common.data import SampledData
from examples.common.report import Report
from examples.common.scalars import describe_scalar


class ConvexHullData(SampledData):
    """Sixteen points each, and the volumes of their hulls."""

    name = "convex_hulls_o5"

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        points = rng.standard_normal((count, 16, 5))
        volumes = [ConvexHull(p).volume for p in tqdm(points, desc="Hulls", leave=False)]
        return {"points": points, "targets": np.array(volumes)}


def describe(report: Report) -> None:
    describe_scalar(report, "R5", 0)


EXPERIMENT = Experiment(ConvexHullData, describe)
main = EXPERIMENT.main

if __name__ == "__main__":
    main()
