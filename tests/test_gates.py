"""Gates and dropout: against the slow truth, their derivatives, and the numbers that are drawn."""

import math

import pytest
import reference
import torch
from test_operators import DTYPES, SIGNATURES
from torch import nn

from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.layers import MVDropout, MVGate

# What each gate multiplies with, written out.
ACTIVATIONS = {
    "relu": lambda s: s * (s > 0),
    "gelu": lambda s: s * 0.5 * (1 + torch.erf(s / math.sqrt(2))),
    "silu": lambda s: s / (1 + torch.exp(-s)),
    "sigmoid": lambda s: 1 / (1 + torch.exp(-s)),
    "tanh": lambda s: (torch.exp(s) - torch.exp(-s)) / (torch.exp(s) + torch.exp(-s)),
}

algebras = pytest.mark.parametrize("algebra", SIGNATURES)
activations = pytest.mark.parametrize("activation", ACTIVATIONS)


def blades(algebra):
    return len(Algebra(algebra))


@algebras
@activations
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gates(algebra, activation, dtype, device):
    def truth(x):
        return x * ACTIVATIONS[activation](x[..., :1, :])

    x = torch.randn(7, blades(algebra), 5, dtype=torch.float64, device=device).to(dtype)
    reference.assert_correct(lambda x: F.gate(x, activation, algebra), truth, [x])


@activations
def test_derivatives_of_gates(activation):
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: F.gate(x, activation, "R2"), x)
    assert torch.autograd.gradgradcheck(lambda x: F.gate(x, activation, "R2"), x)


def test_sigmoid_is_silu_of_a_scalar_and_gelu_is_another():
    scalars = torch.randn(5, 1, 3)
    x = F.embed(scalars, 0, "R3")
    torch.testing.assert_close(F.extract(F.gate(x, "sigmoid", "R3"), 0, "R3"), nn.functional.silu(scalars))
    torch.testing.assert_close(F.extract(F.gelu(x, "R3"), 0, "R3"), nn.functional.gelu(scalars))
    torch.testing.assert_close(F.gate(x, "gelu", "R3"), F.gelu(x, "R3") * scalars)


@activations
def test_gates_compiled(activation):
    layer = MVGate(activation, "R1,3")
    x = torch.randn(3, 16, 5)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gates_under_autocast_store_in_half_precision(dtype):
    x = torch.randn(5, 8, 16)
    with torch.autocast("cpu", dtype):
        out = F.gate(x, "silu", "R3")
        assert out.dtype == F.gelu(x, "R3").dtype == dtype
    torch.testing.assert_close(out, F.gate(x.to(dtype), "silu", "R3"))


def parts(algebra, by_grade):
    return Algebra(algebra).grade_slices if by_grade else (slice(None),)


@algebras
@pytest.mark.parametrize("by_grade", [False, True], ids=["whole", "by grade"])
@pytest.mark.parametrize("p", [0.25, 0.9])
def test_dropout(algebra, by_grade, p):
    """What stays is scaled, what shares a draw falls together, and nothing else does."""
    count = 4000
    out = F.dropout(torch.ones(count, blades(algebra), 5, dtype=torch.float64), algebra, p, by_grade=by_grade)
    masks = []
    for part in parts(algebra, by_grade):
        kept = out[:, part] != 0
        assert torch.equal(kept, kept[:, :1].expand_as(kept))
        torch.testing.assert_close(out[:, part][kept], torch.full_like(out[:, part][kept], 1 / (1 - p)))
        masks.append(kept[:, 0].double())
    masks = torch.cat(masks, -1)
    # five standard deviations of frequencies and covariances: rows, channels and grades are independent
    variance = p * (1 - p)
    assert ((masks.mean(0) - (1 - p)).abs() < 5 * math.sqrt(variance / count)).all()
    covariance = torch.cov(masks.T).fill_diagonal_(0)
    assert (covariance.abs() < 5 * variance / math.sqrt(count)).all()


@pytest.mark.parametrize("by_grade", [False, True], ids=["whole", "by grade"])
def test_dropout_draws_as_torch_does(by_grade, device):
    x = torch.randn(7, 8, 5, device=device)
    torch.manual_seed(3)
    out = F.dropout(x, "R3", 0.4, by_grade=by_grade)
    state = torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)
    torch.manual_seed(3)
    mask = nn.functional.dropout(torch.ones(7, 4 if by_grade else 1, 5, device=device), 0.4)
    assert torch.equal(
        out, x * (mask.repeat_interleave(torch.tensor([1, 3, 3, 1], device=device), -2) if by_grade else mask)
    )
    assert torch.equal(state, torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device))


def test_dropout_in_evaluation_is_the_identity_and_draws_nothing():
    x, state = torch.randn(3, 8, 5), torch.get_rng_state()
    assert F.dropout(x, "R3", training=False) is x
    assert F.dropout(x, "R3", 0) is x
    assert MVDropout(0.5, "R3").eval()(x) is x
    assert torch.equal(torch.get_rng_state(), state)
    assert not F.dropout(x, "R3", 1).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_dropout_scales_in_float32(dtype):
    """A scale of 1 / 0.9 rounded to bfloat16 would be wrong by 0.2 % in every number."""
    x = torch.randn(10, 8, 100).to(dtype)
    out = F.dropout(x, "R3", 0.1)
    assert out.dtype == dtype
    kept, exact = out != 0, x.double() / 0.9
    assert ((out - exact)[kept].abs() <= 0.501 * torch.finfo(dtype).eps * exact[kept].abs()).all()


@pytest.mark.parametrize("by_grade", [False, True], ids=["whole", "by grade"])
def test_derivatives_of_dropout(by_grade):
    def function(x):
        torch.manual_seed(0)
        return F.dropout(x * x, "R2", 0.5, by_grade=by_grade)

    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)
