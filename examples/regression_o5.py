r"""A function of two vectors in five dimensions that no rotation or reflection changes.

.. math:: y = \sin |x_1| - \tfrac12 |x_2|^3 + \frac{x_1 \cdot x_2}{|x_1| |x_2|}

with normal coordinates: the O(5) regression experiment of the Clifford group network paper (arXiv:2305.11141), after
that of equivariant multilayer perceptrons (arXiv:2104.09459). Each vector is divided by its root mean square over the
training set, targets are standardised; errors are those of raw targets.

    python -m examples.regression_o5 fit --config configs/regression_o5_small.yaml    # a minute on a CPU
    python -m examples.sweep regression_o5 --config configs/regression_o5_small.yaml --sizes 256 1024 4096
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from examples.common.cli import Experiment
from examples.common.data import SampledData
from examples.common.report import Report
from examples.common.scalars import describe_scalar


class RegressionData(SampledData):
    """Pairs of vectors, and the function's values."""

    name = "regression_o5"

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        vectors = rng.standard_normal((count, 2, 5))
        return {"vectors": vectors, "targets": function(vectors)}

    def tensors(self, split: str) -> tuple[Tensor, ...]:
        vectors, targets = super().tensors("train")
        size = self.limit
        scales = vectors[:size].square().mean((0, 2)).sqrt()[:, None]
        mean, deviation = targets[:size].mean(), targets[:size].std(correction=0)
        vectors, targets = super().tensors(split)
        return vectors / scales, (targets - mean) / deviation

    @property
    def loss_unit(self) -> float:
        return float(super().tensors("train")[1][: self.limit].var(correction=0))


def function(vectors: np.ndarray) -> np.ndarray:
    """The function of pairs of vectors, ``(pairs, 2, 5)``."""
    first, second = np.linalg.norm(vectors, axis=-1).T
    return np.sin(first) - second**3 / 2 + (vectors[:, 0] * vectors[:, 1]).sum(-1) / (first * second)


def describe(report: Report) -> None:
    describe_scalar(report, "R5", 0)


EXPERIMENT = Experiment(RegressionData, describe)
main = EXPERIMENT.main

if __name__ == "__main__":
    main()
