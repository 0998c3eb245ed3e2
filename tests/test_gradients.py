"""First and second derivatives against finite differences, and the fused operator against its parts."""

import pytest
import reference
import torch

import cliffnn
from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.layers import CliffordMessagePassing, MVLinear, SGPNormBlock
from cliffnn.testing import randomize_parameters

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


@cliffnn.geometric_op("R2")
def versor_action(n: "vector", x):
    return -n * x / (n | n)


EDGES = torch.tensor([[1, 2, 0, 1], [0, 1, 2, 0]])
GRADES, CHANNELS = 3, 2
# Functions of multivectors ``(3, 4, CHANNELS)`` of R2 and of what has another shape.
ON_EVERY_DEVICE = {
    "linear": (lambda x, w, b: F.linear(x, w, b, "R2"), [(GRADES, 3, CHANNELS), (3,)]),
    "gelu": (lambda x: F.gelu(x, "R2"), []),
    "gate": (lambda x: F.gate(x, "tanh", "R2"), []),
    "silu": (lambda x, a, b: F.silu(x, a, b, "R2"), [(GRADES, CHANNELS)] * 2),
    "msilu": (lambda x, a, b: F.msilu(x, a, b, "R2"), [(GRADES, 4, CHANNELS), (GRADES, CHANNELS)]),
    "normalize": (lambda x, a: F.normalize(x, a, "R2"), [(GRADES, CHANNELS)]),
    "layer_norm": (lambda x, a: F.layer_norm(x, a, "R2"), [(CHANNELS,)]),
    "rms_norm": (lambda x: F.rms_norm(x, "R2", eps=1e-2), []),
    "gelu_sgp_norm": (lambda x, w: F.gelu_sgp_norm(x, x + 1, w, "R2", eps=1e-2), [(10, CHANNELS)]),
    "gelu_fcgp_norm": (lambda x, w: F.gelu_fcgp_norm(x, x + 1, w, "R2", eps=1e-2), [(10, 3, CHANNELS)]),
    "steerable": (
        lambda x, w, a: F.steerable_geometric_product(x, x + 1, x, w, a, "R2"),
        [(10, CHANNELS), (GRADES, CHANNELS)],
    ),
    "pool": (lambda x: F.pool(x, "R2", "mean", torch.tensor([1, 0, 1], device=x.device), 2).sin(), []),
    "geometric_op": (lambda x, n: versor_action(n, x), [(3, 2, CHANNELS)]),
}


@pytest.mark.parametrize(("function", "shapes"), ON_EVERY_DEVICE.values(), ids=ON_EVERY_DEVICE)
def test_second_derivatives_on_every_device(device, function, shapes):
    inputs = [torch.randn(shape, dtype=torch.float64).to(device) for shape in [(3, 4, CHANNELS), *shapes]]
    assert torch.autograd.gradgradcheck(function, [x.requires_grad_() for x in inputs])


def test_second_derivatives_of_messages_on_every_device(device):
    layer = CliffordMessagePassing(
        CHANNELS, 2, "R2", SGPNormBlock(2, "R2", eps=1e-2), MVLinear(4, CHANNELS, "R2"), edge_channels=1
    )
    layer.double().to(device)
    randomize_parameters(layer)
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(x, attributes, *parameters):
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, named, (x, EDGES.to(device), attributes))

    x, attributes = (torch.randn(n, 4, c, dtype=torch.float64).to(device) for n, c in ((3, CHANNELS), (4, 1)))
    inputs = (x.requires_grad_(), attributes.requires_grad_(), *values)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


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
