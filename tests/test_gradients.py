"""First and second derivatives against finite differences, and the fused operator against its parts."""

import pytest
import reference
import torch

from cliffnn import Algebra
from cliffnn import functional as F

# What each function takes besides the algebra: multivectors x and y, and weights w.
FUNCTIONS = {
    "gelu": ("x", F.gelu),
    "geometric_product": ("xy", F.geometric_product),
    "weighted_geometric_product": ("xyw", F.weighted_geometric_product),
    # A larger eps than usual, or finite differences see the norm's curvature at zero.
    "rms_norm": ("x", lambda x, algebra: F.rms_norm(x, algebra, eps=1e-2)),
    "gelu_sgp": ("xyw", lambda *inputs: F.gelu_sgp_norm(*inputs, normalize=False)),
    "gelu_sgp_norm": ("xyw", lambda *inputs: F.gelu_sgp_norm(*inputs, eps=1e-2)),
    "embed": ("v", lambda v, algebra: F.embed(v, 1, algebra)),
    "extract": ("x", lambda x, algebra: F.extract(x, (0, 2), algebra)),
    "grade": ("x", lambda x, algebra: F.grade(x, 1, algebra)),
}
functions = pytest.mark.parametrize(("letters", "function"), FUNCTIONS.values(), ids=FUNCTIONS)


def random_inputs(letters, algebra, rows=2, channels=2):
    """Double-precision leaves: multivectors, weights ``(paths, channels)``, or vectors."""
    algebra = Algebra(algebra)
    shapes = {
        "x": (rows, len(algebra), channels),
        "y": (rows, len(algebra), channels),
        "w": (len(algebra.paths), channels),
        "v": (rows, algebra.dim, channels),
    }
    return [torch.randn(shapes[letter], dtype=torch.float64, requires_grad=True) for letter in letters]


@pytest.mark.parametrize("algebra", ["R2", "R1,3", "R2,0,1"])
@functions
def test_first_derivatives(letters, function, algebra):
    inputs = random_inputs(letters, algebra)
    assert torch.autograd.gradcheck(lambda *inputs: function(*inputs, algebra), inputs)


@pytest.mark.parametrize("algebra", ["R2", "R1,1", "R2,0,1"])
@functions
def test_second_derivatives(letters, function, algebra):
    inputs = random_inputs(letters, algebra)
    assert torch.autograd.gradgradcheck(lambda *inputs: function(*inputs, algebra), inputs)


@pytest.mark.parametrize("algebra", ["R1,1", "R0,0,1"])
@pytest.mark.parametrize("name", ["gelu", "weighted_geometric_product", "rms_norm", "gelu_sgp_norm"])
def test_third_derivatives(name, algebra):
    letters, function = FUNCTIONS[name]
    inputs = random_inputs(letters, algebra, rows=1)
    wave = torch.randn(1, len(Algebra(algebra)), 2, dtype=torch.float64)

    def gradient(*inputs):
        return torch.autograd.grad((function(*inputs, algebra) * wave).sum(), inputs, create_graph=True)

    assert torch.autograd.gradgradcheck(gradient, inputs)


@pytest.mark.parametrize("needs_grad", ["xyw", "xy", "w"])
def test_second_derivatives_equal_the_reference(device, needs_grad):
    """A gradient penalty, as energy-and-force training has it, whichever inputs are trained."""
    inputs = random_inputs("xyw", "R1,3", rows=3, channels=5)

    def penalty_gradients(function):
        leaves = [x.detach().to(device).requires_grad_(n in needs_grad) for n, x in zip("xyw", inputs, strict=True)]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        grads = torch.autograd.grad(function(*leaves).square().sum(), wanted, create_graph=True)
        penalty = sum(grad.square().sum() for grad in grads)
        return torch.autograd.grad(penalty, wanted)

    exact = penalty_gradients(lambda *leaves: reference.gelu_sgp_norm(*leaves, (1, 3, 0)))
    for got, wanted in zip(penalty_gradients(lambda *leaves: F.gelu_sgp_norm(*leaves, "R1,3")), exact, strict=True):
        assert reference.relative_error(got, wanted) <= 1e-11


@pytest.mark.parametrize(
    "algebra",
    [
        "R0",
        "R1",
        "R2",
        "R3",
        "R4",
        "R5",
        "R1,3",
        "R3,0,1",
        "R2,0,1",
        "R0,2",
        "R1,1",
        "R2,2",
        "R0,0,2",
        "R1,1,1",
    ],
)
@pytest.mark.parametrize("normalize", [False, True])
def test_fused_equals_the_composition(device, algebra, normalize):
    def composition(x, y, weight):
        out = F.weighted_geometric_product(F.gelu(x, algebra), F.gelu(y, algebra), weight, algebra)
        return F.rms_norm(out, algebra) if normalize else out

    inputs = [x.to(device) for x in random_inputs("xyw", algebra, rows=3, channels=5)]
    reference.assert_correct(
        lambda x, y, weight: F.gelu_sgp_norm(x, y, weight, algebra, normalize), composition, inputs
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_second_derivatives_on_the_null_cone(dtype):
    """The second derivative is that of the first one, where the sign of a vanishing q counts as zero.

    With all channels light-like, the norm of that grade is a constant: first derivatives are the factor itself,
    and there is no second.
    """
    x = torch.zeros(1, 16, 3, dtype=dtype)
    x[0, 1:5] = torch.tensor([[5.1, 13.7, 2.9], [3.3, 5.2, 2.9], [0, 12.3, 0], [0, 0, 0]])
    x[0, 1] = x[0, 2:5].square().sum(0).sqrt()
    x.requires_grad_()
    (grad,) = torch.autograd.grad((F.rms_norm(x, "R1,3", eps=1.0)[:, 1:5] ** 2).sum() / 2, x, create_graph=True)
    torch.testing.assert_close(grad[:, 1:5], x[:, 1:5])
    (second,) = torch.autograd.grad(grad[:, 1:5].sum(), x)
    torch.testing.assert_close(second[:, 1:5], torch.ones_like(second[:, 1:5]), rtol=1e-4, atol=1e-4)
