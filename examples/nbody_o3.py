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

import copy
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# As a script, this file sees its own folder only; as a module, the repository as well.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cliffnn import functional as F
from cliffnn.layers import MVLinear, SGPNormBlock
from cliffnn.testing import equivariance_error, random_versor
from examples.common.cli import Experiment
from examples.common.data import ExperimentData
from examples.common.report import Report
from examples.nbody.report import plot_trajectories
from examples.nbody.simulation import STEPS_PER_FRAME, TIME_STEP, Recipe, simulate

ALGEBRA = "R3"


def two_blocks(channels: int) -> nn.Sequential:
    """The multivectors' perceptron.

    The norm of the first block is how the network divides, and so comes to forces that fall off with distance. The
    second block has none: what it says may be weak or strong.
    """
    return nn.Sequential(SGPNormBlock(channels, ALGEBRA), SGPNormBlock(channels, ALGEBRA, normalize=False))


class Interaction(nn.Module):
    r"""Every particle hears from all the others, and changes its state accordingly.

    .. math:: m_{ij} = \phi(A h_i + B h_j + C e_{ij}), \qquad
        h_i \leftarrow h_i + \psi(D [h_i, \operatorname{mean}_{j \neq i} m_{ij}])

    Parameters
    ----------
    channels : int
        Multivectors in the state of a particle.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.receiver = MVLinear(channels, channels, ALGEBRA)
        self.sender = MVLinear(channels, channels, ALGEBRA)
        self.pair = MVLinear(1, channels, ALGEBRA)
        self.message = two_blocks(channels)
        self.update = nn.Sequential(MVLinear(2 * channels, channels, ALGEBRA), two_blocks(channels))

    def forward(self, nodes: Tensor, pairs: Tensor, receivers: Tensor, senders: Tensor) -> Tensor:
        """Shapes: nodes ``(systems, particles, 8, channels)``, pairs ``(systems, pairs, 8, 1)``."""
        hidden = self.receiver(nodes)[:, receivers] + self.sender(nodes)[:, senders] + self.pair(pairs)
        # Pairs come sorted by receiver, so those of one particle are neighbours.
        received = self.message(hidden).unflatten(1, (nodes.shape[1], -1)).mean(2)
        return nodes + self.update(torch.cat([nodes, received], -1))


class NBodyNetwork(nn.Module):
    """Predict positions from charges, positions and velocities.

    Parameters
    ----------
    channels : int
        Multivectors in the state of a particle.
    layers : int
        Interactions, one after the other.
    """

    def __init__(self, channels: int, layers: int):
        super().__init__()
        self.embedding = MVLinear(3, channels, ALGEBRA)
        self.interactions = nn.ModuleList(Interaction(channels) for _ in range(layers))
        self.readout = MVLinear(channels, 1, ALGEBRA)

    def forward(self, charges: Tensor, positions: Tensor, velocities: Tensor) -> Tensor:
        """Shapes: charges ``(systems, particles)``, all others ``(systems, particles, 3)``."""
        particles = charges.shape[1]
        receivers, senders = (~torch.eye(particles, dtype=torch.bool, device=charges.device)).nonzero().T

        # Charges are scalars; positions, seen from their mean, and velocities are vectors.
        centred = positions - positions.mean(1, keepdim=True)
        scalars = F.embed(charges[..., None, None], 0, ALGEBRA)
        vectors = F.embed(torch.stack([centred, velocities], -1), 1, ALGEBRA)
        products = charges[:, receivers] * charges[:, senders]
        pairs = F.embed(products[..., None, None], 0, ALGEBRA)

        nodes = self.embedding(torch.cat([scalars, vectors], -1))
        for interaction in self.interactions:
            nodes = interaction(nodes, pairs, receivers, senders)
        displacements = F.extract(self.readout(nodes), 1, ALGEBRA).squeeze(-1)
        return positions + displacements


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


def largest_equivariance_error(network: NBodyNetwork, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    """Relative error, in float64, by which predictions fail to follow rotations and reflections of the input."""
    network = copy.deepcopy(network).cpu().double()
    charges, positions, velocities = (x.cpu().double() for x in inputs)

    def predict(*vectors: Tensor) -> Tensor:
        x, v = (F.extract(vector, 1, ALGEBRA).squeeze(-1) for vector in vectors)
        return F.embed(network(charges, x, v)[..., None], 1, ALGEBRA)

    multivectors = [F.embed(x[..., None], 1, ALGEBRA) for x in (positions, velocities)]
    generator = torch.Generator().manual_seed(0)
    versors = [random_versor(ALGEBRA, odd, generator) for odd in (False, True) for _ in range(3)]
    with torch.no_grad():
        return max(max(equivariance_error(predict, ALGEBRA, *multivectors, versor=v)) for v in versors)


def describe(report: Report) -> None:
    """What this experiment has to show."""
    charges, positions, velocities, targets = report.data.tensors("test")
    straight = positions + report.data.horizon * velocities
    report.figures = {"constant velocity": nn.functional.mse_loss(straight, targets).item(), **report.figures}
    report.errors_table("constant velocity")
    sample = charges[:100], positions[:100], velocities[:100]
    report.figures["equivariance"] = largest_equivariance_error(report.model.net, sample)
    report.say(f"equivariance error {report.figures['equivariance']:.1e} (relative, float64, rotations and reflections)")

    paths = torch.from_numpy(report.data.arrays["test_positions"])
    figure = plot_trajectories(charges, paths, report.predictions()["trained"], straight)
    report.picture(figure, "trajectories", "Systems of the test set: true paths and predictions.")
    report.learning_curves(constant_velocity=report.figures["constant velocity"], test=report.figures["trained"])


EXPERIMENT = Experiment(NBodyData, describe)
main = EXPERIMENT.main

if __name__ == "__main__":
    main()
