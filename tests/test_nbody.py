"""The n-body example: its data are the published recipe's, its model is equivariant, its command line works."""

# ruff: noqa: NPY002 (the recipe is worded for numpy's global generator)

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cliffnn import functional as F
from cliffnn.testing import assert_equivariant, randomize_parameters
from examples.common.cli import ROOT
from examples.common.logs import read_curve
from examples.common.training import learning_rate_factor
from examples.nbody import simulation
from examples.nbody.simulation import Recipe, reflect_into_box, simulate
from examples.nbody_o3 import EXPERIMENT, NBodyNetwork, main

SMALL = Recipe(train=2, val=1, test=2, stream=(3, 2, 2), first_frame=0, last_frame=1)
TINY_RUN = [
    "--data.trajectories.train=8",
    "--data.trajectories.val=4",
    "--data.trajectories.test=4",
    "--data.trajectories.stream=[9, 5, 4]",
    "--data.batch_size=2",
    "--data.block=2",
    "--model.net.channels=4",
    "--model.net.layers=1",
    "--trainer.max_steps=3",
]


def draw_plainly(trajectories: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Initial states as the recipe words them: numpy's global generator, one trajectory after the other."""
    np.random.seed(43)
    states = []
    for _ in range(trajectories):
        charges = np.random.choice([-1, 0, 1], size=(5, 1), p=[0.5, 0, 0.5])
        positions = np.random.randn(3, 5)
        velocities = np.random.randn(3, 5)
        for particle in range(5):
            velocities[:, particle] *= 0.5 / np.sqrt(np.sum(velocities[:, particle] ** 2))
        np.random.randn(49, 3, 5)
        np.random.randn(49, 3, 5)
        states.append((charges[:, 0], positions.T, velocities.T))
    return states


def integrate_plainly(charges: np.ndarray, x: np.ndarray, v: np.ndarray, frames: int) -> list[np.ndarray]:
    """Positions (5, 3) at the first frames, with forces summed one pair at a time."""

    def force() -> np.ndarray:
        total = np.zeros((5, 3))
        for i in range(5):
            for j in range(5):
                if i != j:
                    r = x[i] - x[j]
                    total[i] += charges[i] * charges[j] * r / np.sqrt(r @ r) ** 3
        return np.clip(total, -100, 100)

    x, v, saved = x.copy(), v.copy(), []
    v += 0.001 * force()
    for step in range(1, 100 * frames + 1):
        x += 0.001 * v
        if step % 100 == 0:
            saved.append(x.copy())
        v += 0.001 * force()
    return saved


def test_trajectories_follow_the_recipe():
    # Slow in pure Python: all the way to frame 40 for one system, two frames for the others.
    data = simulate(SMALL, progress=False)
    states = draw_plainly(7)
    for split, system, position_in_stream in [("train", 1, 1), ("val", 0, 3), ("test", 0, 5), ("test", 1, 6)]:
        charges, x, v = states[position_in_stream]
        np.testing.assert_array_equal(data[f"{split}_charges"][system], charges)
        expected = integrate_plainly(charges, x, v, frames=2)
        np.testing.assert_allclose(data[f"{split}_positions"][system], expected, rtol=1e-6, atol=1e-6)

    far = simulate(replace(SMALL, first_frame=30, last_frame=40), progress=False)
    expected = integrate_plainly(*states[0], frames=41)[30:]
    np.testing.assert_allclose(far["train_positions"][0], expected, rtol=1e-6, atol=1e-6)


def test_velocities_are_those_that_move_the_next_positions():
    # One time step after a frame, positions have moved by dt v plus dt^2 times a force of order one.
    data = simulate(SMALL, progress=False)
    charges, x, v = draw_plainly(1)[0]
    path = integrate_plainly(charges, x, v, frames=2)
    drift = (path[1] - path[0]) / (100 * simulation.TIME_STEP)
    np.testing.assert_allclose(data["train_velocities"][0].mean(0), drift, atol=0.05)


def test_test_set_does_not_depend_on_how_much_is_trained_on():
    few, many = (simulate(replace(SMALL, train=train), progress=False) for train in (1, 3))
    for name in ("val_positions", "test_positions", "test_velocities", "test_charges"):
        np.testing.assert_array_equal(few[name], many[name])
    np.testing.assert_array_equal(few["train_positions"], many["train_positions"][:1])


def test_chunks_do_not_change_the_data(monkeypatch: pytest.MonkeyPatch):
    whole = simulate(replace(SMALL, train=3), progress=False)
    monkeypatch.setattr(simulation, "CHUNK", 2)
    pieces = simulate(replace(SMALL, train=3), progress=False)
    np.testing.assert_allclose(pieces["train_positions"], whole["train_positions"], rtol=1e-6)


def test_starting_outside_the_box_is_reflected():
    positions = np.array([[[6.0, -5.5, 1.0, 0.0, 4.9]] * 3])
    velocities = np.array([[[0.3, -0.2, 0.1, -0.1, 0.2]] * 3])
    x, v = reflect_into_box(positions, velocities)
    np.testing.assert_allclose(x[0, 0], [4.0, -4.5, 1.0, 0.0, 4.9])
    np.testing.assert_allclose(v[0, 0], [-0.3, 0.2, 0.1, -0.1, 0.2])


@pytest.mark.parametrize("changes", [{"train": 4}, {"test": 0}, {"first_frame": 2}, {"first_frame": -1}])
def test_impossible_recipe_is_refused(changes: dict[str, int]):
    with pytest.raises(ValueError, match=r"^data\.trajectories\.\w+.*: got .* wanted"):
        replace(SMALL, **changes)


@pytest.fixture(scope="module")
def network() -> NBodyNetwork:
    generator = torch.Generator().manual_seed(0)
    network = NBodyNetwork(channels=6, layers=2).double()
    # Biases start at zero, where they break nothing.
    randomize_parameters(network, generator, scale=0.1)
    return network


def random_systems(count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    charges = torch.randint(2, (count, 5), generator=generator).double() * 2 - 1
    positions, velocities = torch.randn(2, count, 5, 3, generator=generator, dtype=torch.float64)
    return charges, positions, velocities


def test_network_is_equivariant_under_rotations_and_reflections(network: NBodyNetwork):
    charges, positions, velocities = random_systems()

    def predict(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = network(charges, F.extract(x, 1, "R3").squeeze(-1), F.extract(v, 1, "R3").squeeze(-1))
        return F.embed(out[..., None], 1, "R3")

    inputs = [F.embed(x[..., None], 1, "R3") for x in (positions, velocities)]
    assert_equivariant(predict, "R3", *inputs, tolerance=1e-11)


def test_network_follows_translations_and_permutations(network: NBodyNetwork):
    charges, positions, velocities = random_systems()
    out = network(charges, positions, velocities)
    shift = torch.tensor([3.0, -2.0, 7.0], dtype=torch.float64)
    torch.testing.assert_close(network(charges, positions + shift, velocities), out + shift)
    order = [3, 0, 4, 1, 2]
    permuted = network(charges[:, order], positions[:, order], velocities[:, order])
    torch.testing.assert_close(permuted, out[:, order])


def test_every_particle_hears_from_every_other(network: NBodyNetwork):
    charges, positions, velocities = random_systems(1)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(charges, x, velocities), positions)
    assert isinstance(jacobian, torch.Tensor)
    assert (jacobian.abs().amax((0, 2, 3, 5)) > 1e-8).all()


def test_learning_rate_rises_stays_and_falls():
    steps, warmup, decay = 6400, 1 / 64, 1 / 4
    factors = [learning_rate_factor(step, steps, warmup, decay) for step in range(steps)]
    assert factors[0] < 1e-3
    assert factors[49] == pytest.approx(0.5, abs=0.02)
    assert set(factors[100:4800]) == {1.0}
    assert factors[5600] == pytest.approx(0.5)
    assert factors[-1] < 1e-5
    assert learning_rate_factor(0, 10, 0.0, 0.0) == 1.0


def test_three_steps_through_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    results = main(TINY_RUN)
    assert all(np.isfinite(value) for value in results.values())
    assert results["equivariance"] < 1e-12
    assert results["trained"] != results["untrained"]
    printed = capsys.readouterr().out
    for row in ("constant velocity", "untrained", "trained", "equivariance error", "runs/nbody_o3/version_0"):
        assert row in printed
    run = tmp_path / "runs" / "nbody_o3" / "version_0"
    names = ["config.yaml", "metrics.csv", "trajectories.png", "learning_curve.png", "report.md", "figures.json"]
    for name in [*names, "checkpoints/best.ckpt", "checkpoints/last.ckpt"]:
        assert (run / name).stat().st_size > 0, name
    assert list(run.glob("events.out.tfevents.*"))
    assert "trajectories.png" in (run / "report.md").read_text()

    # The saved configuration is a run of its own, and a checkpoint can be gone on with, in the same folder.
    more = ["--trainer.max_steps=5", "--data.validate_every=1", f"--ckpt_path={run}/checkpoints/last.ckpt"]
    again = main([f"--config={run}/config.yaml", *more])
    assert again["untrained"] == results["untrained"]
    steps, _ = read_curve(run / "metrics.csv", "train/mse")
    assert steps == [2, 3, 4, 5]


def test_published_configuration_is_the_papers():
    cli = EXPERIMENT.build(["--config", str(ROOT / "configs" / "nbody_o3.yaml"), "--trainer.accelerator=cpu"])
    published = {"learning_rate": 0.004, "weight_decay": 1e-4, "warmup": 1 / 64, "decay": 0.25}
    assert {name: getattr(cli.model, name) for name in published} == published
    assert (cli.datamodule.batch_size, cli.trainer.max_steps) == (100, 131_072)
    assert cli.datamodule.trajectories == Recipe(train=3000, val=2000, test=2000)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.net.chanels=3"], "chanels"),
        (["--config=missing.yaml"], "missing.yaml"),
        (["--ckpt_path=missing.ckpt"], "missing.ckpt"),
        (["--trainer.max_steps=many"], "many"),
        (["--trainer.max_steps=-1"], "max_steps"),
        (["--model.net.channels=0"], "channels"),
        (["--data.trajectories.train=20000"], "train"),
        (["--data.trajectories.seed=-1"], "trajectories.seed: got -1"),
        (["--data.trajectories.first_frame=50"], "first_frame"),
    ],
)
def test_wrong_configuration_ends_in_one_clear_line(args: list[str], message: str, refused):
    line = refused(main, args)
    assert line.startswith("nbody_o3: ")
    assert message in line


@pytest.mark.parametrize("command", [["examples/nbody_o3.py"], ["-m", "examples.nbody_o3"]])
def test_runs_as_script_and_as_module(command: list[str]):
    result = subprocess.run(
        [sys.executable, *command, "--model.net.channels=none"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "channels" in result.stderr
    assert "Traceback" not in result.stderr
