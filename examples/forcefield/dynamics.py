"""Molecular dynamics with a learned force field, through ASE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from torch import nn

from examples.forcefield.clusters import heat, kinds_of

TIME_STEP, INTERVAL = 2.0, 10  # in fs; steps between two records


class LearnedCalculator(Calculator):
    """A force field as ASE wants one.

    Parameters
    ----------
    network : Module
        A `ForceField`.
    elements : sequence of str
        In the order that the network was trained with.
    references : sequence of float
        Energy of an atom of each, which the network's energies leave out.

    Raises
    ------
    ValueError
        In a calculation, for atoms of another element.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, network: nn.Module, elements: Sequence[str], references: Sequence[float]):
        super().__init__()
        self.network, self.elements, self.references = network.eval(), list(elements), np.asarray(references)

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        kinds = kinds_of(self.atoms, self.elements)
        like = next(self.network.parameters())
        inputs = (torch.from_numpy(x)[None].to(like) for x in (kinds, self.atoms.positions))
        with torch.no_grad():
            energy, *forces = self.network(*inputs)[0].tolist()
        self.results = {"energy": energy + kinds.sum(0) @ self.references, "forces": np.reshape(forces, (-1, 3))}


def constant_energy_run(atoms: Atoms, temperature: float, picoseconds: float) -> dict[str, np.ndarray]:
    """Dynamics by velocity Verlet: times in ps, potential and total energy in eV, and positions.

    It starts with velocities of a temperature in K, without turning or moving as a whole.
    """
    heat(np.random.default_rng(0), atoms, temperature)
    Stationary(atoms)
    ZeroRotation(atoms)
    dynamics = VelocityVerlet(atoms, TIME_STEP * units.fs)
    records: dict[str, list[Any]] = {"times": [], "potential": [], "total": [], "positions": []}

    def record() -> None:
        records["times"].append(dynamics.nsteps * TIME_STEP / 1000)
        records["potential"].append(atoms.get_potential_energy())
        records["total"].append(atoms.get_total_energy())
        records["positions"].append(atoms.positions.copy())

    dynamics.attach(record, interval=INTERVAL)
    dynamics.run(round(1000 * picoseconds / TIME_STEP))
    return {name: np.array(values) for name, values in records.items()}
