"""Forces are gradients of an energy; a model learns from them by second derivatives. The recipe of docs/pytorch.md."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad

from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.layers import MVLinear, SGPNormBlock
from cliffnn.testing import randomize_parameters

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # inductor's own imports


class Energy(nn.Module):
    """An invariant of points in the plane."""

    def __init__(self, normalize=True):
        super().__init__()
        self.body = nn.Sequential(MVLinear(2, 8, "R2"), SGPNormBlock(8, "R2", normalize), MVLinear(8, 1, "R2"))

    def forward(self, points):
        return F.extract(self.body(F.embed(points, 1, "R2")), 0, "R2").sum()


def forces(model, parameters, points):
    points = points.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(functional_call(model, parameters, (points,)), points, create_graph=True)
    return -gradient


def data(rows=200):
    """Two points tied by a spring."""
    points = torch.randn(rows, 2, 2, dtype=torch.float64)
    pull = points[..., 1] - points[..., 0]
    return points, torch.stack([pull, -pull], -1)


def losses(model, compute, steps):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    found = []
    for _ in range(steps):
        points, wanted = data()
        loss = nn.functional.mse_loss(compute(dict(model.named_parameters()), points), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def test_a_model_learns_forces():
    model = Energy().double()
    found = losses(model, lambda *arguments: forces(model, *arguments), 80)
    assert sum(found[-5:]) < 0.2 * sum(found[:5])


@pytest.mark.parametrize("algebra", ["R2", "R1,1", "R2,0,1"])
def test_second_derivatives_of_the_whole_block(algebra):
    """With respect to the inputs and all parameters, the norm included."""
    # a larger eps than usual, or finite differences see the norm's curvature at zero
    block = SGPNormBlock(2, algebra, eps=1e-2).double()
    randomize_parameters(block)
    names, values = zip(*block.named_parameters(), strict=True)

    def run(x, *parameters):
        return functional_call(block, dict(zip(names, parameters, strict=True)), (x,))

    x = torch.randn(2, len(Algebra(algebra)), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(run, (x, *values))


def compiled_forces(model, backend):
    """The gradient is part of what is compiled."""

    def forces(parameters, points):
        return -grad(lambda points: functional_call(model, parameters, (points,)))(points)

    return torch.compile(forces, fullgraph=True, backend=backend)


def test_compiled_forces_train_the_same():
    from torch._dynamo.testing import CompileCounterWithBackend

    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model, twin = Energy().double(), Energy().double()
    twin.load_state_dict(model.state_dict())
    compiled = compiled_forces(model, counter)
    torch.manual_seed(1)
    wanted = losses(twin, lambda *arguments: forces(twin, *arguments), 4)
    torch.manual_seed(1)
    assert losses(model, compiled, 4) == pytest.approx(wanted, rel=1e-9)
    torch.testing.assert_close(list(model.parameters()), list(twin.parameters()), rtol=1e-6, atol=1e-9)
    # batches of other sizes: one compilation more
    for rows in (30, 40, 7):
        points, _ = data(rows)
        parameters = dict(model.named_parameters())
        torch.testing.assert_close(compiled(parameters, points), forces(model, parameters, points))
    assert counter.frame_count == 2


def test_compiled_forces_with_inductor(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    # the norm would double what its compiler has to do
    model = Energy(normalize=False).double()
    points, wanted = data(5)
    parameters = dict(model.named_parameters())
    weights = [parameter for name, parameter in parameters.items() if name.endswith("weight")]

    def step(run):
        return torch.autograd.grad(nn.functional.mse_loss(run(parameters, points), wanted), weights)

    eager = step(lambda *arguments: forces(model, *arguments))
    torch.testing.assert_close(step(compiled_forces(model, "inductor")), eager)


def test_what_torch_refuses():
    """Forces of a compiled model, taken outside of it, can't be learned from.

    Torch says so, also beside a loss of the energy; of what only forces depend on it may say nothing. None of our code
    runs there.
    """
    torch.compiler.reset()
    model = Energy().double()
    points = data(5)[0].requires_grad_()
    energy = torch.compile(model, backend="aot_eager")(points)
    (gradient,) = torch.autograd.grad(energy, points, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        (energy**2 + gradient.square().sum()).backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    energy = torch.compile(model, backend="aot_eager")(points)
    (gradient,) = torch.autograd.grad(energy, points, create_graph=True)
    found, message = (), ""
    try:
        found = torch.autograd.grad(gradient.sum(), [*model.parameters()], allow_unused=True)
    except RuntimeError as error:
        message = str(error)
    assert not any(found)
    assert not message or "does not currently support double backward" in message
