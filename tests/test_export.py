"""Exported programs as files: saved and loaded, and compiled ahead of time for a process that has no cliffnn."""

import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

from cliffnn import Algebra
from cliffnn.layers import MVLinear, SGPNormBlock

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),  # inductor's own imports
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),  # torch.export's own use
]


def exported(algebra, rows=5):
    model = nn.Sequential(MVLinear(2, 6, algebra), SGPNormBlock(6, algebra), MVLinear(6, 1, algebra))
    x = torch.randn(rows, len(Algebra(algebra)), 2)
    return model, torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def operators(program):
    return {str(node.target) for node in program.graph.nodes if str(node.target).startswith("cliffnn.")}


@pytest.mark.parametrize(("algebra", "opaque"), [("R2", False), ("R3", False), ("R5", True)])
def test_operators_stay_until_decomposed(algebra, opaque):
    model, program = exported(algebra)
    assert operators(program) == {"cliffnn.geometric_op.default"}
    decomposed = program.run_decompositions()
    assert bool(operators(decomposed)) == opaque
    x = torch.randn(11, len(Algebra(algebra)), 2)
    torch.testing.assert_close(decomposed.module()(x), model(x))


def test_saved_and_loaded(tmp_path):
    model, program = exported("R2")
    torch.export.save(program, tmp_path / "model.pt2")
    x = torch.randn(11, 4, 2)
    assert torch.equal(torch.export.load(tmp_path / "model.pt2").module()(x), model(x))


def network():
    model, program = exported("R2")
    return model, program, (torch.randn(11, 4, 2),)


def nbody_model():
    from examples.nbody_o3 import NBodyNetwork

    def systems(count):
        return torch.randn(count, 4), torch.randn(count, 4, 3), torch.randn(count, 4, 3)

    model, batch = NBodyNetwork(channels=2, layers=1), torch.export.Dim("batch")
    return model, torch.export.export(model, systems(3), dynamic_shapes=({0: batch},) * 3), systems(7)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, which compiles the package")
@pytest.mark.parametrize("example", [network, nbody_model])
def test_compiled_ahead_of_time_for_a_process_without_cliffnn(tmp_path, monkeypatch, example):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    # it would fill memory in the compiled code, too
    torch.set_deterministic_debug_mode("default")
    model, program, inputs = example()
    package = torch._inductor.aoti_compile_and_package(
        program.run_decompositions(), package_path=str(tmp_path / "model.pt2")
    )
    with torch.no_grad():
        torch.save({"inputs": inputs, "out": model(*inputs)}, tmp_path / "example.pt")
    script = (
        "import sys, torch;"
        f"example = torch.load({str(tmp_path / 'example.pt')!r});"
        f"model = torch._inductor.aoti_load_package({package!r});"
        "torch.testing.assert_close(model(*example['inputs']), example['out']);"
        "assert 'cliffnn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
