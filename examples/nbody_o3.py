"""Where will five charged particles be? An O(3)-equivariant network of multivectors learns to tell.

From positions, velocities and charges at one moment, predict the positions a thousand time steps later: the charged
n-body experiment of the EGNN and Clifford group network papers (arXiv:2102.09844, arXiv:2305.11141). Turn, mirror or
move a system, and its prediction turns, mirrors or moves with it, whatever the weights are.

    python examples/nbody_o3.py                                      # two minutes on a CPU
    python examples/nbody_o3.py --model.net.channels 24              # any key of the configuration
    python -m examples.nbody_o3 fit --config configs/nbody_o3.yaml   # as published

Everything a run makes goes to its own folder, ``runs/nbody_o3/version_<n>``.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# As a script, this file sees its own folder only; as a module, the repository as well.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.common.cli import Experiment
from examples.common.data import ExperimentData
from examples.common.networks import ParticleNetwork
from examples.common.report import Report
from examples.nbody.report import plot_trajectories
from examples.nbody.simulation import STEPS_PER_FRAME, TIME_STEP, Recipe, simulate

ALGEBRA = "R3"


class NBodyNetwork(ParticleNetwork):
    """Predict positions from charges, positions and velocities, with messages between all pairs of particles.

    Parameters
    ----------
    channels : int
        Multivectors in the state of a particle.
    layers : int
        Interactions, one after the other.
    """

    def __init__(self, channels: int, layers: int):
        super().__init__(ALGEBRA, 0, channels, layers)


class NBodyData(ExperimentData):
    """The simulated systems: charges, positions and velocities at frame 30; positions at frame 40 as targets.

    Parameters
    ----------
    trajectories : Recipe
        What is simulated.
    **options
        As of every experiment's data.
    """

    name = "nbody_o3"

    def __init__(self, trajectories: Recipe = Recipe(), **options: Any):  # noqa: B008
        super().__init__(**options)
        self.trajectories = trajectories

    @property
    def horizon(self) -> float:
        """Time from the input frame to the target frame."""
        return (self.trajectories.last_frame - self.trajectories.first_frame) * STEPS_PER_FRAME * TIME_STEP

    def recipe(self) -> dict[str, Any]:
        return asdict(self.trajectories)

    def generate(self) -> dict[str, np.ndarray]:
        return simulate(self.trajectories)

    def tensors(self, split: str) -> tuple[Tensor, ...]:
        names = [f"{split}_{part}" for part in ("charges", "positions", "velocities")]
        charges, paths, velocities = (torch.from_numpy(self.arrays[name]) for name in names)
        return charges, paths[:, 0], velocities[:, 0], paths[:, -1]


def describe(report: Report) -> None:
    """What this experiment has to show."""
    charges, positions, velocities, targets = report.data.tensors("test")
    straight = positions + report.data.horizon * velocities
    report.figures = {"constant velocity": nn.functional.mse_loss(straight, targets).item(), **report.figures}
    report.errors_table("constant velocity")
    report.equivariance(ALGEBRA, (0, 1, 1), 1)

    paths = torch.from_numpy(report.data.arrays["test_positions"])
    figure = plot_trajectories(charges, paths, report.predictions()["trained"], straight)
    report.picture(figure, "trajectories", "Systems of the test set: true paths and predictions.")
    report.learning_curves(constant_velocity=report.figures["constant velocity"], test=report.figures["trained"])


EXPERIMENT = Experiment(NBodyData, describe)
main = EXPERIMENT.main

if __name__ == "__main__":
    main()
