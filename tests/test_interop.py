"""Other libraries' weights and layouts. What runs their code is benchmarks/cgenn.py; here their shapes are built."""

import pytest
import reference
import torch

from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.interop import from_cgenn, from_flash_clifford, from_irreps, to_irreps
from cliffnn.layers import MVLinear, NormalizationLayer, SGPNormBlock, SteerableGP
from cliffnn.models import CGENN, LorentzCGENN

# CGENN's paths in Cl(2), by the grades of the left factor, the result, the right factor; written out from its table
THEIR_PATHS = ["000", "011", "022", "101", "110", "112", "121", "202", "211", "220"]


def product_by_their_paths(x, y, weight, order):
    """``weight`` (channels, paths); each path's grades are the left factor's, the result's, the right factor's."""
    grades, table = reference.grade_slices((2, 0, 0)), reference.cayley((2, 0, 0)).to(x)
    out = torch.zeros_like(x)
    for path, w in zip(order, weight.T, strict=True):
        i, k, j = (grades[int(c)] for c in path)
        out[..., k, :] += w * torch.einsum("abc,...an,...bn->...cn", table[i, j, k], x[..., i, :], y[..., j, :])
    return out


def test_steerable_product_of_cgenn():
    state = {
        "weight": torch.randn(3, 10),
        "linear_right.weight": torch.randn(3, 3, 3),
        "linear_left.weight": torch.randn(3, 3, 3),
        "linear_left.bias": torch.randn(1, 3, 1),
        "normalization.a": torch.randn(3, 3),
        "algebra.cayley": torch.zeros(4, 4, 4),
        "linear_left.algebra.metric": torch.ones(2),
    }
    layer = SteerableGP(3, "R2")
    layer.load_state_dict(from_cgenn(layer, state))
    x = torch.randn(5, 4, 3)
    by_blade = torch.tensor([0, 1, 1, 2])
    left, right = (
        torch.einsum("nbi,oib->nbo", x, state[f"linear_{side}.weight"][..., by_blade]) for side in ("left", "right")
    )
    left[:, 0] += state["linear_left.bias"][0, :, 0]
    right = F.normalize(right, state["normalization.a"].T, "R2")
    wanted = (left + product_by_their_paths(x, right, state["weight"], THEIR_PATHS)) / 2**0.5
    torch.testing.assert_close(layer(x), wanted)


def test_linear_of_cgenn():
    layer = MVLinear(None, 3, "R2", per_grade=False, bias=False)
    weight = torch.randn(3, 5)
    layer.load_state_dict(from_cgenn(layer, {"weight": weight}))
    x = torch.randn(2, 4, 5)
    torch.testing.assert_close(layer(x), x @ weight.T)


def test_states_that_do_not_fit():
    layer = NormalizationLayer(3, "R2")
    with pytest.raises(ValueError, match="state: got no 'a'"):
        from_cgenn(layer, {"b": torch.ones(3, 3)})
    with pytest.raises(ValueError, match="state: got entries that NormalizationLayer has no place for: b"):
        from_cgenn(layer, {"a": torch.ones(3, 3), "b": torch.ones(3, 3)})
    with pytest.raises(ValueError, match="weight: got 7 paths, wanted the 10 of R2"):
        from_cgenn(
            SteerableGP(3, "R2", False, None), {"weight": torch.ones(3, 7), "linear_right.weight": torch.ones(3, 3, 3)}
        )


@pytest.mark.parametrize(("model", "missing"), [(CGENN, "embedding.weight"), (LorentzCGENN, "embedding_h.weight")])
def test_models_name_what_is_missing(model, missing):
    with pytest.raises(ValueError, match=f"state: got no '{missing}'"):
        from_cgenn(model(), {})


@pytest.mark.parametrize("dim", [2, 3])
def test_layer_of_flash_clifford(dim):
    """It sorts paths as CGENN does, and multiplies from the right."""
    algebra = Algebra(dim)
    state = {
        "gp_weight": torch.randn(3, len(algebra.paths)),
        "linear_weight": torch.randn(dim + 1, 3, 3),
        "linear_bias": torch.zeros(1, 1, 3),
        "weight_expansion": torch.tensor(algebra.grade_of_blades),
    }
    block = SGPNormBlock(3, algebra)
    block.load_state_dict(from_flash_clifford(state))
    x = torch.randn(5, len(algebra), 3)
    y = torch.einsum("nbi,bio->nbo", x, state["linear_weight"][list(algebra.grade_of_blades)])
    order = sorted(range(len(algebra.paths)), key=lambda p: [algebra.paths[p][n] for n in (0, 2, 1)])
    weight = torch.empty(len(order), 3)
    weight[order] = state["gp_weight"].T
    signature = (dim, 0, 0)
    torch.testing.assert_close(block(x), reference.gelu_sgp_norm(x, y, weight, signature), rtol=1e-4, atol=1e-5)
    if dim == 2:
        product = product_by_their_paths(F.gelu(x, 2), F.gelu(y, 2), state["gp_weight"], THEIR_PATHS)
        torch.testing.assert_close(block(x), F.rms_norm(product, 2))
    connected = from_flash_clifford({**state, "gp_weight": torch.randn(len(algebra.paths), 3, 3)})
    assert connected["weight"].shape == (len(algebra.paths), 3, 3)


def test_a_bias_on_all_blades_has_no_counterpart():
    state = {"gp_weight": torch.ones(3, 10), "linear_weight": torch.ones(3, 3, 3), "linear_bias": torch.ones(1, 1, 3)}
    with pytest.raises(ValueError, match=r"linear_bias that is not zero.* no counterpart"):
        from_flash_clifford(state)
    with pytest.raises(ValueError, match="state: got no linear_bias, wanted"):
        from_flash_clifford({key: value for key, value in state.items() if key != "linear_bias"})
    with pytest.raises(ValueError, match=r"wanted those of Cl\(2\)"):
        from_flash_clifford({**state, "linear_bias": torch.zeros(1, 1, 3), "gp_weight": torch.ones(3, 9)})


@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "reflection"])
def test_irreps_turn_as_they_say(sign):
    """0e stays, 1o turns as a vector, 1e as an axis, 0o takes the determinant."""
    matrix = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    matrix *= sign * torch.linalg.det(matrix).sign()
    x = torch.randn(5, 8, 2, dtype=torch.float64)
    turned = torch.einsum("ab,nbc->nac", reference.outermorphism(matrix, (3, 0, 0)), x)
    scalars, vectors, axes, pseudoscalars = to_irreps(x).split([2, 6, 6, 2], -1)
    wanted = torch.cat(
        [
            scalars,
            (vectors.view(5, 2, 3) @ matrix.T).flatten(1),
            sign * (axes.view(5, 2, 3) @ matrix.T).flatten(1),
            sign * pseudoscalars,
        ],
        -1,
    )
    torch.testing.assert_close(to_irreps(turned), wanted)
    assert torch.equal(from_irreps(to_irreps(x)), x)


def test_the_wedge_of_two_vectors_is_their_cross_product():
    a, b = torch.randn(2, 3, dtype=torch.float64)
    x, y = (F.embed(v[:, None], 1, "R3") for v in (a, b))
    irreps = to_irreps(F.geometric_product(x, y, "R3"))
    torch.testing.assert_close(irreps[4:7], torch.linalg.cross(a, b))


@pytest.fixture
def double():
    """e3nn makes its tables in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def test_e3nn(double):
    o3 = pytest.importorskip("e3nn.o3")
    matrix = -o3.rand_matrix()
    x = torch.randn(5, 8, 2, dtype=torch.float64)
    turned = torch.einsum("ab,nbc->nac", reference.outermorphism(matrix, (3, 0, 0)), x)
    irreps = o3.Irreps("2x0e+2x1o+2x1e+2x0o")
    torch.testing.assert_close(to_irreps(turned), to_irreps(x) @ irreps.D_from_matrix(matrix).T)


def test_wrong_irreps():
    with pytest.raises(ValueError, match=r"x: got shape \(2, 9\), wanted \(\.\.\., 8 \* channels\)"):
        from_irreps(torch.randn(2, 9))
    with pytest.raises(TypeError, match="x: got NoneType"):
        from_irreps(None)
    with pytest.raises(TypeError, match=r"x: got torch\.int64, wanted one of torch\.float64"):
        from_irreps(torch.ones(8, dtype=torch.int64))
