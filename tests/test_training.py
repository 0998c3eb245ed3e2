"""What a training loop meets: scaled gradients, deterministic algorithms, workers, CUDA graphs."""

import multiprocessing

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from cliffnn import functional as F
from cliffnn.layers import MVLinear, MVRMSNorm, SGPNormBlock

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def network(device, dtype=None):
    torch.manual_seed(0)
    layers = MVLinear(2, 8, "R3"), SGPNormBlock(8, "R3"), MVRMSNorm(8, "R3", elementwise_affine=True)
    return nn.Sequential(*layers, MVLinear(8, 1, "R3")).to(device, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_with_scaled_gradients(device, dtype):
    """As in float32, to the precision of the dtype; a step whose gradients overflow is left out."""
    exact, model = network(device), network(device)
    x = torch.randn(50, 8, 2, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**8)
    with torch.autocast(device.type, dtype):
        loss = model(x).float().square().mean()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    exact(x).square().mean().backward()
    for got, wanted in zip(model.parameters(), exact.parameters(), strict=True):
        assert got.grad.dtype == torch.float32
        assert (got.grad - wanted.grad).norm() < 0.05 * wanted.grad.norm() + 1e-3
    before = [p.detach().clone() for p in model.parameters()]
    scaler.step(optimizer)
    scaler.update()
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))

    optimizer.zero_grad()
    before = [p.detach().clone() for p in model.parameters()]
    scaler.scale(model(x).square().mean() * float("inf")).backward()
    scaler.step(optimizer)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("rows", [3, 5000])
def test_deterministic_to_the_bit(device, rows):
    """Under the deterministic algorithms that every test here runs with."""
    assert torch.are_deterministic_algorithms_enabled()
    model = network(device)
    x = torch.randn(rows, 8, 2, device=device, requires_grad=True)

    def outcome():
        out = model(x)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), [x, *model.parameters()])]

    first = outcome()
    for _ in range(3):
        assert all(torch.equal(again, once) for again, once in zip(outcome(), first, strict=True))


class Squares(Dataset):
    """Computes with multivectors in the worker."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        x = torch.full((8, 2), float(index))
        return F.geometric_product(x, x, "R2,1")


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # it is what is tested
def test_forked_workers():
    data = Squares()
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60)
    got = torch.cat(list(loader))
    torch.testing.assert_close(got, torch.stack([data[index] for index in range(len(data))]))


def devices():
    """The first device, and a second one that is not the current one."""
    return range(min(2, torch.cuda.device_count())) if torch.cuda.is_available() else [0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("index", devices())
@pytest.mark.parametrize("channels", [8, 256])
def test_captured_forward_and_backward_are_replayed(index, channels):
    """On a stream of its own; new data in the captured tensors gives new results; other devices stay as they are."""
    device = torch.device("cuda", index)
    current = torch.cuda.current_device()
    # capture forbids it: torch then asks where memory is filled
    torch.set_deterministic_debug_mode("default")
    torch.manual_seed(0)
    model = nn.Sequential(MVLinear(2, channels, "R3"), SGPNormBlock(channels, "R3"), MVLinear(channels, 1, "R3"))
    model.to(device)
    parameters = list(model.parameters())
    static_x = torch.randn(100, 8, 2, device=device)

    def step():
        out = model(static_x)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), parameters)]

    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    # what is compiled and tuned is so before the capture
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = step()
    assert torch.cuda.current_device() == current
    for _ in range(3):
        static_x.copy_(torch.randn(100, 8, 2, device=device))
        graph.replay()
        torch.cuda.synchronize(device)
        got = [t.clone() for t in captured]
        torch.testing.assert_close(got, step())


def trained_in_step(run, model, twin, device, steps):
    """Whether a way to run a model trains as its twin does, on data of which it has seen no step before."""
    optimizers = [torch.optim.SGD(m.parameters(), lr=1e-3, momentum=0.9) for m in (model, twin)]
    for _ in range(steps):
        charges, target = torch.randn(20, 5, device=device), torch.randn(20, 5, 3, device=device)
        inputs = charges, torch.randn(20, 5, 3, device=device), torch.randn(20, 5, 3, device=device)
        losses = []
        for forward, optimizer in zip((run, twin), optimizers, strict=True):
            torch.compiler.cudagraph_mark_step_begin()
            loss = nn.functional.mse_loss(forward(*inputs), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for got, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        assert (got - wanted).norm() <= 1e-4 * wanted.norm() + 1e-6


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # inductor's own imports
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")  # inductor's advice
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning")  # a part that only makes views
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_compiled_training_step_of_the_n_body_network():
    """In CUDA graphs of the compiler's making, forward and backward."""
    pytest.importorskip("lightning")
    from torch._dynamo.utils import counters

    from examples.nbody_o3 import NBodyNetwork

    # torch fills memory under deterministic algorithms, which the compiler's graphs don't record
    torch.set_deterministic_debug_mode("default")
    torch.compiler.reset()
    counters.clear()
    model, twin = (NBodyNetwork(channels=4, layers=1).cuda() for _ in range(2))
    twin.load_state_dict(model.state_dict())
    trained_in_step(torch.compile(model, fullgraph=True, mode="reduce-overhead"), model, twin, "cuda", 6)
    assert not counters["inductor"]["cudagraph_skips"]
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("channels", [8, 512])
def test_launches_wait_for_nothing_and_find_memory_that_is_there(channels):
    """No step waits for the GPU, nor asks the driver for memory once it has run."""
    torch.set_deterministic_debug_mode("default")
    model = nn.Sequential(MVLinear(2, channels, "R3"), SGPNormBlock(channels, "R3"), MVLinear(channels, 1, "R3")).cuda()
    x = torch.randn(300, 8, 2, device="cuda", requires_grad=True)

    def step():
        (force,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(force.square().sum(), list(model.parameters()), allow_unused=True)

    for _ in range(3):
        step()
    before = torch.cuda.memory_stats()["segment.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["segment.all.allocated"] == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_stream_that_is_not_the_default():
    """Work goes to the current stream, in order with what is there already."""
    model = network("cuda")
    x = torch.randn(5000, 8, 2, device="cuda")
    wanted = model(x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = torch.zeros_like(x)
        torch.cuda._sleep(100_000_000)
        late.copy_(x)
        got = model(late)
    stream.synchronize()
    torch.testing.assert_close(got, wanted)
