"""Points, and what data are made of, as multivectors and back."""

import pytest
import reference
import torch
from test_operators import DTYPES

from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.layers import MVEmbed
from cliffnn.testing import apply_versor, random_versor

PLANE_BASED = {"R3,0,1": (3, 0, 1), "R2,0,1": (2, 0, 1), "R1,0,1": (1, 0, 1), "R1,1,1": (1, 1, 1), "R1,3,1": (1, 3, 1)}
WITHOUT_NULL = ["R2", "R3", "R1,3", "R0,2", "R5"]

plane_based = pytest.mark.parametrize("algebra", PLANE_BASED)
every = pytest.mark.parametrize("algebra", [*PLANE_BASED, *WITHOUT_NULL])


def points(algebra, **kwargs):
    algebra = Algebra(algebra)
    return torch.randn(5, algebra.p + algebra.q, 3, **{"dtype": torch.float64, **kwargs})


def vector(components, algebra):
    """A vector as a multivector without channels, (blades,)."""
    return F.embed(components[:, None], 1, algebra)[:, 0]


@every
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_there_and_back(algebra, dtype, device):
    x = points(algebra, device=device).to(dtype)
    assert torch.equal(F.extract_points(F.embed_points(x, algebra), algebra), x)


@plane_based
def test_the_weight_and_what_is_no_point_drop_out(algebra):
    x = points(algebra)
    multivector = F.embed_points(x, algebra)
    k = Algebra(algebra).p + Algebra(algebra).q
    noise = torch.randn_like(multivector)
    noise -= F.grade(noise, k, algebra)
    for weight in (-3.0, 0.5):
        torch.testing.assert_close(F.extract_points(weight * multivector + noise, algebra), x)


def test_points_of_the_plane_and_of_space_written_out():
    """x e032 + y e013 + z e021 + e123, and x e20 + y e01 + e12."""
    x = torch.tensor([[2.0], [3.0], [5.0]])
    blades = dict(zip(Algebra("R3,0,1").blades, F.embed_points(x, "R3,0,1")[:, 0].tolist(), strict=True))
    nonzero = {blade: value for blade, value in blades.items() if value}
    assert nonzero == {"e023": -2.0, "e013": 3.0, "e012": -5.0, "e123": 1.0}
    blades = dict(zip(Algebra("R2,0,1").blades, F.embed_points(x[:2], "R2,0,1")[:, 0].tolist(), strict=True))
    assert {blade: value for blade, value in blades.items() if value} == {"e02": -2.0, "e01": 3.0, "e12": 1.0}


@plane_based
def test_a_plane_reflects_points(algebra):
    """The plane sum n_i e_i + d e_0 holds the x with <n, x> + d = 0; the reflection in it is that of school."""
    metric = torch.tensor(reference.metric(PLANE_BASED[algebra])[1:], dtype=torch.float64)
    x = points(algebra)
    for _ in range(3):
        n, d = 2 * metric + 0.5 * torch.randn(len(metric), dtype=torch.float64), torch.randn(1, dtype=torch.float64)
        inner = torch.einsum("i,i,...ic->...c", metric, n, x) + d
        reflected = x - 2 * n[:, None] * (inner / (metric * n * n).sum())[..., None, :]
        moved = apply_versor(vector(torch.cat([d, n]), algebra), F.embed_points(x, algebra), algebra)
        torch.testing.assert_close(moved, -F.embed_points(reflected, algebra))
        torch.testing.assert_close(F.extract_points(moved, algebra), reflected)


@plane_based
def test_two_parallel_planes_translate_points(algebra):
    """By twice their distance, along their normal."""
    metric = torch.tensor(reference.metric(PLANE_BASED[algebra])[1:], dtype=torch.float64)
    x, n = points(algebra), torch.zeros_like(metric)
    n[0] = 1
    moved = F.embed_points(x, algebra)
    for distance in (0.0, 0.7):  # the planes n.x = 0 and m n.x = 0.7
        plane = vector(torch.cat([torch.tensor([-distance], dtype=torch.float64), n]), algebra)
        moved = apply_versor(plane, moved, algebra)
    expected = x.clone()
    expected[:, 0] += 2 * 0.7 * metric[0]
    torch.testing.assert_close(moved, F.embed_points(expected, algebra))


@every
@pytest.mark.parametrize("odd", [False, True], ids=["even", "odd"])
def test_versors_move_points_as_isometries(algebra, odd):
    metric = torch.tensor([m for m in Algebra(algebra).signature if m], dtype=torch.float64)
    x = points(algebra)
    moved = apply_versor(random_versor(algebra, odd), F.embed_points(x, algebra), algebra)
    y = F.extract_points(moved, algebra)
    sign = -1 if odd and Algebra(algebra).r else 1
    torch.testing.assert_close(moved, sign * F.embed_points(y, algebra))
    for before, after in ((x, y), (y, x)):
        distances = [torch.einsum("i,nic->nc", metric, (z - z[:1]) ** 2) for z in (before, after)]
        torch.testing.assert_close(*distances)


@every
def test_derivatives(algebra):
    x = points(algebra).requires_grad_()
    multivector = torch.randn(2, len(Algebra(algebra)), 2, dtype=torch.float64)
    # weights away from zero
    multivector[:, -2] = 1 + multivector[:, -2].square()
    multivector.requires_grad_()
    for eps in (0.0, 0.1):

        def extract(x, eps=eps):
            return F.extract_points(x, algebra, eps)

        assert torch.autograd.gradcheck(extract, multivector)
        assert torch.autograd.gradgradcheck(extract, multivector)
    assert torch.autograd.gradcheck(lambda x: F.embed_points(x * x, algebra), x)
    assert torch.autograd.gradgradcheck(lambda x: F.embed_points(x * x, algebra), x)


def test_eps_keeps_points_without_weight_finite():
    x = torch.ones(2, 16, 3, requires_grad=True)
    weightless = x * (torch.arange(16) != 14)[:, None]
    out = F.extract_points(weightless, "R3,0,1", eps=1e-6)
    assert not out.any()
    out.sum().backward()
    assert x.grad.isfinite().all()
    assert not F.extract_points(weightless, "R3,0,1").isfinite().any()


@pytest.mark.parametrize("algebra", ["R3", "R3,0,1", "R1,3", "R0,2"])
def test_embedding(algebra):
    """Channels in the documented order, whatever the order of the arguments."""
    n, space = Algebra(algebra).dim, Algebra(algebra).p + Algebra(algebra).q
    scalars, vectors, pseudoscalars = torch.randn(4, 6, 1), torch.randn(4, 6, n, 2), torch.randn(4, 6, 1)
    where = torch.randn(4, 6, space, 3)
    out = MVEmbed(algebra)(pseudoscalars=pseudoscalars, points=where, vectors=vectors, scalars=scalars)
    assert out.shape == (4, 6, len(Algebra(algebra)), 7)
    assert torch.equal(out[..., 0, 0], scalars[..., 0])
    assert torch.equal(F.extract(out[..., 1:3], 1, algebra), vectors)
    assert torch.equal(F.extract_points(out[..., 3:6], algebra), where)
    assert torch.equal(out[..., -1, 6], pseudoscalars[..., 0])
    assert (
        out.count_nonzero() == scalars.numel() + vectors.numel() + pseudoscalars.numel() + out[..., 3:6].count_nonzero()
    )


@pytest.mark.parametrize("algebra", ["R3", "R3,0,1"])
def test_compiled(algebra):
    layer = MVEmbed(algebra)
    given = {"scalars": torch.randn(4, 1), "points": torch.randn(4, 3, 2)}
    compiled = torch.compile(
        lambda **k: F.extract_points(layer(**k), algebra, 0.1), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(**given), F.extract_points(layer(**given), algebra, 0.1))
