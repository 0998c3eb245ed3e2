"""Invariants: against the slow truth, under versors, and their derivatives at zero."""

import itertools

import pytest
import reference
import torch
from test_operators import DTYPES, SIGNATURES

from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.layers import Invariants
from cliffnn.testing import apply_versor, random_versor

ALGEBRAS = {**SIGNATURES, "R1,1,1": (1, 1, 1), "R0,0,2": (0, 0, 2), "R0,2": (0, 2, 0)}
algebras = pytest.mark.parametrize("algebra", ALGEBRAS)
inner = pytest.mark.parametrize("inner_products", [False, True], ids=["norms", "inner products"])


def truth(algebra, inner_products):
    signature = ALGEBRAS[algebra]
    form = reference.quadratic_form(signature)

    def function(x):
        features = list(x[..., 0, :].unbind(-1))
        channels = range(x.shape[-1])
        for grade in reference.grade_slices(signature)[1:]:
            if not any(form[grade]):
                continue
            metric = torch.tensor(form[grade]).to(x)
            pairs = itertools.combinations_with_replacement(channels, 2)
            features += [
                (metric * x[..., grade, c] * x[..., grade, d]).sum(-1) for c, d in pairs if inner_products or c == d
            ]
        return torch.stack(features, -1)

    return function


@algebras
@inner
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_invariants(algebra, inner_products, dtype, device):
    for rows, channels in ((7, 5), (1, 1), (0, 3)):
        x = torch.randn(rows, len(Algebra(algebra)), channels, dtype=torch.float64, device=device).to(dtype)
        reference.assert_correct(
            lambda x: F.invariants(x, algebra, inner_products), truth(algebra, inner_products), [x]
        )
        layer = Invariants(channels, algebra, inner_products)
        assert layer(x).shape == (rows, layer.out_features)


@inner
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_keeps_float32(inner_products, dtype, device):
    """Squares of what half precision holds overflow it."""
    x = 100 * torch.randn(7, 8, 5, device=device)
    with torch.autocast(device.type, dtype):
        got = F.invariants(x, "R3", inner_products)
    torch.testing.assert_close(got, F.invariants(x, "R3", inner_products), rtol=0, atol=0)


@pytest.mark.parametrize("algebra", [algebra for algebra in ALGEBRAS if algebra != "R0,0,2"])
@inner
@pytest.mark.parametrize("odd", [False, True], ids=["even", "odd"])
def test_versors_leave_them_as_they_are(algebra, inner_products, odd):
    x = torch.randn(2, 3, len(Algebra(algebra)), 4, dtype=torch.float64)
    for _ in range(3):
        moved = apply_versor(random_versor(algebra, odd), x, algebra)
        assert (moved - x).norm() > 0.1
        exact = F.invariants(x, algebra, inner_products)
        assert reference.relative_error(F.invariants(moved, algebra, inner_products), exact) < 1e-9


@inner
@pytest.mark.parametrize("algebra", ["R2", "R1,1,1"])
@pytest.mark.parametrize("at", ["random", "zero", "null"])
def test_derivatives(algebra, inner_products, at):
    """On the null cone too, where the norm has none."""
    size = 3, len(Algebra(algebra)), 2
    x = torch.randn(size, dtype=torch.float64) if at == "random" else torch.zeros(size, dtype=torch.float64)
    if at == "null":
        x[:, 1:4] = 1
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: F.invariants(x, algebra, inner_products), x)
    assert torch.autograd.gradgradcheck(lambda x: F.invariants(x, algebra, inner_products), x)


@inner
def test_compiled(inner_products):
    layer = Invariants(5, "R1,3", inner_products)
    x = torch.randn(3, 16, 5)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


def test_out_features_and_channels():
    assert Invariants(5, "R3").out_features == 5 + 3 * 5
    assert Invariants(5, "R3", inner_products=True).out_features == 5 + 3 * 15
    assert Invariants(5, "R3,0,1").out_features == 5 + 3 * 5  # the pseudoscalar is null
    assert Invariants(algebra="R3").out_features is None
