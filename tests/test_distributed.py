"""Two processes on one machine, over gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from examples.common.logs import read_curve

TESTS = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), *sys.path]), "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this build of torch has no torch.distributed"
)


def test_two_processes_train_as_one_by_ddp_and_fsdp2(tmp_path):
    command = [sys.executable, str(TESTS / "distributed_training.py"), str(tmp_path / "rendezvous")]
    processes = [
        subprocess.Popen([*command, str(rank), "2"], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)


def run_experiment(folder: Path, *options: str) -> Path:
    """Twenty steps, in blocks of four; the run's folder."""
    config = TESTS.parent / "configs" / "signed_volume_o3_small.yaml"
    command = [sys.executable, "-m", "examples.signed_volume_o3", "fit", f"--config={config}", f"--runs={folder}"]
    command += [f"--data.{option}" for option in ("train=64", "val=16", "test=16", "validate_every=10", "block=4")]
    command += ["--trainer.max_steps=20", "--trainer.precision=64-true", "--trainer.enable_progress_bar=false"]
    done = subprocess.run(
        [*command, *options], cwd=folder, env=ENVIRONMENT, timeout=240, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "signed_volume_o3"


def test_an_experiment_on_two_processes_is_that_on_one_with_twice_the_batch(tmp_path):
    """Every step of a block takes the gradients of all processes, and the log their mean loss."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = run_experiment(tmp_path / "one", "--data.batch_size=8") / "version_0"
    two_devices = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    both = run_experiment(tmp_path / "two", "--data.batch_size=4", *two_devices) / "version_0"
    for curve in ("train/mse", "train/mse/mlp", "val/mse", "val/mse/mlp"):
        steps, errors = read_curve(both / "metrics.csv", curve)
        wanted_steps, wanted = read_curve(one / "metrics.csv", curve)
        assert steps == wanted_steps
        assert errors == pytest.approx(wanted, rel=1e-6), curve  # sums over a block are in float32
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (both, one)]
    for name, wanted in states[1].items():
        torch.testing.assert_close(states[0][name], wanted, rtol=1e-9, atol=1e-12)
