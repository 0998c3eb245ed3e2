"""What a model needs is made ahead of time: in parallel, with nothing run on a GPU and nothing changed."""

import copy
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

import cliffnn
from cliffnn import ahead, cache
from cliffnn.layers import Invariants, MVLinear, SGPNormBlock
from cliffnn.operation import operation


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache folder, and nothing in memory."""
    monkeypatch.setenv("CLIFFNN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "_modules", {})
    return tmp_path


def forces(block, x):
    x = x.requires_grad_()
    (force,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
    return force


def training_step(block, x):
    block(x).sum().backward()


def step_with_forces(block, x):
    forces(block, x).square().sum().backward()


@pytest.mark.parametrize(("step", "second"), [(training_step, False), (step_with_forces, True)])
def test_a_later_step_generates_nothing(fresh, monkeypatch, step, second):
    block, x = SGPNormBlock(3, "R2"), torch.randn(1, 4, 3)
    if second:
        cliffnn.warmup(lambda x: forces(block, x), x)
    else:
        cliffnn.warmup(block, x)
    monkeypatch.setattr(cache, "_modules", {})
    monkeypatch.setattr(cache, "_execute", only_from_disk(cache._execute))
    step(block, torch.randn(10, 4, 3))


def only_from_disk(execute):
    return lambda path, generate: execute(path, lambda: pytest.fail(f"generated {path.name}"))


SECOND_START = """
import sys, torch
from cliffnn.layers import SGPNormBlock
SGPNormBlock(3, "R2")(torch.ones(5, 4, 3)).sum().backward()
assert not {"kingdon", "sympy", "torch._dynamo"} & set(sys.modules)
"""


def test_a_second_start_imports_no_generator(fresh):
    """It reads what is on disk: importing kingdon, and sympy with it, takes longer."""
    cliffnn.warmup(SGPNormBlock(3, "R2"), torch.randn(1, 4, 3))
    subprocess.run([sys.executable, "-c", SECOND_START], check=True)


def test_without_gradients_only_the_forward(fresh):
    with torch.no_grad():
        cliffnn.warmup(SGPNormBlock(3, "R2"), torch.randn(1, 4, 3))
    assert fresh.iterdir()
    assert not [path for path in fresh.iterdir() if "vjp" in path.name]


class WithState(nn.Module):
    """A model that remembers, draws random numbers, and has one parameter that nothing reaches."""

    def __init__(self):
        super().__init__()
        self.block = SGPNormBlock(3, "R2")
        self.norm = nn.BatchNorm1d(3)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x, *, scale):
        return {"result": [self.norm(nn.functional.dropout(self.block(x)[:, 0]) * scale), "a word"]}


def test_nothing_changes(fresh):
    model = WithState()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    cliffnn.warmup(model, torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(1)), scale=2.0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [path for path in fresh.iterdir() if "vjp" in path.name]


def test_lazy_modules_get_their_shapes(fresh):
    block = SGPNormBlock(algebra="R2")
    cliffnn.warmup(block, torch.randn(1, 4, 3))
    assert not any(nn.parameter.is_lazy(parameter) for parameter in block.parameters())


def test_lazy_buffers_get_their_initial_values(fresh):
    """As if no batch had been seen, although the module sees two."""
    norm = nn.LazyBatchNorm1d()
    cliffnn.warmup(nn.Sequential(MVLinear(None, 4, "R2"), Invariants(None, "R2"), norm, norm), torch.randn(3, 4, 5))
    initial = nn.BatchNorm1d(norm.num_features).state_dict()
    torch.testing.assert_close(norm.state_dict(), initial, rtol=0, atol=0)
    norm(torch.randn(3, norm.num_features))
    assert norm.num_batches_tracked == 1


def test_under_torch_compile_a_model_runs_as_it_is(fresh):
    graphs = []
    block = torch.compile(SGPNormBlock(3, "R2"), backend=lambda graph, _: graphs.append(graph) or graph)
    cliffnn.warmup(block, torch.randn(1, 4, 3))
    assert not graphs
    assert [path for path in fresh.iterdir() if "vjp" in path.name]


def test_what_is_no_model():
    with pytest.raises(TypeError, match=r"model: got Tensor, wanted a module or a function"):
        cliffnn.warmup(torch.randn(1, 4, 3))


def test_compilations_run_side_by_side_and_once():
    both, done = threading.Barrier(2, timeout=30), []

    def compile(name):
        both.wait()
        done.append(name)

    with ahead.Compilations() as compilations:
        for name in ("a", "b", "a", "b"):
            compilations.add(name, lambda name=name: compile(name))
    assert sorted(done) == ["a", "b"]


def test_an_error_of_the_compiler_is_told():
    with pytest.raises(ZeroDivisionError), ahead.Compilations() as compilations:
        compilations.add("a", lambda: 1 / 0)


def test_kernels_are_not_launched_meanwhile():
    kernels = pytest.importorskip("cliffnn.kernels")
    x = torch.randn(3, 4, 2)
    with ahead.compiled_together():
        (out,) = kernels.run(operation("gelu", "R2"), [x], 1e-6)
    assert out.isnan().all()  # as memory is before anybody writes to it
    (out,) = kernels.run(operation("gelu", "R2"), [x], 1e-6)
    assert not out.isnan().any()
    assert ahead.current() is None


ON_AN_ABSENT_GPU = """
import sys, torch, cliffnn
from benchmarks.absent_gpu import absent
from cliffnn import ahead, kernels, ops
from cliffnn.layers import SGPNormBlock

ops._executor = lambda device: kernels
own = set()
add = ahead.Compilations.add
def counted(self, key, compile):
    own.add(key)
    add(self, key, compile)
ahead.Compilations.add = counted

block, x = SGPNormBlock(3, "R2"), torch.ones(1, 4, 3, requires_grad=True)
with absent("sm_90") as (launched, compiled):
    cliffnn.warmup(block, x)
    assert len(compiled) == len(own) == 3, compiled  # forward, backward, sums of the weight's gradient
    assert not launched
    assert "torch._dynamo" not in sys.modules  # it takes a second
    block(x.repeat(50, 1, 1)).sum().backward()
    assert len(compiled) == 3 and len(set(launched)) == 3, launched
    # the kernels of one operation are compiled together even where nobody asked: here sums over a row's blocks first
    own.clear()
    wide = SGPNormBlock(2048, "R2")
    out = wide(torch.ones(1, 4, 2048))
    assert len(own) == 1
    out.sum().backward()
    assert len(own) == 4 and len(compiled) == 7, own
"""


def test_kernels_for_an_absent_gpu(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for name in ("TRITON_CACHE_DIR", "CLIFFNN_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    subprocess.run([sys.executable, "-c", ON_AN_ABSENT_GPU], check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_step_compiles_nothing_more(tmp_path, monkeypatch):
    """Its backward runs in a thread of autograd's, which must not launch while warming up."""
    from triton import knobs

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled = []
    monkeypatch.setattr(knobs.compilation, "listener", lambda **event: compiled.append(event["src"].name))
    # so many channels that no other test has
    block = SGPNormBlock(19, "R2", device="cuda")
    cliffnn.warmup(block, torch.randn(1, 4, 19, device="cuda", requires_grad=True))
    assert len(compiled) >= 5  # the linear map and the fused operator, their backward, sums over programs
    compiled.clear()
    x = torch.randn(300, 4, 19)
    inputs = [x.to(device).requires_grad_() for device in ("cuda", "cpu")]
    outputs = [block(inputs[0]), copy.deepcopy(block).cpu()(inputs[1])]
    gradients = [torch.autograd.grad(out.square().sum(), given)[0] for out, given in zip(outputs, inputs, strict=True)]
    assert not compiled
    for on_gpu, on_cpu in (outputs, gradients):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-3, atol=1e-4)
