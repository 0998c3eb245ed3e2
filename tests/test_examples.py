"""The experiments: their data are the recipes', they run, go on exactly, and refuse bad input in one line."""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo.utils
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

from cliffnn.testing import randomize_parameters
from examples import convex_hulls_o5, jets_lorentz, regression_o5, signed_volume_o3, sweep, vortices_o2
from examples.common import cache
from examples.common.cli import ROOT
from examples.common.data import Blocks, Shuffle
from examples.common.logs import read_curve, read_rows
from examples.common.training import Training

# Enough of each experiment to see that all of it works.
FEW = ["--data.train=16", "--data.val=8", "--data.test=8"]
SMALL_DATA = {
    "nbody_o3": [f"--data.trajectories.{key}" for key in ("train=8", "val=4", "test=4", "stream=[8, 4, 4]")],
    "vortices_o2": FEW,
    "signed_volume_o3": FEW,
    "convex_hulls_o5": FEW,
    "regression_o5": FEW,
    "jets_lorentz": FEW,
    "forcefield_o3": [*FEW, "--data.picoseconds=0.02"],
}
LOSSES = {"jets_lorentz": "bce", "forcefield_o3": "energy_and_forces"}
QUICK = ["--data.batch_size=4", "--trainer.enable_progress_bar=false"]
# The cheapest of them, where any will do.
VOLUME = ["fit", f"--config={ROOT}/configs/signed_volume_o3_small.yaml", *FEW, *QUICK]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", SMALL_DATA)
def test_twenty_steps_of_each(name: str, folder: Path, capsys):
    module = importlib.import_module(f"examples.{name}")
    config = ROOT / "configs" / f"{name}_small.yaml"
    steps = ["--trainer.max_steps=20", "--data.validate_every=10"]
    figures = module.main(["fit", f"--config={config}", *steps, *SMALL_DATA[name], *QUICK])
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["trained"] != figures["untrained"]
    # float64, but null vectors, which jets are made of, lose half of the digits in their squares
    assert figures["equivariance"] < (1e-6 if name == "jets_lorentz" else 1e-10)
    run = folder / "runs" / name / "version_0"
    page = (run / "report.md").read_text()
    assert "| trained |" in page
    record = record_of(run)
    assert record["figures"] == figures
    assert (record["steps"], record["batch"]) == (20, 4)
    assert record["command"].startswith(f"python -m examples.{name} fit --config=")
    assert 0 < record["seconds"] < record["cpu_seconds"]
    assert record["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert "CPU" in record["device"]
    for picture in [*run.glob("*.png"), *run.glob("*.gif")]:
        assert picture.name in page
    assert read_curve(run / "metrics.csv", f"val/{LOSSES.get(name, 'mse')}")[0] == [10, 20]
    assert str(run.relative_to(folder)) in capsys.readouterr().out


def test_every_experiment_has_a_full_configuration():
    for name in SMALL_DATA:
        experiment = importlib.import_module(f"examples.{name}").EXPERIMENT
        config = ROOT / "configs" / f"{name}.yaml"
        cli = experiment.build(["fit", f"--config={config}", "--trainer.accelerator=cpu", "--trainer.devices=1"])
        assert cli.trainer.max_steps >= 65536, name


def test_the_gallery_cites_a_record_of_every_small_run():
    page = (ROOT / "docs" / "experiments.md").read_text()
    for name in SMALL_DATA:
        path = f"benchmarks/results/experiments/{name}.json"
        assert f"](../{path})" in page, name
        record = json.loads((ROOT / path).read_text())
        assert f"examples.{name} fit --config configs/{name}_small.yaml" in record["command"]
        assert record["commit"]
        assert "dirty" not in record["commit"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def replace_by_text(path: Path) -> None:
    path.write_text("no archive")


def replace_by_other_arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, numbers=np.zeros(3))


def change_a_number(path: Path) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    arrays["numbers"][0] += 1
    with path.open("wb") as file:
        np.savez(file, **arrays)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, replace_by_text, replace_by_other_arrays, change_a_number, empty])
def test_damaged_data_are_made_again(damage, tmp_path: Path):
    path = tmp_path / "data.npz"
    cache.load_or_make(path, "recipe", lambda: {"numbers": np.arange(5.0)})
    damage(path)
    again = cache.load_or_make(path, "recipe", lambda: {"numbers": np.arange(5.0)})
    np.testing.assert_array_equal(again["numbers"], np.arange(5.0))
    assert cache.read(path, "recipe") is not None
    assert list(tmp_path.iterdir()) == [path], "a temporary file was left behind"


def test_data_are_read_and_belong_to_one_recipe(tmp_path: Path):
    path = tmp_path / "data.npz"
    cache.load_or_make(path, "recipe", lambda: {"numbers": np.arange(5.0)})
    assert cache.read(path, "another recipe") is None
    cached = cache.load_or_make(path, "recipe", lambda: pytest.fail("made although cached"))
    np.testing.assert_array_equal(cached["numbers"], np.arange(5.0))


def test_data_that_cannot_be_stored_are_used_all_the_same(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="could not be stored") as caught:
        made = cache.load_or_make(tmp_path / "file" / "data.npz", "recipe", lambda: {"numbers": np.arange(5.0)})
    assert len(caught) == 1
    np.testing.assert_array_equal(made["numbers"], np.arange(5.0))


def test_shuffle_sees_every_sample_once_a_pass():
    whole = Shuffle(size=12, batch_size=3, seed=0)(0, 8, torch.device("cpu"))
    assert sorted(whole[:4].flatten().tolist()) == sorted(whole[4:].flatten().tolist()) == list(range(12))
    assert whole[:4].tolist() != whole[4:].tolist()
    assert Shuffle(size=12, batch_size=3, seed=1)(0, 4, torch.device("cpu")).tolist() != whole[:4].tolist()


@pytest.mark.parametrize("size", [5, 7, 100])
def test_shuffle_depends_on_the_step_alone(size: int):
    device = torch.device("cpu")
    whole = Shuffle(size, batch_size=3, seed=0)(0, 40, device)
    pieces = Shuffle(size, batch_size=3, seed=0)
    for start, count in [(0, 7), (7, 1), (8, 20), (28, 12)]:
        assert pieces(start, count, device).equal(whole[start : start + count])
    assert Shuffle(size, batch_size=3, seed=0)(13, 5, device).equal(whole[13:18])


def test_processes_share_a_step():
    device = torch.device("cpu")
    together = Shuffle(10, batch_size=4, seed=0)(0, 6, device)
    parts = [Shuffle(10, batch_size=2, seed=0, rank=rank, world_size=2)(0, 6, device) for rank in range(2)]
    assert torch.cat(parts, 1).equal(together)


def test_blocks_make_up_the_steps():
    assert list(Blocks(10, 4)) == [4, 4, 2]
    assert len(Blocks(10, 4)) == 3
    assert list(Blocks(8, 4)) == [4, 4]


def record_of(run: Path) -> dict:
    return json.loads((run / "figures.json").read_text())


def state_of(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [
        ("signed_volume_o3", 200, []),
        ("forcefield_o3", 120, ["--model.baselines=null", "--model.net.channels=2", "--model.net.layers=1"]),
    ],
)
def test_killed_run_goes_on_to_the_same_weights(name: str, steps: int, options: list[str], folder: Path):
    main = importlib.import_module(f"examples.{name}").main
    # Steps enough that it is killed half way, and blocks that do not divide the validations.
    long = [
        "fit",
        f"--config={ROOT}/configs/{name}_small.yaml",
        *SMALL_DATA[name],
        *QUICK,
        *options,
        f"--trainer.max_steps={steps}",
        "--data.validate_every=20",
        "--data.block=3",
        "--patience=1000",
    ]
    main([*long, "--run_name=whole"])
    cut = folder / "runs" / "cut" / "version_0"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"examples.{name}", *long, "--run_name=cut"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not any(row["step"] >= 65 for row in read_rows(cut / "metrics.csv")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert 60 <= state_of(cut)["global_step"] < steps
    main([*long, f"--ckpt_path={cut}/checkpoints/last.ckpt"])

    whole = folder / "runs" / "whole" / "version_0"
    for key, wanted in state_of(whole)["state_dict"].items():
        assert torch.equal(state_of(cut)["state_dict"][key], wanted), key
    assert (cut / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert record_of(cut)["figures"] == record_of(whole)["figures"]


def test_networks_train_beside_others_as_they_would_alone(folder: Path):
    steps = ["--trainer.max_steps=12", "--data.validate_every=12", "--model.clip=0.1"]
    both = signed_volume_o3.main([*VOLUME, *steps])
    alone = signed_volume_o3.main([*VOLUME, *steps, "--model.baselines=null"])
    assert both["trained"] == alone["trained"]
    assert "mlp" not in alone


def test_patience_stops_early(folder: Path):
    steps = ["--trainer.max_steps=80", "--data.validate_every=4", "--patience=2", "--model.learning_rate=0"]
    signed_volume_o3.main([*VOLUME, *steps])
    assert state_of(folder / "runs" / "signed_volume_o3" / "version_0")["global_step"] == 12


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_precision_is_a_flag(precision: str):
    steps = ["--trainer.max_steps=4", "--data.validate_every=4", f"--trainer.precision={precision}"]
    figures = signed_volume_o3.main([*VOLUME, *steps])
    assert math.isfinite(figures["trained"])


def test_seed_is_a_flag():
    def weights(seed: int) -> torch.Tensor:
        return nn.utils.parameters_to_vector(
            signed_volume_o3.EXPERIMENT.build([*VOLUME, f"--seed_everything={seed}"]).model.parameters()
        )

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_strategy_is_a_flag():
    strategies = [
        signed_volume_o3.EXPERIMENT.build([*VOLUME, *options]).trainer.strategy
        for options in ([], ["--trainer.strategy=ddp"], ["--trainer.strategy=ddp_spawn"])
    ]
    assert [type(strategy) for strategy in strategies] == [SingleDeviceStrategy, DDPStrategy, DDPStrategy]
    assert [strategy._start_method for strategy in strategies[1:]] == ["popen", "spawn"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # the compiler's own imports
def test_compile_is_a_flag(monkeypatch: pytest.MonkeyPatch):
    """The mode goes to torch.compile, and what it gives is trained as the plain one; inductor is left out for speed."""
    compiler, modes = torch.compile, []

    def cheap(function: Callable, mode: str) -> Callable:
        modes.append(mode)
        return compiler(function, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", cheap)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    steps = ["--trainer.max_steps=4", "--data.validate_every=4", "--model.net.channels=2", "--model.net.layers=1"]
    plain = signed_volume_o3.main([*VOLUME, *steps])
    assert not modes
    compiled = signed_volume_o3.main([*VOLUME, *steps, "--model.compile=max-autotune"])
    assert modes == ["max-autotune"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2, "one for each network"
    for name in ("trained", "mlp"):
        assert compiled[name] == pytest.approx(plain[name], rel=1e-4)


def test_best_checkpoint_is_measured_and_tested_again(folder: Path):
    steps = ["--trainer.max_steps=40", "--data.validate_every=4"]
    figures = signed_volume_o3.main([*VOLUME, *steps])
    run = folder / "runs" / "signed_volume_o3" / "version_0"
    tested = signed_volume_o3.main(["test", *VOLUME[1:], f"--ckpt_path={run}/checkpoints/best.ckpt"])
    assert tested["test/mse"] == pytest.approx(figures["trained"], rel=1e-5)
    errors = read_curve(run / "metrics.csv", "val/mse")[1]
    validated = signed_volume_o3.main(["validate", *VOLUME[1:], f"--ckpt_path={run}/checkpoints/best.ckpt"])
    assert validated["val/mse"] == pytest.approx(min(errors), rel=1e-5)


def test_sweep_runs_each_size_once(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    arguments = ["signed_volume_o3", *VOLUME[1:2], "--sizes", "4", "8", *VOLUME[2:]]
    arguments = [x.replace("--config=", "") if x.startswith("--config") else x for x in arguments]
    arguments.insert(1, "--config")
    arguments += ["--trainer.max_steps=4", "--data.validate_every=4"]
    results = sweep.main(arguments)
    assert results[4]["trained"] != results[8]["trained"]
    made = folder / "runs" / "signed_volume_o3_sweep"
    assert (made / "error_against_size.png").stat().st_size > 0
    records = json.loads((made / "figures.json").read_text())["samples"]
    assert {int(size): record["figures"] for size, record in records.items()} == results
    monkeypatch.setattr(signed_volume_o3, "main", lambda _: pytest.fail("run again"))
    assert sweep.main(arguments) == results


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data.foldr=data"], "foldr"),
        (["--modle.loss=mse"], "modle"),
        (["--model.loss=mae"], "mae"),
        (["--model.net.class_path=examples.nowhere.Net"], "nowhere"),
        (["--data.folder=no/such/folder"], "no/such"),
        (["--data.folder=a_file"], "a_file"),
        (["--data.batch_size=0"], "batch_size"),
        (["--data.train=0"], "train"),
        (["--trainer.max_steps=30", "--data.validate_every=20"], "validate_every"),
        (["--ckpt_path=a_file"], "a_file"),
        (["--ckpt_path=other.ckpt"], "another model"),
        (["--ckpt_path=weights.ckpt"], "weights alone"),
        (["--ckpt_path=no.ckpt"], "no.ckpt"),
        (["--trainer.accelerator=gpu"], "gpu"),
        (["--trainer.precision=float7"], "float7"),
        (["--threads=0"], "threads: got 0"),
        (["--patience=-1"], "patience: got -1"),
        (["--seed_everything=-1"], "-1"),
        (["--runs=a_file"], "runs: "),
        (["--runs=/proc/nope"], "runs: "),
        (["--model.compile=bogus"], "bogus"),
        (["--model.learning_rate=-1"], "model.learning_rate: got -1"),
        (["--model.weight_decay=-1"], "model.weight_decay"),
        (["--model.clip=-1"], "model.clip: got -1"),
        (["--model.warmup=5"], "model.warmup: got 5.0, wanted 0 to 1"),
        (["--model.decay=-1"], "model.decay"),
        (["--model.evaluation_batch=0"], "model.evaluation_batch"),
        (["--model.net.layers=0"], "layers: got 0"),
        (["--model.net.hidden=-3"], "hidden: got -3"),
        (["--model.net.class_path=torch.nn.Linear", "--model.net.in_features=-3", "--model.net.out_features=1"], "-3"),
        (["--data.seed=-1"], "data.seed: got -1"),
        (["--data.data_seed=-3"], "data.data_seed: got -3"),
        (["--trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches: got 2, wanted 1"),
        (["--trainer.gradient_clip_val=1"], "model.clip"),
        (["--trainer.limit_val_batches=0"], "trainer.limit_val_batches"),
        (["--trainer.max_epochs=1"], "trainer.max_epochs"),
        (["--trainer.enable_checkpointing=false"], "trainer.enable_checkpointing: got False, wanted null"),
        (["--trainer.logger=false"], "trainer.logger"),
    ],
)
@pytest.mark.parametrize("name", ["signed_volume_o3", "forcefield_o3"])
def test_bad_input_ends_in_one_line_and_leaves_nothing(name: str, args: list[str], message: str, folder: Path, refused):
    if message == "gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (folder / "a_file").write_text("nothing")
    torch.save({"state_dict": {"net.weight": torch.zeros(3)}}, folder / "other.ckpt")
    module = importlib.import_module(f"examples.{name}")
    small = ["fit", f"--config={ROOT}/configs/{name}_small.yaml", *SMALL_DATA[name], *QUICK]
    if "weights.ckpt" in args[0]:
        torch.save({"state_dict": module.EXPERIMENT.build(small).model.state_dict()}, folder / "weights.ckpt")
    before = sorted(folder.iterdir())
    line = refused(module.main, [*small, *args])
    assert line.startswith(f"{name}: ")
    assert message in line
    assert len(line) < 400, line
    assert sorted(folder.iterdir()) == before


class Broken(nn.Module):
    """A network with a mistake in it, which shows with so many samples."""

    def __init__(self, at_samples: int):
        super().__init__()
        self.at_samples = at_samples
        self.weight = nn.Parameter(torch.zeros(9))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        if len(vectors) == self.at_samples:
            raise ValueError("a mistake of the network")
        return vectors.flatten(1) @ self.weight


@pytest.mark.parametrize("samples", [8, 4])  # in the first evaluation, in the first step
def test_a_run_that_fails_before_its_first_step_shows_why_and_leaves_no_folder(
    samples: int, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(signed_volume_o3, "Broken", Broken, raising=False)
    broken = [f"--model.net={{class_path: examples.signed_volume_o3.Broken, init_args: {{at_samples: {samples}}}}}"]
    with pytest.raises(ValueError, match="a mistake of the network"):
        signed_volume_o3.main([*VOLUME, *broken, "--data.batch_size=4", "--model.baselines=null"])
    assert [path.name for path in folder.iterdir()] == ["data"]


def test_a_run_that_fails_later_keeps_what_it_has(folder: Path, monkeypatch: pytest.MonkeyPatch):
    step = Training.step

    def failing(training: Training, optimizer: torch.optim.Optimizer) -> None:
        if training.global_step == 6:
            raise RuntimeError("no memory")
        step(training, optimizer)

    monkeypatch.setattr(Training, "step", failing)
    with pytest.raises(RuntimeError, match="no memory"):
        signed_volume_o3.main([*VOLUME, "--trainer.max_steps=8", "--data.validate_every=4"])
    assert state_of(folder / "runs" / "signed_volume_o3" / "version_0")["global_step"] == 4


def test_nothing_is_reported_of_a_run_that_ends_before_its_first_validation(folder: Path, refused):
    assert "before its first validation" in refused(signed_volume_o3.main, [*VOLUME, "--trainer.max_time=00:00:00:00"])
    assert [path.name for path in folder.iterdir()] == ["data"]


def test_unknown_command_of_the_sweep_names_the_experiments(capsys):
    with pytest.raises(SystemExit):
        sweep.main(["volumes", "--config=x", "--sizes", "1"])
    assert "signed_volume_o3" in capsys.readouterr().err


def test_vortices_move_as_a_slow_integrator_says_and_keep_what_they_must():
    data = vortices_o2.VortexData(train=3, val=1, test=1)
    (vorticities, x, velocities, targets) = data.draw(np.random.default_rng(0), 3).values()
    for k in range(3):
        z = x[k, :, 0] + 1j * x[k, :, 1]

        def velocity(z: np.ndarray, gamma: np.ndarray) -> np.ndarray:
            return np.array([sum(1j * gamma[j] / np.conj(z[i] - z[j]) for j in range(4) if j != i) for i in range(4)])

        first = velocity(z, vorticities[k])
        np.testing.assert_allclose(velocities[k], np.stack([first.real, first.imag], -1), rtol=1e-12)
        steps = 2000
        for _ in range(steps):  # classical Runge-Kutta, in complex numbers
            h = 1 / steps
            a = velocity(z, vorticities[k])
            b = velocity(z + h / 2 * a, vorticities[k])
            c = velocity(z + h / 2 * b, vorticities[k])
            z = z + h / 6 * (a + 2 * b + 2 * c + velocity(z + h * c, vorticities[k]))
        np.testing.assert_allclose(targets[k], np.stack([z.real, z.imag], -1), atol=1e-7)
    # linear and angular impulse
    for positions in (x, targets):
        np.testing.assert_allclose((vorticities[..., None] * (positions - x)).sum(1), 0, atol=1e-8)
        squares = vorticities * ((positions**2).sum(-1) - (x**2).sum(-1))
        np.testing.assert_allclose(squares.sum(1), 0, atol=1e-7)


def mirrored_prediction_error(network: nn.Module) -> float:
    """How far a prediction of a mirrored flow is from the mirrored prediction."""
    data = vortices_o2.VortexData().draw(np.random.default_rng(0), 5).values()
    *inputs, _ = tensors = tuple(torch.from_numpy(array) for array in data)
    *mirrored, _ = vortices_o2.turned(tensors, 0.7, mirror=True)
    randomize_parameters(network.double(), torch.Generator().manual_seed(0), scale=0.1)
    network.requires_grad_(False)
    out = network(*inputs)
    (wanted,) = vortices_o2.turned((inputs[0], out), 0.7, mirror=True)[1:]
    return float((network(*mirrored) - wanted).norm() / wanted.norm())


def test_vorticity_is_a_pseudoscalar():
    assert mirrored_prediction_error(vortices_o2.VortexNetwork(4, 2)) < 1e-12
    assert mirrored_prediction_error(vortices_o2.VortexNetwork(4, 2, vorticity_grade=0)) > 1e-3


def test_mirrored_flows_are_flows():
    vorticities, x, velocities, _ = vortices_o2.VortexData().draw(np.random.default_rng(0), 5).values()
    tensors = tuple(torch.from_numpy(array) for array in (vorticities, x, velocities, x))
    gamma, y, v, _ = (tensor.numpy() for tensor in vortices_o2.turned(tensors, 0.3, mirror=True))
    np.testing.assert_allclose(vortices_o2.velocities_of(gamma, y), v, atol=1e-12)


def test_signed_volume_is_a_tenth_of_the_determinant():
    points, targets = signed_volume_o3.SignedVolumeData().draw(np.random.default_rng(0), 50).values()
    a, b, c = points.transpose(1, 0, 2)
    np.testing.assert_allclose(targets, (np.cross(a, b) * c).sum(-1) / 10, rtol=1e-10)


def test_hull_of_a_moved_and_scaled_set():
    points, volumes = convex_hulls_o5.ConvexHullData().draw(np.random.default_rng(0), 3).values()
    assert points.shape == (3, 16, 5)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))
    hull = convex_hulls_o5.ConvexHull(2 * points[0] @ rotation + 7)
    assert hull.volume == pytest.approx(2**5 * volumes[0])


def test_regression_is_standardised_by_what_is_trained_on(folder: Path):
    data = regression_o5.RegressionData(train=100, val=20, test=20, limit=50)
    data.prepare_data()
    vectors, targets = data.tensors("train")
    torch.testing.assert_close(vectors[:50].square().mean((0, 2)), torch.ones(2))
    assert targets[:50].mean().abs() < 1e-5
    assert targets[:50].std(correction=0) == pytest.approx(1, abs=1e-5)
    raw, values = data.arrays["test_vectors"], data.arrays["test_targets"]
    x1, x2 = raw[3]
    n1, n2 = math.sqrt(x1 @ x1), math.sqrt(x2 @ x2)
    assert values[3] == pytest.approx(math.sin(n1) - n2**3 / 2 + x1 @ x2 / (n1 * n2))
    difference = data.tensors("test")[1][3] - data.tensors("test")[1][4]
    assert float(difference) * math.sqrt(data.loss_unit) == pytest.approx(values[3] - values[4], rel=1e-4)


def test_jets_fall_apart_as_stated():
    momenta, labels = jets_lorentz.JetData().draw(np.random.default_rng(0), 4000).values()
    assert momenta.shape == (4000, 6, 4)
    np.testing.assert_allclose(jets_lorentz.mass_of(momenta), 0, atol=1e-6)
    mass = jets_lorentz.mass_of(momenta.sum(1))
    assert 0.6 - 1e-6 < mass.min() < 0.61
    assert 0.99 < mass.max() < 1 + 1e-6
    assert (np.diff(momenta[..., 0]) <= 0).all()
    speed = np.linalg.norm(momenta.sum(1)[:, 1:], axis=-1)
    assert 3 - 1e-6 < speed.min() < 3.05
    assert labels.mean() == pytest.approx(0.5, abs=0.03)
    # Both labels have the same mass and momentum, so these tell nothing.
    for total in (mass, speed):
        assert jets_lorentz.area_under_curve(total, labels) == pytest.approx(0.5, abs=0.03)


def test_the_papers_tagger_goes_by_configuration(folder: Path):
    config = f"--config={ROOT}/configs/jets_lorentz_small.yaml"
    net = "{class_path: examples.jets_lorentz.JetCGENN, init_args: {features: 4, channels: 2, layers: 1}}"
    steps = ["--trainer.max_steps=4", "--data.validate_every=4"]
    figures = jets_lorentz.main(["fit", config, f"--model.net={net}", *steps, *FEW, *QUICK])
    assert figures["trained"] != figures["untrained"]
    assert figures["equivariance"] < 1e-6
    assert (
        f"{sum(p.numel() for p in jets_lorentz.JetCGENN(4, 2, 1).parameters()):,} parameters"
        in (folder / "runs" / "jets_lorentz" / "version_0" / "report.md").read_text()
    )


def test_jets_of_the_papers_tagger_do_not_mix():
    network = jets_lorentz.JetCGENN(4, 2, 1).eval()
    momenta, _ = jets_lorentz.JetData().draw(np.random.default_rng(0), 5).values()
    momenta = torch.from_numpy(momenta).float()
    torch.testing.assert_close(network(momenta)[2:3], network(momenta[2:3]))


def test_boosts_keep_masses_and_undo_each_other():
    momenta, _ = jets_lorentz.JetData().draw(np.random.default_rng(0), 20).values()
    velocity = np.random.default_rng(1).normal(size=(20, 1, 3))
    seen = jets_lorentz.boosted(momenta, velocity)
    np.testing.assert_allclose(jets_lorentz.mass_of(seen.sum(1)), jets_lorentz.mass_of(momenta.sum(1)), rtol=1e-9)
    np.testing.assert_allclose(jets_lorentz.boosted(seen, -velocity), momenta, atol=1e-9)
    at_rest = np.array([2.0, 0, 0, 0])
    np.testing.assert_allclose(jets_lorentz.boosted(at_rest, np.array([0.75, 0, 0])), [2.5, 1.5, 0, 0])


def test_area_under_curve():
    assert jets_lorentz.area_under_curve(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])) == 0.75


def test_training_names_its_metrics():
    training = Training(nn.Linear(1, 1), {"mlp": nn.Linear(1, 1)})
    assert [training.metric("val", name) for name, _ in training.networks()] == ["val/mse", "val/mse/mlp"]
