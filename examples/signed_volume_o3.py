"""The signed volume of a tetrahedron: a pseudoscalar, which changes sign in a mirror.

From three corners (the fourth is the origin), each coordinate normal, predict a tenth of their determinant: the
signed volume experiment of the Clifford group network paper (arXiv:2305.11141). The answer is read from the last grade
of a multivector, so it changes sign in a mirror whatever the weights are.

    python -m examples.signed_volume_o3 fit --config configs/signed_volume_o3_small.yaml    # a minute on a CPU
    python -m examples.sweep signed_volume_o3 --config configs/signed_volume_o3_small.yaml --sizes 64 256 1024
"""

from __future__ import annotations

import numpy as np

from examples.common.cli import Experiment
from examples.common.data import SampledData
from examples.common.report import Report
from examples.common.scalars import describe_scalar


class SignedVolumeData(SampledData):
    """Triples of points, and a tenth of their determinants."""

    name = "signed_volume_o3"

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        points = rng.standard_normal((count, 3, 3))
        return {"points": points, "targets": np.linalg.det(points) / 10}


def describe(report: Report) -> None:
    describe_scalar(report, "R3", 3)


EXPERIMENT = Experiment(SignedVolumeData, describe)
main = EXPERIMENT.main

if __name__ == "__main__":
    main()
