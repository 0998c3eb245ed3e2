"""Small clusters of metals, shaken by heat, with energies and forces of the effective medium theory (EMT).

Each cluster is made in this way: each atom is of an element drawn at random; atoms are put one after the other into a
ball, at least 2.2 Å from all others, that grows for as long as there is no room; the cluster is relaxed for 40 steps
(FIRE); then Langevin dynamics with steps of 5 fs and a friction of 0.02 / fs, at a temperature drawn uniformly between
two limits, shake it, and every tenth step is a sample, eight of each cluster. Normal random numbers of 0.05 Å move the
atoms of every second one.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.optimize import FIRE

RELAXATION, INTERVAL, SAMPLES = 40, 10, 8
TIME_STEP, FRICTION = 5 * units.fs, 0.02 / units.fs
CLOSEST, DISPLACEMENT = 2.2, 0.05


def draw_cluster(rng: np.random.Generator, elements: list[str], size: int) -> Atoms:
    """A relaxed cluster of so many atoms, with EMT as its calculator."""
    # The ball grows as long as the next atom finds no room.
    radius, positions = 1.0, np.zeros((1, 3))
    while len(positions) < size:
        point = radius * rng.uniform(-1, 1, 3)
        if np.linalg.norm(point) < radius and np.linalg.norm(positions - point, axis=1).min() > CLOSEST:
            positions = np.vstack([positions, point])
        radius += 0.002
    atoms = Atoms(rng.choice(elements, size), positions, calculator=EMT())
    FIRE(atoms, logfile=None).run(fmax=0.01, steps=RELAXATION)
    return atoms


def heat(rng: np.random.Generator, atoms: Atoms, temperature: float) -> None:
    """Draw velocities from the Maxwell-Boltzmann distribution."""
    deviations = np.sqrt(units.kB * temperature / atoms.get_masses())
    atoms.set_velocities(deviations[:, None] * rng.normal(size=(len(atoms), 3)))


def shaken(rng: np.random.Generator, atoms: Atoms, temperature: float) -> list[Atoms]:
    """Samples of the cluster's dynamics, each with its own copy of the calculator."""
    heat(rng, atoms, temperature)
    dynamics = Langevin(atoms, TIME_STEP, temperature_K=temperature, friction=FRICTION, fixcm=False, rng=rng)
    samples = []
    for number in range(SAMPLES):
        dynamics.run(INTERVAL)
        sample = atoms.copy()
        sample.calc = EMT()
        if number % 2:
            sample.positions += rng.normal(scale=DISPLACEMENT, size=sample.positions.shape)
        samples.append(sample)
    return samples


def draw_samples(
    rng: np.random.Generator, count: int, elements: list[str], size: int, temperatures: tuple[float, float]
) -> dict[str, np.ndarray]:
    """So many samples of clusters, each cluster's one after the other.

    Returns
    -------
    dict of ndarray
        ``kinds`` ``(count, size, elements)``, 1 for the element that an atom is of; ``positions`` ``(count, size, 3)``
        in Å, their mean zero; ``targets`` ``(count, 1 + 3 size)``: energy in eV, then forces in eV/Å.
    """
    samples: list[Atoms] = []
    while len(samples) < count:
        samples += shaken(rng, draw_cluster(rng, elements, size), rng.uniform(*temperatures))
    kinds, positions, targets = [], [], []
    for atoms in samples[:count]:
        kinds.append(kinds_of(atoms, elements))
        positions.append(atoms.positions - atoms.positions.mean(0))
        targets.append(np.append(atoms.get_potential_energy(), atoms.get_forces()))
    return {"kinds": np.stack(kinds), "positions": np.stack(positions), "targets": np.stack(targets)}


def kinds_of(atoms: Atoms, elements: list[str]) -> np.ndarray:
    """1 for the element that an atom is of, ``(atoms, elements)``."""
    symbols = atoms.get_chemical_symbols()
    if unknown := sorted(set(symbols) - set(elements)):
        raise ValueError(f"elements: got atoms of {', '.join(unknown)}, wanted {', '.join(elements)} alone")
    return (np.array(symbols)[:, None] == elements).astype(float)
