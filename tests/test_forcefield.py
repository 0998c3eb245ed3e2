"""The force field: data are EMT's, forces gradients of a smooth energy, and ASE moves atoms with it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT

from cliffnn import functional as F
from cliffnn.testing import apply_versor, random_versor, randomize_parameters
from examples import forcefield_o3
from examples.common.training import LOSSES
from examples.forcefield.clusters import draw_samples, kinds_of
from examples.forcefield.dynamics import LearnedCalculator, constant_energy_run
from examples.forcefield.network import ForceField

ELEMENTS = ["Al", "Cu", "Pt"]


def force_field(products: bool = True, cutoff: float = 6.0) -> ForceField:
    network = ForceField(3, 4, 2, cutoff=cutoff, products=products).double()
    randomize_parameters(network, torch.Generator().manual_seed(0), scale=0.3)
    return network.eval()


def clusters(size: int = 6, count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """One-hot elements, and positions on a grid, shaken: no two atoms are close."""
    generator = torch.Generator().manual_seed(1)
    kinds = torch.eye(3, dtype=torch.float64)[torch.randint(3, (count, size), generator=generator)]
    grid = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 2, torch.arange(size // 2 * 1.0).double())
    return kinds, 2.5 * grid[:size] + 0.4 * torch.randn(count, size, 3, dtype=torch.float64, generator=generator)


def test_samples_are_those_of_emt():
    data = draw_samples(np.random.default_rng(0), 10, ELEMENTS, 5, (300.0, 1000.0))
    assert {name: array.shape for name, array in data.items()} == {
        "kinds": (10, 5, 3),
        "positions": (10, 5, 3),
        "targets": (10, 16),
    }
    np.testing.assert_array_equal(data["kinds"].sum(-1), 1)
    np.testing.assert_allclose(data["positions"].mean(1), 0, atol=1e-12)
    for kinds, positions, targets in zip(*data.values(), strict=True):
        atoms = Atoms([ELEMENTS[k] for k in kinds.argmax(-1)], positions, calculator=EMT())
        assert atoms.get_potential_energy() == pytest.approx(targets[0])
        np.testing.assert_allclose(atoms.get_forces().ravel(), targets[1:], atol=1e-9)
    again = draw_samples(np.random.default_rng(0), 10, ELEMENTS, 5, (300.0, 1000.0))
    np.testing.assert_array_equal(again["targets"], data["targets"])


def test_references_are_those_of_what_is_trained_on():
    data = forcefield_o3.ClusterData(limit=3)
    kinds = np.eye(3)[[[0, 1], [0, 2], [1, 2], [1, 1]]]
    energies = np.array([3.0, 4.0, 5.0, 1000.0])
    targets = np.concatenate([energies[:, None], np.zeros((4, 6))], 1)
    data.arrays = {"train_kinds": kinds, "train_positions": np.zeros((4, 2, 3)), "train_targets": targets}
    np.testing.assert_allclose(data.references, [1, 2, 3])
    torch.testing.assert_close(data.tensors("train")[-1][:3, 0], torch.zeros(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("products", [True, False])
def test_forces_are_minus_the_gradient(products: bool):
    network = force_field(products)
    kinds, positions = clusters(count=1)
    _, *forces = network(kinds, positions)[0].tolist()
    step = 1e-5
    for k in range(0, positions.numel(), 4):
        moved = torch.zeros(positions.numel(), dtype=torch.float64)
        moved[k] = step
        energies = [network.energy(kinds, positions + sign * moved.view_as(positions)).item() for sign in (1, -1)]
        assert forces[k] == pytest.approx((energies[1] - energies[0]) / (2 * step), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("products", [True, False])
@pytest.mark.parametrize("odd", [False, True])
def test_moved_turned_and_mirrored_clusters(products: bool, odd: bool):
    network = force_field(products)
    kinds, positions = clusters()
    versor = random_versor("R3", odd, torch.Generator().manual_seed(2))

    def turn(x: torch.Tensor) -> torch.Tensor:
        return F.extract(apply_versor(versor, F.embed(x[..., None], 1, "R3"), "R3"), 1, "R3")[..., 0]

    out, moved = network(kinds, positions), network(kinds, turn(positions) + torch.tensor([3.0, -5.0, 7.0]))
    torch.testing.assert_close(moved[:, 0], out[:, 0], rtol=1e-10, atol=1e-10)
    turned = turn(forcefield_o3.forces_of(out))
    torch.testing.assert_close(forcefield_o3.forces_of(moved), turned, rtol=1e-9, atol=1e-9)
    permuted = network(kinds.flip(1), positions.flip(1))
    torch.testing.assert_close(permuted[:, 0], out[:, 0], rtol=1e-10, atol=1e-10)


def test_energies_of_clusters_far_apart_add_up():
    network = force_field()
    kinds, positions = clusters(count=2)
    apart = positions + torch.tensor([[[0.0, 0, 0]], [[100.0, 0, 0]]])
    together = network.energy(kinds.flatten(0, 1)[None], apart.flatten(0, 1)[None])
    torch.testing.assert_close(together, network.energy(kinds, positions).sum(0, keepdim=True))


def test_atoms_leave_each_others_sight_smoothly():
    """Forces and two of their derivatives go to zero at the cutoff."""
    network = force_field(cutoff=4.0)
    kinds = torch.eye(3, dtype=torch.float64)[None, :2]
    forces = [
        network(kinds, torch.tensor([[[0.0, 0, 0], [4.0 - gap, 0, 0]]], dtype=torch.float64))[0, 1].abs().item()
        for gap in (1.0, 0.02, 0.01, -0.01)
    ]
    assert forces[0] > 1e-3
    assert forces[3] == 0
    assert forces[2] / forces[1] == pytest.approx(1 / 8, rel=0.1)  # a third power


def test_training_differentiates_forces():
    network = force_field()
    network.train()
    kinds, positions = clusters()
    target = torch.randn(4, 19, dtype=torch.float64)
    weight = network.layers[0].edge.weight

    def loss() -> torch.Tensor:
        return LOSSES["energy_and_forces"](network(kinds, positions), target)

    (slope,) = torch.autograd.grad(loss(), weight)
    direction, step = torch.randn_like(weight), 1e-6
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
        losses.append(loss().item())
        with torch.no_grad():
            weight -= sign * step * direction
    assert (slope * direction).sum().item() == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-5)


def test_loss_of_energies_and_forces():
    prediction, target = torch.zeros(2, 7), torch.zeros(2, 7)
    target[0, 0], target[1, 3] = 4.0, 6.0
    assert LOSSES["energy_and_forces"](prediction, target).item() == pytest.approx(10 * 4 / 2 + 36 / 12)


def test_dynamics_keep_the_energy_and_use_the_network():
    network = force_field()
    _, positions = clusters(size=4)
    atoms = Atoms("AlCuPtCu", positions[0].numpy())
    atoms.calc = LearnedCalculator(network, ELEMENTS, [1.0, 2.0, 3.0])
    energy, *forces = network(torch.from_numpy(kinds_of(atoms, ELEMENTS))[None], positions[:1])[0].tolist()
    assert atoms.get_potential_energy() == pytest.approx(energy + 8.0)
    np.testing.assert_allclose(atoms.get_forces().ravel(), forces)
    run = constant_energy_run(atoms, 50.0, 0.2)
    assert run["times"][-1] == pytest.approx(0.2)
    kinetic = run["total"] - run["potential"]
    assert np.ptp(run["total"]) < 0.01 * np.ptp(kinetic)


def test_calculator_refuses_other_elements():
    atoms = Atoms("CuAu", [[0, 0, 0], [0, 0, 2.5]])
    atoms.calc = LearnedCalculator(force_field(), ELEMENTS, [0.0] * 3)
    with pytest.raises(ValueError, match="elements: got atoms of Au, wanted Al, Cu, Pt alone"):
        atoms.get_potential_energy()


@pytest.mark.parametrize(
    "option", ["elements=[Al, Fe]", "atoms=1", "coldest=2000", "picoseconds=-1", "temperature=-300"]
)
def test_bad_data_end_in_one_line(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused):
    monkeypatch.chdir(tmp_path)
    line = refused(forcefield_o3.main, [f"--data.{option}"])
    assert re.match(rf"forcefield_o3: .*data\.{option.partition('=')[0]}.*: got.*wanted", line)
    assert not list(tmp_path.iterdir())
