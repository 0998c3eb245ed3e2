"""Training whose steps take all they need from the device: as a plain loop, and as a CUDA graph."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from examples import nbody_o3, signed_volume_o3
from examples.common.cli import ROOT
from examples.common.data import Schedule, Shuffle
from examples.common.training import Training, learning_rate_factor

STEPS, BATCH = 24, 4
VOLUME = [
    "fit",
    f"--config={ROOT}/configs/signed_volume_o3_small.yaml",
    *("--data.train=16", "--data.val=8", "--data.test=8", f"--data.batch_size={BATCH}"),
    *(f"--trainer.max_steps={STEPS}", "--data.validate_every=12", "--data.block=5"),
    *("--model.warmup=0.25", "--model.decay=0.5", "--model.weight_decay=0.01", "--model.clip=0.1"),
    "--trainer.enable_progress_bar=false",
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(name: str, *arguments: str) -> dict:
    """The last checkpoint of a run."""
    signed_volume_o3.main([*VOLUME, f"--run_name={name}", *arguments])
    return last(name)


def last(name: str) -> dict:
    path = Path("runs") / name / "version_0" / "checkpoints" / "last.ckpt"
    return torch.load(path, map_location="cpu", weights_only=True)


def assert_same_weights(got: dict, wanted: dict) -> None:
    assert got["global_step"] == wanted["global_step"]
    assert got["state_dict"].keys() == wanted["state_dict"].keys()
    for name, value in wanted["state_dict"].items():
        assert torch.equal(got["state_dict"][name], value), name


def test_schedule_hands_out_one_step_after_the_other():
    schedule = Schedule(block=4, orders=2, batch_size=3, device=torch.device("cpu"))
    rate = schedule.rate
    for count in (4, 2):
        samples, rates = torch.randint(100, (count, 2, 3)), torch.rand(count)
        schedule.begin(samples, rates)
        for k in range(count):
            assert torch.equal(schedule.advance(), samples[k])
            assert rate == rates[k]


@pytest.mark.parametrize("own_order", [False, True])
def test_a_run_is_the_plain_loop(own_order: bool):
    """Adam, the schedule, clipping and both networks, written down once more."""
    checkpoint = train("run", "--trainer.accelerator=cpu", f"--model.own_order={own_order}")
    cli = signed_volume_o3.EXPERIMENT.build([*VOLUME, "--trainer.accelerator=cpu"])
    cli.datamodule.prepare_data()
    training = cli.model
    tensors = cli.datamodule.tensors("train")
    for k, (_, net) in enumerate(training.networks()):
        optimizer = torch.optim.Adam(net.parameters(), weight_decay=0.01)
        order = Shuffle(16, BATCH, seed=k * own_order)(0, STEPS, torch.device("cpu"))
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = training.learning_rate * learning_rate_factor(step, STEPS, 0.25, 0.5)
            points, volumes = (x[order[step]] for x in tensors)
            optimizer.zero_grad()
            nn.functional.mse_loss(net(points), volumes).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            optimizer.step()
    assert checkpoint["global_step"] == STEPS
    for name, wanted in training.state_dict().items():
        torch.testing.assert_close(checkpoint["state_dict"][name], wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.capture=true"], "model.capture"),
        (["--model.capture=true", "--model.compile=reduce-overhead"], "model.compile"),
    ],
)
def test_what_cannot_be_captured_is_refused(args: list[str], message: str, folder: Path, refused):
    assert message in refused(signed_volume_o3.main, [*VOLUME, "--trainer.accelerator=cpu", *args])
    assert not list(folder.iterdir())


@pytest.fixture
def half_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the checkpoint of the first validation, when the second comes."""
    errors = Training.errors

    def keeping(training: Training, split: str) -> dict[str, float]:
        for path in Path("runs").glob("*/version_0/checkpoints/last.ckpt"):
            if not path.with_name("half.ckpt").exists():
                shutil.copy(path, path.with_name("half.ckpt"))
        return errors(training, split)

    monkeypatch.setattr(Training, "errors", keeping)


def continued(name: str, *arguments: str) -> dict:
    """The last checkpoint of a run that goes on from the middle."""
    path = Path("runs") / name / "version_0" / "checkpoints"
    assert torch.load(path / "half.ckpt", map_location="cpu", weights_only=True)["global_step"] == STEPS // 2
    (path / "last.ckpt").unlink()
    return train(name, *arguments, f"--ckpt_path={path}/half.ckpt")


@pytest.mark.usefixtures("half_way")
def test_a_run_goes_on_in_its_own_order_of_samples():
    options = ["--trainer.accelerator=cpu", "--model.own_order=true"]
    wanted = train("run", *options)
    assert_same_weights(continued("run", *options), wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # the compiler's own imports
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.usefixtures("half_way")
@pytest.mark.parametrize("compiled", ["null", "default"])
def test_captured_training_is_the_plain_one(compiled: str):
    """To the bit, with networks side by side, and from the middle on, in the same way or the other."""
    # capture forbids it: torch then asks where memory is filled
    torch.set_deterministic_debug_mode("default")
    options = ["--trainer.accelerator=gpu", "--trainer.devices=1", f"--model.compile={compiled}"]
    options.append("--model.own_order=true")
    wanted = train("plain", *options)
    assert_same_weights(train("captured", *options, "--model.capture=true"), wanted)
    logs = [(Path("runs") / name / "version_0" / "metrics.csv").read_text() for name in ("plain", "captured")]
    assert logs[0] == logs[1]
    assert_same_weights(continued("captured", *options, "--model.capture=true"), wanted)
    assert_same_weights(continued("plain", *options, "--model.capture=true"), wanted)
    assert_same_weights(continued("captured", *options), wanted)


def test_seeds_side_by_side_are_trained_as_published():
    single, seeds = (
        nbody_o3.EXPERIMENT.build([f"--config={ROOT}/configs/{name}.yaml", "--trainer.accelerator=cpu", *rest])
        for name, rest in (("nbody_o3", []), ("nbody_o3_seeds", ["--model.capture=false"]))
    )
    for name in ("learning_rate", "weight_decay", "warmup", "decay", "clip", "loss"):
        assert getattr(seeds.model, name) == getattr(single.model, name)
    assert seeds.trainer.max_steps == single.trainer.max_steps
    assert seeds.datamodule.batch_size == single.datamodule.batch_size
    assert seeds.datamodule.trajectories == single.datamodule.trajectories
    shapes = [p.shape for p in single.model.net.parameters()]
    first = {float(next(net.parameters()).detach().flatten()[0]) for _, net in seeds.model.networks()}
    assert len(first) == 3, "networks start with the same weights"
    for _, net in seeds.model.networks():
        assert [p.shape for p in net.parameters()] == shapes
