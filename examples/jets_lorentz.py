"""Does a jet come from one particle or from two? The answer does not depend on who looks, or how fast they fly by.

A jet is six massless particles of total mass M. Its four-momentum is drawn, mass uniform between 60 and 100 GeV,
momentum between 300 and 600 GeV in any direction; in its rest frame it falls apart, by decays into two parts that fly
off in any direction:

- *two prongs* (label 1): into two parts of three particles each, with masses uniform in 0.1 M to 0.4 M;
- *one prong* (label 0): into one such part, and a wide spray of three particles with mass uniform in 0.25 M to 0.7 M.

A part of three particles falls apart one particle after the other, the mass left being that before times the root of
a uniform number. Masses of both labels overlap, so nobody can be right always. Particles come sorted by energy, in
units of 100 GeV. The network of multivectors over space-time sees invariants alone, so boosts, rotations and
reflections leave its answers as they are; a perceptron on the components has to learn all of that.

    python -m examples.jets_lorentz fit --config configs/jets_lorentz_small.yaml    # two minutes on a CPU
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.layers import MVLinear
from cliffnn.models import LorentzCGENN
from examples.common.checks import within
from examples.common.cli import Experiment
from examples.common.data import SampledData
from examples.common.networks import MLP, Interaction, all_pairs, complete_graphs, invariants
from examples.common.report import BASELINES, OURS, Report

ALGEBRA = "R1,3"
GEV = 0.01  # in our unit


class JetNetwork(nn.Module):
    """A logit of the particles' four-momenta, with messages between all pairs.

    Parameters
    ----------
    channels, layers : int
        Multivectors in the state of a particle, and interactions.
    hidden : int
        Width of the perceptron that reads the invariants.
    """

    def __init__(self, channels: int, layers: int, hidden: int):
        super().__init__()
        within("layers", layers, 1)
        self.algebra = Algebra(ALGEBRA)
        self.embedding = MVLinear(1, channels, ALGEBRA)
        self.interactions = nn.ModuleList(Interaction(channels, ALGEBRA) for _ in range(layers))
        self.readout = MLP(channels * (1 + len(self.algebra.grades)), hidden, 2)

    def forward(self, momenta: Tensor) -> Tensor:
        """From ``(jets, particles, 4)``, energy first, to ``(jets,)``."""
        receivers, senders = all_pairs(momenta.shape[1], momenta.device)
        vectors = F.embed(momenta[..., None], 1, self.algebra)
        metric = momenta.new_tensor(self.algebra.signature)
        products = (momenta[:, receivers] * metric * momenta[:, senders]).sum(-1)
        pairs = F.embed((10 * products).asinh()[..., None, None], 0, self.algebra)

        nodes = self.embedding(vectors)
        for interaction in self.interactions:
            nodes = interaction(nodes, pairs, receivers, senders)
        return self.readout(invariants(nodes, self.algebra).mean(1))


class JetCGENN(nn.Module):
    """A logit of the particles' four-momenta, by the top tagger of arXiv:2305.11141.

    Parameters
    ----------
    features, channels : int
        Invariants and multivectors in the state of a particle.
    layers : int
        Rounds of messages.
    dropout : float
        Before the last layer.
    """

    def __init__(self, features: int = 72, channels: int = 8, layers: int = 4, dropout: float = 0.2):
        super().__init__()
        self.network = LorentzCGENN(1, features, channels, classes=1, layers=layers, dropout=dropout)

    def forward(self, momenta: Tensor) -> Tensor:
        """From ``(jets, particles, 4)``, energy first, to ``(jets,)``."""
        jets, particles, _ = momenta.shape
        masses = momenta.new_zeros(jets * particles, 1)
        edges = complete_graphs(jets, particles, momenta.device)
        jet = torch.arange(jets, device=momenta.device).repeat_interleave(particles)
        return self.network(momenta.flatten(0, 1), masses, edges, jet, jets).squeeze(-1)


class JetData(SampledData):
    """Four-momenta of the particles of jets, and whether they have two prongs."""

    name = "jets_lorentz"

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        labels = rng.integers(2, size=count).astype(float)
        mass = rng.uniform(60, 100, count) * GEV
        momentum = rng.uniform(300, 600, count)[:, None] * GEV * directions(rng, count)
        prong = mass * rng.uniform(0.1, 0.4, count)
        other = mass * np.where(labels == 1, rng.uniform(0.1, 0.4, count), rng.uniform(0.25, 0.7, count))

        jet = np.concatenate([np.hypot(mass, np.linalg.norm(momentum, axis=-1))[:, None], momentum], -1)
        particles = [particle for part in decay(rng, jet, prong, other) for particle in three_particles(rng, part)]
        momenta = np.stack(particles, 1)
        order = np.argsort(-momenta[..., 0], 1)
        return {"momenta": np.take_along_axis(momenta, order[..., None], 1), "targets": labels}


def directions(rng: np.random.Generator, count: int) -> np.ndarray:
    """Unit vectors, uniform on the sphere, ``(count, 3)``."""
    x = rng.standard_normal((count, 3))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def mass_of(momenta: np.ndarray) -> np.ndarray:
    """Invariant mass."""
    return np.sqrt(np.maximum(momenta[..., 0] ** 2 - (momenta[..., 1:] ** 2).sum(-1), 0))


def decay(rng: np.random.Generator, whole: np.ndarray, first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    """Four-momenta of two parts of given masses, which fly apart in any direction of the whole's rest frame."""
    mass = mass_of(whole)
    energy = (mass**2 + first**2 - second**2) / (2 * mass)
    momentum = np.sqrt(np.maximum(energy**2 - first**2, 0))[:, None] * directions(rng, len(whole))
    part = boosted(np.concatenate([energy[:, None], momentum], -1), whole[:, 1:] / mass[:, None])
    return [part, whole - part]


def boosted(momenta: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Four-momenta ``(..., 4)``, as seen when their frame moves with a proper velocity ``(..., 3)``."""
    gamma = np.sqrt(1 + (velocity**2).sum(-1))
    along = (momenta[..., 1:] * velocity).sum(-1)
    energy = gamma * momenta[..., 0] + along
    space = momenta[..., 1:] + (along / (gamma + 1) + momenta[..., 0])[..., None] * velocity
    return np.concatenate([energy[..., None], space], -1)


def three_particles(rng: np.random.Generator, part: np.ndarray) -> list[np.ndarray]:
    """Massless particles that a part falls apart into, one after the other."""
    none = np.zeros(len(part))
    first, rest = decay(rng, part, none, mass_of(part) * np.sqrt(rng.uniform(size=len(part))))
    return [first, *decay(rng, rest, none, none)]


def area_under_curve(logits: np.ndarray, labels: np.ndarray) -> float:
    """Probability that a jet of two prongs has the larger logit than one of one prong."""
    ranks = np.empty(len(logits))
    ranks[np.argsort(logits)] = np.arange(1, len(logits) + 1)
    ones = int(labels.sum())
    return float((ranks[labels == 1].sum() - ones * (ones + 1) / 2) / (ones * (len(labels) - ones)))


def describe(report: Report) -> None:
    """What this experiment has to show."""
    data, model = report.data, report.model
    momenta, labels = data.arrays["test_momenta"], data.arrays["test_targets"]
    rng = np.random.default_rng(0)
    away = directions(rng, len(momenta))[:, None]
    rapidities = np.linspace(0, 2, 9)
    frames = {rapidity: boosted(momenta, np.sinh(rapidity) * away) for rapidity in rapidities}

    rows, curves = [], {}
    for name, net in report.networks():
        logits = {r: model.predict(net, on_device(frame, model)).float().cpu().numpy() for r, frame in frames.items()}
        mirrored = model.predict(net, on_device(momenta * [1, 1, 1, -1], model)).float().cpu().numpy()
        curves[name] = [area_under_curve(logits[r], labels) for r in rapidities]
        report.figures[f"{name}, AUC"] = curves[name][0]
        report.figures[f"{name}, AUC, rapidity 1"] = curves[name][4]
        accuracy = ((logits[0.0] > 0) == labels).mean()
        rows.append([name, f"{report.figures[name]:.4f}", f"{accuracy:.4f}"])
        rows[-1] += [f"{x:.4f}" for x in (curves[name][0], area_under_curve(mirrored, labels), curves[name][4])]
    report.table(["", "test BCE", "accuracy", "AUC", "AUC, mirrored", "AUC, boosted by rapidity 1"], rows)
    report.equivariance(ALGEBRA, (1,), 0)

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for colour, (name, curve) in zip((OURS, *BASELINES), curves.items(), strict=False):
        axis.plot(rapidities, curve, color=colour, marker=".", label=name)
    axis.set(xlabel="rapidity of a boost in any direction", ylabel="AUC, test set")
    axis.legend(frameon=False)
    report.picture(figure, "boosts", "Two prongs told from one, in frames other than those of the training set.")
    report.learning_curves()


def on_device(momenta: np.ndarray, like: nn.Module) -> Tensor:
    parameter = next(like.parameters())
    return torch.from_numpy(momenta).to(parameter)


EXPERIMENT = Experiment(JetData, describe)
main = EXPERIMENT.main

if __name__ == "__main__":
    main()
