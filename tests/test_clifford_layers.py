"""The layers of Clifford group networks, against their equations, written again without the library."""

import math

import pytest
import reference
import torch
from torch.autograd import gradcheck, gradgradcheck

from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.layers import (
    FullyConnectedSteerableGP,
    MVLayerNorm,
    MVLinear,
    MVSiLU,
    NormalizationLayer,
    SteerableGP,
)
from cliffnn.testing import randomize_parameters

SIGNATURES = {"R2": (2, 0, 0), "R3": (3, 0, 0), "R1,3": (1, 3, 0), "R2,0,1": (2, 0, 1), "R0,0,2": (0, 0, 2)}
algebras = pytest.mark.parametrize("algebra", SIGNATURES)
CHANNELS = 3


def fully_connected(x, y, weight, signature):
    """``o_c = sum over c' of`` the weighted product of channel c'."""
    return torch.stack(
        [reference.weighted_geometric_product(x, y, matrix, signature).sum(-1) for matrix in weight.unbind(1)], -1
    )


# For each function: ours, the reference, and the shapes of parameters in terms of the number of grades.
FUNCTIONS = {
    "silu": (F.silu, reference.silu, lambda grades: [(grades, CHANNELS)] * 2),
    "layer_norm": (F.layer_norm, reference.layer_norm, lambda grades: [(CHANNELS,)]),
    "normalize": (F.normalize, reference.normalize, lambda grades: [(grades, CHANNELS)]),
}
functions = pytest.mark.parametrize("name", FUNCTIONS)


def inputs_of(name, algebra, dtype=torch.float64, rows=(2, 3)):
    algebra = Algebra(algebra)
    shapes = [(*rows, len(algebra), CHANNELS), *FUNCTIONS[name][2](len(algebra.grades))]
    return [torch.randn(shape, dtype=dtype) for shape in shapes]


@functions
@algebras
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_functions(name, algebra, dtype):
    ours, truth, _ = FUNCTIONS[name]
    signature = SIGNATURES[algebra]
    reference.assert_correct(
        lambda *inputs: ours(*inputs, algebra),
        lambda *inputs: truth(*inputs, signature),
        inputs_of(name, algebra, dtype),
    )


@functions
@algebras
def test_derivatives_of_every_order(name, algebra):
    inputs = [x.requires_grad_() for x in inputs_of(name, algebra, rows=(2,))]
    # the smooth norm bends sharply where all blades are null
    assert gradcheck(lambda *i: FUNCTIONS[name][0](*i, algebra), inputs)
    assert gradgradcheck(lambda *i: FUNCTIONS[name][0](*i, algebra), inputs)


@functions
def test_gradients_are_finite_at_zero_and_on_the_null_cone(name):
    x, *params = inputs_of(name, "R1,3")
    x.zero_()[0, :, 1:3] = 1.0  # of square zero
    x.requires_grad_()
    out = FUNCTIONS[name][0](x, *params, "R1,3")
    (gradient,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert gradient.isfinite().all()
    assert x.grad.isfinite().all()


@functions
def test_wrong_parameters(name):
    x, *params = inputs_of(name, "R2")
    with pytest.raises(ValueError, match=r"(weight|bias): got shape"):
        FUNCTIONS[name][0](x, *[p[..., :2] for p in params], "R2")
    with pytest.raises(TypeError, match=r"weight: got torch\.float32"):
        FUNCTIONS[name][0](x, *[p.float() for p in params], "R2")


@algebras
@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("normalization", [0.3, None])
@pytest.mark.parametrize("kind", [SteerableGP, FullyConnectedSteerableGP])
def test_steerable_products(kind, algebra, first_order, normalization):
    signature = SIGNATURES[algebra]
    channels = (CHANNELS,) if kind is SteerableGP else (CHANNELS, 2)
    layer = kind(*channels, algebra, first_order, normalization, dtype=torch.float64)
    randomize_parameters(layer)
    x = torch.randn(4, len(Algebra(algebra)), CHANNELS, dtype=torch.float64)

    def linear(weight, x):
        return torch.einsum(
            "boi,nbi->nbo", reference.by_blade(weight.flatten(1), signature).unflatten(-1, weight.shape[1:]), x
        )

    y = linear(layer.linear_right.weight, x)
    if normalization is not None:
        y = reference.normalize(y, layer.normalization.weight, signature)
    product = reference.weighted_geometric_product if kind is SteerableGP else fully_connected
    wanted = product(x, y, layer.weight, signature)
    if first_order:
        left = linear(layer.linear_left.weight, x)
        left[:, 0] += layer.linear_left.bias
        wanted = (left + wanted) / math.sqrt(2)
    assert reference.relative_error(layer(x), wanted) < 1e-12


def test_a_matrix_for_all_grades():
    layer = MVLinear(2, 3, "R3", per_grade=False)
    x = torch.randn(5, 8, 2)
    wanted = x @ layer.weight[0].T
    assert layer.weight.shape == (1, 3, 2)
    torch.testing.assert_close(layer(x), wanted)
    assert repr(layer) == "MVLinear(2, 3, algebra='R3', bias=True, per_grade=False)"


LAYERS = {
    "MVSiLU": lambda **k: MVSiLU(algebra="R3", **k),
    "MVLayerNorm": lambda **k: MVLayerNorm(algebra="R3", **k),
    "NormalizationLayer": lambda **k: NormalizationLayer(algebra="R3", **k),
    "SteerableGP": lambda **k: SteerableGP(algebra="R3", **k),
    "FullyConnectedSteerableGP": lambda **k: FullyConnectedSteerableGP(None, 4, "R3", **k),
    "MVLinear": lambda **k: MVLinear(None, 4, "R3", per_grade=False, **k),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_lazy_layers(make):
    layer = make(dtype=torch.float64)
    x = torch.randn(2, 8, 5, dtype=torch.float64)
    out = layer(x)
    assert all(p.dtype == torch.float64 for p in layer.parameters())
    other = make(dtype=torch.float64)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), out)
    with pytest.raises(ValueError, match="x: got shape"):
        layer(x[..., :4])


def test_initial_values():
    layer = SteerableGP(200, "R3", normalization=0.7)
    assert layer.weight.std().item() == pytest.approx(0.5, rel=0.05)
    assert (layer.normalization.weight == 0.7).all()
    assert FullyConnectedSteerableGP(25, 40, "R3").weight.std().item() == pytest.approx(0.1, rel=0.05)
    layer.reset_parameters()
    assert repr(MVSiLU(4, "R2")) == "MVSiLU(4, algebra='R2')"


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_autocast(make):
    layer, x = make(), torch.randn(3, 8, 5)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    assert (out - exact).norm() < 0.05 * exact.norm()
