"""Forces are gradients of an energy; a model learns from them by second derivatives. The recipe of docs/pytorch.md."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.layers import MVLinear, SGPNormBlock
from cliffnn.testing import randomize_parameters

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # inductor's own imports


class Energy(nn.Module):
    """An invariant of points in the plane."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(MVLinear(2, 8, "R2"), SGPNormBlock(8, "R2"), MVLinear(8, 1, "R2"))

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


def test_compiled_forces_train_the_same():
    """The derivative is traced first; what is compiled has only one left to take."""
    torch.compiler.reset()
    model, twin = Energy().double(), Energy().double()
    twin.load_state_dict(model.state_dict())
    points, _ = data(50)
    traced = make_fx(lambda *arguments: forces(model, *arguments), tracing_mode="symbolic")(
        dict(model.named_parameters()), points
    )
    compiled = torch.compile(traced, fullgraph=True, backend="aot_eager")
    torch.manual_seed(1)
    wanted = losses(twin, lambda *arguments: forces(twin, *arguments), 4)
    torch.manual_seed(1)
    assert losses(model, compiled, 4) == pytest.approx(wanted, rel=1e-9)
    torch.testing.assert_close(list(model.parameters()), list(twin.parameters()), rtol=1e-6, atol=1e-9)


def test_what_torch_refuses():
    """Forces of a compiled model can't be learned from; torch says so, also beside a loss of the energy."""
    torch.compiler.reset()
    model = Energy().double()
    points = data(5)[0].requires_grad_()
    energy = torch.compile(model, backend="aot_eager")(points)
    (gradient,) = torch.autograd.grad(energy, points, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        (energy**2 + gradient.square().sum()).backward()
    assert all(parameter.grad is None for parameter in model.parameters())
