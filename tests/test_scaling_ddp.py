"""The benchmark of several devices, on two processes of a CPU."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import scaling_ddp

TINY = scaling_ddp.Size(nbody=2, wide=8, channels=4, blocks=2, budget=0.01, rounds=1)

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this build of torch has no torch.distributed"
)


def test_two_processes_have_the_losses_of_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(scaling_ddp, "SMALL", TINY)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    scaling_ddp.main(["--small", f"--output={tmp_path}/scaling.json"])
    content = json.loads((tmp_path / "scaling.json").read_text())
    assert (content["devices"], content["backend"]) == (2, "gloo")
    assert [result["case"] for result in content["results"]] == ["ddp", "fsdp2"]
    for result in content["results"]:
        assert min(result["samples_per_second"]) > 0
        assert result["losses"][-1] < result["losses"][0]


def test_nothing_is_reported_where_losses_differ():
    one = {name: {"losses": [1.0, 0.5], "seconds": 1.0} for name in scaling_ddp.CASES}
    many = {**one, "fsdp2": {**one["fsdp2"], "losses": [1.0, 0.5 + 1e-7]}}
    with pytest.raises(SystemExit, match="fsdp2: losses on 2 devices differ"):
        scaling_ddp.compared(one, many, 2, TINY)


def test_one_device_is_none_to_scale_to(capsys):
    with pytest.raises(SystemExit):
        scaling_ddp.main(["--devices=1"])
    assert "--devices: got 1, wanted at least 2" in capsys.readouterr().err
