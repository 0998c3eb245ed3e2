"""Layers as torch modules: lazy channels, states, initial values; and that the block is what it says."""

import copy
import pickle

import pytest
import torch
from torch import nn

from cliffnn import Algebra
from cliffnn.layers import MVGELU, SGP, FCGPNormBlock, MSiLU, MVLinear, MVRMSNorm, SGPNormBlock, VersorLinear

ALGEBRAS = ["R2", "R3", "R1,3", "R3,0,1", "R2,0,1", "R0,2", "R1,1"]
LAZY = {
    "MVLinear": lambda **k: MVLinear(None, 6, "R3", **k),
    "MVRMSNorm": lambda **k: MVRMSNorm(algebra="R3", elementwise_affine=True, **k),
    "SGPNormBlock": lambda **k: SGPNormBlock(algebra="R3", **k),
    "FCGPNormBlock": lambda **k: FCGPNormBlock(None, 6, "R3", **k),
    "VersorLinear": lambda **k: VersorLinear(None, 6, "R3", **k),
    "MSiLU": lambda **k: MSiLU(algebra="R3", **k),
}
lazy = pytest.mark.parametrize("make", LAZY.values(), ids=LAZY)


@pytest.mark.parametrize("algebra", ALGEBRAS)
@pytest.mark.parametrize("normalize", [True, False])
def test_block_equals_its_unfused_layers(algebra, normalize):
    block = SGPNormBlock(8, algebra, normalize=normalize, dtype=torch.float64)
    nn.init.normal_(block.linear.bias)
    gate, product, norm = MVGELU(algebra), SGP(8, algebra, dtype=torch.float64), MVRMSNorm(algebra=algebra)
    product.load_state_dict({"weight": block.weight})
    x = torch.randn(5, len(Algebra(algebra)), 8, dtype=torch.float64)
    unfused = product(gate(x), gate(block.linear(x)))
    torch.testing.assert_close(block(x), norm(unfused) if normalize else unfused, rtol=1e-12, atol=1e-12)


@lazy
def test_channels_come_from_the_first_input(make):
    layer = make()
    out = layer(torch.randn(2, 8, 6))
    assert out.shape == (2, 8, 6)
    assert all(not isinstance(p, nn.parameter.UninitializedParameter) for p in layer.parameters())
    with pytest.raises(ValueError, match="6 channels"):
        layer(torch.randn(2, 8, 7))
    assert "6" in repr(layer)


@lazy
def test_states_load_into_layers_without_channels(make):
    trained, fresh = make(), make()
    x = torch.randn(2, 8, 6)
    expected = trained(x)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(x), expected)
    with pytest.raises(ValueError, match="6 channels"):
        fresh(torch.randn(2, 8, 7))


@lazy
def test_layers_without_channels_are_copied_and_pickled(make):
    x = torch.randn(2, 8, 6)
    for twin in (copy.deepcopy(make()), pickle.loads(pickle.dumps(make()))):
        assert twin(x).shape == (2, 8, 6)
    layer = make()
    expected = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), expected)


@lazy
def test_a_known_layer_has_the_keys_of_a_lazy_one(make):
    layer = make()
    keys = list(layer.state_dict())
    layer(torch.randn(2, 8, 6))
    assert list(layer.state_dict()) == keys


def test_a_state_that_does_not_fit_is_refused():
    state = MVLinear(5, 7, "R3").state_dict()
    layer = MVLinear(None, 6, "R3")
    layer.load_state_dict(state)
    with pytest.raises(ValueError, match=r"weight: got a state of shape \(4, 7, 5\), wanted \(4, 6, 5\)"):
        layer(torch.randn(2, 8, 5))


def test_a_part_of_a_state_is_kept():
    weight = torch.randn(4, 6, 6)
    layer = MVLinear(None, 6, "R3")
    layer.load_state_dict({"weight": weight}, strict=False)
    layer(torch.randn(2, 8, 6))
    assert torch.equal(layer.weight, weight)
    assert torch.equal(layer.bias, torch.zeros(6))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_device_and_dtype(dtype):
    for layer in (
        MVLinear(4, 4, "R2", dtype=dtype),
        SGP(4, "R2", dtype=dtype),
        SGPNormBlock(4, "R2", dtype=dtype),
        SGPNormBlock(algebra="R2", dtype=dtype),
        MVRMSNorm(4, "R2", elementwise_affine=True, dtype=dtype),
    ):
        x = torch.randn(3, 4, 4, dtype=dtype)
        out = layer(x, x) if isinstance(layer, SGP) else layer(x)
        assert out.dtype == dtype
        assert all(p.dtype == dtype for p in layer.parameters())
    assert MVLinear(4, 4, "R2", device="meta").weight.is_meta


def test_reset_parameters_draws_anew():
    for layer in (MVLinear(4, 4, "R2"), SGP(4, "R2"), SGPNormBlock(4, "R2")):
        before = copy.deepcopy(layer.state_dict())
        layer.reset_parameters()
        assert not torch.equal(layer.weight, before["weight"])


def test_bias_is_on_the_scalar_alone():
    layer = MVLinear(2, 3, "R3")
    nn.init.ones_(layer.bias)
    out = layer(torch.zeros(1, 8, 2))
    assert torch.equal(out[0, 0], torch.ones(3))
    assert not out[0, 1:].any()
    assert MVLinear(2, 3, "R3", bias=False).bias is None


@pytest.mark.parametrize("algebra", ["R2", "R3", "R4", "R0,2"])
def test_ten_blocks_keep_every_grade_at_its_size(algebra):
    """On definite metrics, the mean over channels of abs(q_k) stays within 1 +- 0.2."""
    algebra = Algebra(algebra)
    form = torch.tensor(algebra.quadratic_form)[:, None]
    x = torch.randn(100, len(algebra), 32)
    with torch.no_grad():
        for _ in range(10):
            x = SGPNormBlock(32, algebra)(x)
            for blades in algebra.grade_slices:
                size = (form * x * x)[:, blades].sum(1).abs().mean()
                assert abs(size - 1) < 0.2


@pytest.mark.parametrize("algebra", ["R1,3", "R3,0,1", "R2,0,1", "R1,1,1"])
def test_ten_blocks_stay_finite_on_other_metrics(algebra):
    x = torch.randn(20, len(Algebra(algebra)), 16)
    with torch.no_grad():
        for _ in range(10):
            x = SGPNormBlock(16, algebra)(x)
    assert x.isfinite().all()


def test_a_stack_trains():
    """A few steps of a stack of blocks lower the loss."""
    model = nn.Sequential(
        MVLinear(2, 16, "R2"), SGPNormBlock(algebra="R2"), SGPNormBlock(algebra="R2"), MVLinear(16, 1, "R2")
    )
    x = torch.randn(64, 4, 2)
    target = (x[:, 1:3, 0] * x[:, 1:3, 1]).sum(1, keepdim=True)  # the inner product of two vectors
    model(x)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = nn.functional.mse_loss(model(x)[:, 0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_reprs():
    assert repr(MVLinear(2, 3, "R1,3")) == "MVLinear(2, 3, algebra='R1,3', bias=True)"
    assert repr(MVGELU("R2")) == "MVGELU(algebra='R2')"
    assert repr(SGP(4, "R2")) == "SGP(4, algebra='R2')"
    assert repr(MVRMSNorm(algebra="R2")) == "MVRMSNorm(None, algebra='R2', eps=1e-06, elementwise_affine=False)"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    """Layers of float32 run in half precision, and their gradients come back in float32."""
    model = nn.Sequential(
        MVLinear(2, 8, "R3"), SGPNormBlock(8, "R3"), MVRMSNorm(8, "R3", elementwise_affine=True), MVGELU("R3")
    )
    product = SGP(8, "R3")
    x = torch.randn(5, 8, 2)
    exact = model(x)
    exact = product(exact, exact)
    with torch.autocast("cpu", dtype):
        out = model(x)
        assert out.dtype == dtype
        out = product(out, out)
    assert out.dtype == dtype
    assert (out - exact).norm() < 0.05 * exact.norm()
    out.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


def test_a_result_without_norm_may_be_changed_in_place():
    x = torch.randn(3, 4, 2, requires_grad=True)
    out = SGPNormBlock(2, "R2", normalize=False)(x)
    out += x
    out.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("eps", [-1, "1", None, True])
def test_wrong_eps(eps):
    for layer in (SGPNormBlock, MVRMSNorm, FCGPNormBlock):
        with pytest.raises(ValueError, match="eps: got"):
            layer(4, algebra="R2", eps=eps)


def test_compiled_before_anything_else():
    """An algebra that nothing has met yet is traced all the same, forward and backward."""
    model = nn.Sequential(MVLinear(2, 4, "R1,0,1"), SGPNormBlock(4, "R1,0,1"))
    x = torch.randn(3, 4, 2)
    out = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(out, model(x))
    out.sum().backward()
    compiled = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(x).sum().backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], compiled)
