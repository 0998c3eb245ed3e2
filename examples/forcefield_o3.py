"""What holds a cluster of metal atoms together? A network of multivectors learns the energy, and its gradient moves it.

Clusters of aluminium, copper and platinum, shaken by heat, with energies and forces of ASE's effective medium theory
(EMT); how they are made is stated in `examples.forcefield.clusters`. The network says the energy alone; forces are
minus its gradient, taken by autograd, so training goes through derivatives of derivatives. Its energy does not change
when a cluster is moved, turned or mirrored. Beside it the same network without Clifford products, with more channels to
have about as many parameters. Energies are learned relative to those of single atoms, found by least squares on the
training set.

Then the network drives a cluster of the test set for 10 ps at constant energy, through ASE's calculator interface.

EMT itself knows distances alone, no angles: its energy is a function, for each atom, of a sum over neighbours. So a
network without products can come as close to it, and this one does.

    python -m examples.forcefield_o3 fit --config configs/forcefield_o3_small.yaml    # three minutes on a CPU
"""

from __future__ import annotations

import copy
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from matplotlib.figure import Figure
from torch import Tensor

from examples.common.checks import within
from examples.common.cli import Experiment
from examples.common.data import SampledData
from examples.common.report import BASELINES, NEUTRAL, OURS, Report
from examples.forcefield.clusters import draw_samples
from examples.forcefield.dynamics import LearnedCalculator, constant_energy_run
from examples.forcefield.network import ALGEBRA

LARGER, LARGER_SAMPLES = 5, 40


class ClusterData(SampledData):
    """Elements and positions of atoms; energies and forces as targets.

    Parameters
    ----------
    elements : list of str
        That EMT knows: Al, Ni, Cu, Pd, Ag, Pt, Au.
    atoms : int
        In a cluster.
    coldest, hottest : float
        Between which temperatures are drawn, in K.
    picoseconds, temperature : float
        Of the dynamics at the end.
    **options
        As of all sampled data.
    """

    name = "forcefield_o3"

    def __init__(
        self,
        elements: list[str] = ["Al", "Cu", "Pt"],  # noqa: B006
        atoms: int = 8,
        coldest: float = 300.0,
        hottest: float = 1000.0,
        picoseconds: float = 10.0,
        temperature: float = 300.0,
        **options: Any,
    ):
        super().__init__(**options)
        for element in elements:
            if element not in ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"):
                raise ValueError(f"data.elements: got {element}, wanted Al, Ni, Cu, Pd, Ag, Pt or Au")
        within("data.atoms", atoms, 2)
        within("data.picoseconds", picoseconds, 0)
        within("data.temperature", temperature, 0)
        if not 0 < coldest <= hottest:
            raise ValueError(f"data.coldest, data.hottest: got {coldest} and {hottest}, wanted 0 < coldest <= hottest")
        self.elements, self.atoms, self.temperatures = elements, atoms, (coldest, hottest)
        self.picoseconds, self.temperature = picoseconds, temperature

    def recipe(self) -> dict[str, Any]:
        own = {"elements": self.elements, "atoms": self.atoms, "temperatures": self.temperatures}
        return {**super().recipe(), **own}

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        return draw_samples(rng, count, self.elements, self.atoms, self.temperatures)

    def generate(self) -> dict[str, np.ndarray]:
        arrays = super().generate()
        rng = np.random.default_rng([self.data_seed, len(self.counts)])
        larger = draw_samples(rng, LARGER_SAMPLES, self.elements, self.atoms + LARGER, self.temperatures)
        return arrays | {f"larger_{part}": array for part, array in larger.items()}

    @property
    def references(self) -> np.ndarray:
        """Energies of atoms of each element, as near as they come to those of the clusters trained on."""
        size = self.training_size()
        composition, energies = self.arrays["train_kinds"][:size].sum(1), self.arrays["train_targets"][:size, 0]
        return np.linalg.lstsq(composition, energies, rcond=None)[0]

    def training_size(self) -> int:
        size = len(self.arrays["train_targets"])
        return size if self.limit is None else min(size, self.limit)

    def tensors(self, split: str) -> tuple[Tensor, ...]:
        kinds, positions, targets = (self.arrays[f"{split}_{part}"] for part in ("kinds", "positions", "targets"))
        targets = targets.copy()
        targets[:, 0] -= kinds.sum(1) @ self.references
        return tuple(torch.from_numpy(array).float() for array in (kinds, positions, targets))


def forces_of(prediction: Tensor) -> Tensor:
    """``(samples, atoms, 3)``, of what a force field says."""
    return prediction[:, 1:].unflatten(1, (-1, 3))


def errors_of(prediction: Tensor, target: Tensor) -> tuple[float, float]:
    """Mean absolute errors: of energies in meV per atom, of forces in meV/Å."""
    errors = 1000 * (prediction.cpu() - target.cpu()).abs()
    forces = forces_of(errors)
    return errors[:, 0].mean().item() / forces.shape[1], forces.mean().item()


def describe(report: Report) -> None:
    """What this experiment has to show."""
    data, model = report.data, report.model
    test, larger = (data.on(model.device, model.dtype, split) for split in ("test", "larger"))
    rows = []
    for name, net in report.networks():
        errors = [errors_of(model.predict(net, *tensors[:2]), tensors[-1]) for tensors in (test, larger)]
        report.figures[f"{name}, energies"], report.figures[f"{name}, forces"] = errors[0]
        parameters = sum(p.numel() for p in net.parameters())
        rows.append([name, f"{parameters:,}", *(f"{x:.1f}" for pair in errors for x in pair)])
    head = ["mean absolute errors", "parameters", "energies, meV/atom", "forces, meV/Å"]
    report.table([*head, f"energies, {data.atoms + LARGER} atoms", f"forces, {data.atoms + LARGER} atoms"], rows)
    typical = 1000 * forces_of(test[-1]).abs().mean().item()
    report.say(f"mean size of a component of a force: {typical:.0f} meV/Å; forces are minus gradients of energies")
    report.equivariance(ALGEBRA, (0, 1), 1, forces_of)
    report.picture(plot_forces(test[-1], report.predictions()), "forces", "Predicted against true forces, test set.")
    run_dynamics(report)
    report.learning_curves()


def plot_forces(targets: Tensor, predictions: dict[str, Tensor]) -> Figure:
    """One panel for each network."""
    figure, axes = plt.subplots(
        1, len(predictions), figsize=(3.6 * len(predictions), 3.6), layout="constrained", squeeze=False
    )
    true = targets[:100, 1:].float().cpu().flatten().numpy()
    for axis, colour, (name, values) in zip(axes[0], (OURS, *BASELINES), predictions.items(), strict=False):
        axis.plot(true, values[:100, 1:].float().flatten().numpy(), ".", color=colour, markersize=2)
        axis.axline((true.min(), true.min()), slope=1, color="black", linewidth=0.5)
        axis.set(title=name, xlabel="true force, eV/Å", ylabel="predicted")
    return figure


def run_dynamics(report: Report) -> None:
    """Add dynamics at constant energy, in float64: how the total energy drifts, and what EMT says of the path."""
    data = report.data
    symbols = [data.elements[k] for k in data.arrays["test_kinds"][0].argmax(-1)]
    atoms = Atoms(symbols, data.arrays["test_positions"][0])
    network = copy.deepcopy(report.model.net).cpu().double()
    atoms.calc = LearnedCalculator(network, data.elements, data.references)
    run = constant_energy_run(atoms, data.temperature, data.picoseconds)

    size, times = len(atoms), run["times"]
    deviation = 1000 * (run["total"] - run["total"][0]) / size
    slope = float(np.polyfit(times, deviation, 1)[0]) if len(times) > 1 else 0.0
    every = max(1, len(times) // 100)
    truth = [Atoms(symbols, x, calculator=EMT()).get_potential_energy() for x in run["positions"][::every]]
    report.figures["drift"], report.figures["largest deviation"] = slope, float(np.abs(deviation).max())
    report.say(
        f"{times[-1]:g} ps of dynamics at constant energy, {atoms.get_chemical_formula()}: total energy drifts by "
        f"{slope:.2g} meV/atom/ps, is off by at most {report.figures['largest deviation']:.2g} meV/atom"
    )
    figure, (total, potential) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    total.plot(times, deviation, color=OURS, linewidth=0.8)
    total.plot(
        times, 1000 * (run["potential"] - run["potential"].mean()) / size, color=NEUTRAL, linewidth=0.3, zorder=0
    )
    total.set(
        xlabel="time, ps", ylabel="meV/atom", title="total energy, from its start; potential (grey), from its mean"
    )
    potential.plot(times[::every], run["potential"][::every] / size, color=OURS, label="learned")
    potential.plot(times[::every], np.array(truth) / size, color="black", linestyle=":", label="EMT, same positions")
    potential.set(xlabel="time, ps", ylabel="eV/atom", title="potential energy")
    potential.legend(frameon=False, fontsize=8)
    report.picture(figure, "dynamics", "Dynamics with the learned forces at constant energy, by velocity Verlet.")


EXPERIMENT = Experiment(ClusterData, describe)
main = EXPERIMENT.main

if __name__ == "__main__":
    main()
