"""Group action layers: learned versors, and their gates."""

import subprocess
import sys

import numpy as np
import pytest
import reference
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from cliffnn import Algebra, kernels, layers
from cliffnn import functional as F
from cliffnn.families import text_of
from cliffnn.operation import operation
from cliffnn.testing import apply_versor, assert_equivariant, random_versor
from cliffnn.versors import versor_grades

ALGEBRAS = ["R2", "R3", "R3,0,1", "R1,3", "R0,2", "R1,1", "R2,2", "R4,0,1"]
algebras = pytest.mark.parametrize("algebra", ALGEBRAS)
parities = pytest.mark.parametrize("odd", [False, True], ids=["even", "odd"])


def signature(algebra):
    return Algebra(algebra).p, Algebra(algebra).q, Algebra(algebra).r


def near_versors(algebra, odd, outputs=1, inputs=1, dtype=torch.float64):
    """Multivectors as a layer starts with, on larger scales too."""
    layer = layers.VersorLinear(inputs, outputs, algebra, odd, dtype=dtype)
    return layer.versor.detach() * torch.linspace(0.5, 2, inputs, dtype=dtype)


def rows(algebra, channels, dtype=torch.float64, count=5):
    return torch.randn(count, len(Algebra(algebra)), channels, dtype=dtype)


@algebras
@parities
def test_versors_act_as_they_do(algebra, odd):
    """Also those whose square is negative, whatever their scale."""
    algebra, held = Algebra(algebra), versor_grades(Algebra(algebra), odd)
    versors = torch.stack([random_versor(algebra, odd) for _ in range(6)]).view(2, 3, -1)
    weight, x = torch.randn(2, 3, dtype=torch.float64), rows(algebra, 3)
    channels = range(3)
    wanted = [
        sum(w[c] * apply_versor(of_out[c], x[..., c : c + 1], algebra) for c in channels)
        for of_out, w in zip(versors, weight, strict=True)
    ]
    scaled = F.extract(versors.transpose(1, 2) * torch.tensor([1.0, -3.0, 0.2]), held, algebra)
    got = F.versor_linear(x, scaled, weight, algebra, odd)
    torch.testing.assert_close(got, torch.cat(wanted, -1), rtol=1e-9, atol=1e-9)


@algebras
@parities
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_against_the_reference(algebra, odd, dtype):
    inputs = rows(algebra, 3), near_versors(algebra, odd, 2, 3), torch.randn(2, 3, dtype=torch.float64)
    reference.assert_correct(
        lambda x, a, w: F.versor_linear(x, a, w, algebra, odd),
        lambda x, a, w: reference.versor_linear(x, a, w, signature(algebra), odd),
        [tensor.to(dtype) for tensor in inputs],
    )


@pytest.mark.parametrize("algebra", [*ALGEBRAS, "R5", "R4,1", "R3,2", "R0,5", "R3,0,2", "R1"])
@parities
def test_whatever_the_parameters_the_versors_are_versors(algebra, odd):
    """They leave products as they are, which only versors do."""
    x, y, versor = rows(algebra, 1), rows(algebra, 1), near_versors(algebra, odd)

    def act(z):
        return F.versor_linear(z, versor, torch.ones(1, 1, dtype=torch.float64), algebra, odd)

    product = F.geometric_product(act(x), act(y), algebra)
    torch.testing.assert_close(act(F.geometric_product(x, y, algebra)), product, rtol=1e-9, atol=1e-9)
    for k in Algebra(algebra).grades:
        part = F.grade(x, k, algebra)
        torch.testing.assert_close(act(part), F.grade(act(x), k, algebra))


@pytest.mark.parametrize(("algebra", "odd"), [("R3", False), ("R3", True), ("R3,0,1", False), ("R1,3", True)])
def test_derivatives(algebra, odd):
    """Of 16 blades, of those that vectors go to: the second derivatives are many."""
    grades = 1 if len(Algebra(algebra)) > 8 else None
    for check, size in ((gradcheck, 2), (gradgradcheck, 1)):
        x = F.extract(rows(algebra, size, count=2), grades, algebra) if grades else rows(algebra, size, count=2)
        inputs = [x, near_versors(algebra, odd, 1, size), torch.randn(1, size).double()]
        inputs = [tensor.requires_grad_() for tensor in inputs]
        assert check(lambda *i: F.versor_linear(*i, algebra, odd, grades), inputs)


def test_some_grades():
    layer = layers.VersorLinear(2, 3, "R3,0,1", grades=(1, 3), dtype=torch.float64)
    x = rows("R3,0,1", 2)
    every = F.versor_linear(x, layer.versor, layer.weight, "R3,0,1")
    torch.testing.assert_close(layer(F.extract(x, (1, 3), "R3,0,1")), F.extract(every, (1, 3), "R3,0,1"))
    assert len(text_of("versor_matrices", "R3,0,1", (0, 3)).split("out_")) == 5


def test_kernels_compute_the_same():
    """All results of thirty-two, more than the alphabet has letters."""
    for algebra, grades in (("R3", (0, 1, 2, 3)), ("R3,0,1", (1,))):
        chosen = operation(text_of("versor_matrices", algebra, (0, *grades)), algebra)
        inputs = [near_versors(algebra, False, 3, 2), torch.randn(3, 1, 2, dtype=torch.float64)]
        wanted = torch.ops.cliffnn.geometric_op(inputs, chosen.text, algebra, 0.0, "")
        # rows and channels beyond the last are zeros
        with np.errstate(all="ignore"):
            torch.testing.assert_close(kernels.run(chosen, inputs, 0.0), wanted)
    assert len(operation(text_of("versor_matrices", "R4,0,1", (0, 0, 1, 2, 3, 4, 5)), "R4,0,1").outputs) == 32


def test_it_learns_a_rigid_motion():
    """From points and where they went, to 1e-5 on other points."""
    motor = random_versor("R3,0,1", generator=torch.Generator().manual_seed(1))
    points = torch.randn(60, 3, 1, dtype=torch.float64)
    moved = apply_versor(motor, F.embed_points(points, "R3,0,1"), "R3,0,1")
    wanted = F.extract_points(moved, "R3,0,1")
    layer = layers.VersorLinear(1, 1, "R3,0,1", grades=3, dtype=torch.float64)

    def predicted(points):
        out = layer(F.extract(F.embed_points(points, "R3,0,1"), 3, "R3,0,1"))
        return F.extract_points(F.embed(out, 3, "R3,0,1"), "R3,0,1")

    assert (predicted(points) - wanted).abs().max() > 0.1
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100, tolerance_change=0, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        error = (predicted(points[:30]) - wanted[:30]).square().mean()
        error.backward()
        return error

    optimizer.step(loss)
    assert (predicted(points[30:]) - wanted[30:]).abs().max() < 1e-5


def test_not_equivariant():
    """But rotations of the plane commute, and the learned versors may turn with the input."""
    for algebra in ("R2", "R3"):
        layer = layers.VersorLinear(2, 3, algebra)
        with pytest.raises(AssertionError, match="not equivariant"):
            assert_equivariant(layer, algebra, rows(algebra, 2))
    assert_equivariant(layers.VersorLinear(2, 3, "R2"), "R2", rows("R2", 2), odd=[False])
    even = versor_grades(Algebra("R3,0,1"), False)
    weight = torch.randn(3, 2, dtype=torch.float64)

    def jointly(x, versor):
        return F.versor_linear(x, F.extract(versor, even, "R3,0,1"), weight, "R3,0,1")

    versor = F.embed(near_versors("R3,0,1", False, 3, 2), even, "R3,0,1")
    assert_equivariant(jointly, "R3,0,1", rows("R3,0,1", 2), versor)


class Largest(TorchDispatchMode):
    """The largest tensor that any operator gives."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (list, tuple)) else [out]:
            self.size = max(self.size, tensor.numel()) if isinstance(tensor, torch.Tensor) else self.size
        return out


def test_nothing_is_as_large_as_rows_times_pairs_of_channels():
    layer, x = layers.VersorLinear(16, 16, "R3"), torch.randn(1000, 8, 16, requires_grad=True)
    with Largest() as largest:
        layer(x).sum().backward()
    assert largest.size == x.numel()


def test_another_process_knows_the_operator():
    """Which has loaded a program that holds it."""
    text = text_of("versor_matrices", "R3", (1, 1, 2))
    code = f"""
import cliffnn.functional
from cliffnn.operation import operation
print(len(operation({text!r}, "R3").outputs))
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == "6\n"
    with pytest.raises(ValueError, match="expression: got 'versor_matrices_3_0_0_1_1_2_000000000000'"):
        operation(f"versor_matrices_3_0_0_1_1_2_{'0' * 12}", "R3")


def test_on_a_device_without_memory():
    for layer in (layers.VersorLinear(2, 3, "R3", device="meta"), layers.MSiLU(2, "R3", device="meta")):
        out = layer(torch.empty(5, 8, 2, device="meta"))
        assert out.is_meta
        assert out.shape[:2] == (5, 8)


def test_functorch():
    """An ensemble of layers, and a gradient for each row."""
    x, versors, weights = (
        rows("R3", 2),
        near_versors("R3", False, 12, 2).view(4, 3, 4, 2),
        torch.randn(4, 3, 2).double(),
    )
    each = [F.versor_linear(x, a, w, "R3") for a, w in zip(versors, weights, strict=True)]
    got = torch.func.vmap(lambda a, w: F.versor_linear(x, a, w, "R3"))(versors, weights)
    torch.testing.assert_close(got, torch.stack(each))
    gradient = torch.func.grad(lambda a, x: F.versor_linear(x, a, weights[0], "R3").square().sum())
    of_rows = torch.func.vmap(gradient, (None, 0))(versors[0], x)
    torch.testing.assert_close(of_rows.sum(0), gradient(versors[0], x))


def test_errors():
    x, versor, weight = rows("R3", 2), near_versors("R3", False, 3, 2), torch.randn(3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"versor: got shape \(3, 4, 1\), wanted \(3, 4, 2\): \(out_channels, blades"):
        F.versor_linear(x, versor[..., :1], weight, "R3")
    with pytest.raises(ValueError, match=r"weight: got shape \(2, 3\), wanted \(3, 2\)"):
        F.versor_linear(x, versor, weight.T, "R3")
    with pytest.raises(TypeError, match=r"weight: got torch\.float32"):
        F.versor_linear(x, versor, weight.float(), "R3")
    with pytest.raises(TypeError, match=r"x: got torch\.float32, wanted torch\.float64, the dtype of versor"):
        F.versor_linear(x.float(), versor, weight, "R3")
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(TypeError, match=r"x: got torch\.float64, wanted torch\.bfloat16, the dtype of versor"),
    ):
        F.versor_linear(x, versor.float(), weight.float(), "R3")
    with pytest.raises(ValueError, match="algebra: got R6, wanted one of at most 5 dimensions"):
        layers.VersorLinear(2, 3, "R6")
    with pytest.raises(ValueError, match=r"odd: got True, wanted False: no vector of R0,0,2 is invertible"):
        layers.VersorLinear(2, 3, "R0,0,2", odd=True)
    with pytest.raises(ValueError, match=r"bias: got shape \(4, 3\), wanted \(4, 2\)"):
        F.msilu(x, torch.ones(4, 8, 2).double(), torch.ones(4, 3).double(), "R3")
    with pytest.raises(ValueError, match=r"weight: got shape \(3, 8, 2\), wanted \(4, 8, 2\): \(grades, blades"):
        F.msilu(x, torch.ones(3, 8, 2).double(), torch.ones(4, 2).double(), "R3")


@pytest.mark.parametrize("algebra", ["R2", "R3", "R3,0,1"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_gate_against_the_reference(algebra, dtype):
    grades = len(Algebra(algebra).grades)
    inputs = rows(algebra, 3), torch.randn(grades, len(Algebra(algebra)), 3), torch.randn(grades, 3)
    reference.assert_correct(
        lambda *i: F.msilu(*i, algebra),
        lambda *i: reference.msilu(*i, signature(algebra)),
        [tensor.to(dtype) for tensor in inputs],
    )


def test_gate_derivatives_and_grades():
    inputs = [rows("R3", 1, count=2), torch.randn(4, 8, 1).double(), torch.randn(4, 1).double()]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert gradcheck(lambda *i: F.msilu(*i, "R3"), inputs)
    assert gradgradcheck(lambda *i: F.msilu(*i, "R3"), inputs)
    layer = layers.MSiLU(2, "R3", grades=(0, 2), dtype=torch.float64)
    x = rows("R3", 2)[:, :4]
    gates = torch.sigmoid((x[:, None] * layer.weight).sum(2))
    torch.testing.assert_close(layer(x), torch.cat([x[:, :1] * gates[:, :1], x[:, 1:] * gates[:, 1:]], 1))


def test_gate_is_equivariant_only_where_the_scalar_alone_weighs():
    layer = layers.MSiLU(2, "R3")
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(layer, "R3", rows("R3", 2), odd=[False])
    torch.nn.init.zeros_(layer.weight[:, 1:])
    assert_equivariant(layer, "R3", rows("R3", 2), randomize=False)


def test_one_row_and_none():
    for layer in (layers.VersorLinear(2, 2, "R3"), layers.MSiLU(2, "R3")):
        x = torch.randn(3, 8, 2)
        torch.testing.assert_close(layer(x[0]), layer(x)[0])
        torch.testing.assert_close(layer(x[:1]), layer(x)[:1])
        assert layer(x[:0]).shape == (0, 8, 2)
        assert layer(x[None, :0]).shape == (1, 0, 8, 2)
        assert layer(x[None]).shape == (1, 3, 8, 2)
