"""torch.func: per-sample gradients, Jacobians, ensembles."""

import pytest
import torch
from test_gradients import functions, random_inputs
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, stack_module_state, vmap

from cliffnn import functional as F
from cliffnn.edges import Edges
from cliffnn.layers import CliffordMessagePassing, MVLinear, SGPNormBlock

# torch's own rules of forward mode, when the first is needed
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def linear(x, weight, bias):
    return F.linear(x, weight, bias, "R2")


@functions
def test_vmap_over_rows(letters, function):
    inputs = [x.detach() for x in random_inputs(letters, "R2", rows=5)]
    dims = tuple(None if letter == "w" else 0 for letter in letters)
    got = vmap(lambda *inputs: function(*inputs, "R2"), in_dims=dims)(*inputs)
    torch.testing.assert_close(got, function(*inputs, "R2"))


@functions
def test_vmap_over_everything(letters, function):
    """Weights of their own for each sample, too; samples have rows."""
    samples = [[x.detach() for x in random_inputs(letters, "R2")] for _ in range(3)]
    got = vmap(lambda *inputs: function(*inputs, "R2"))(*map(torch.stack, zip(*samples, strict=True)))
    torch.testing.assert_close(got, torch.stack([function(*inputs, "R2") for inputs in samples]))


@functions
def test_grad(letters, function):
    inputs = random_inputs(letters, "R2")
    wanted = torch.autograd.grad(function(*inputs, "R2").square().sum(), inputs)
    got = grad(lambda *inputs: function(*inputs, "R2").square().sum(), argnums=tuple(range(len(inputs))))(*inputs)
    torch.testing.assert_close(got, wanted)


@functions
def test_gradients_of_each_sample(letters, function):
    inputs = random_inputs(letters, "R2", rows=4)
    dims = tuple(None if letter == "w" else 0 for letter in letters)

    def loss(*inputs):
        return function(*inputs, "R2").square().sum()

    every = tuple(range(len(inputs)))
    got = vmap(grad(loss, argnums=every), in_dims=dims)(*inputs)
    for row in range(4):
        sample = [x if dim is None else x[row] for x, dim in zip(inputs, dims, strict=True)]
        torch.testing.assert_close([g[row] for g in got], list(torch.autograd.grad(loss(*sample), sample)))


@functions
def test_jacobians(letters, function):
    inputs = [x.detach() for x in random_inputs(letters, "R2")]
    got = jacrev(lambda *inputs: function(*inputs, "R2"), argnums=tuple(range(len(inputs))))(*inputs)
    wanted = torch.autograd.functional.jacobian(lambda *inputs: function(*inputs, "R2"), tuple(inputs))
    torch.testing.assert_close(got, wanted)


GRADES, CHANNELS = 3, 2
# Functions of a multivector of R2 and what else they take: all that is differentiated by a rule of ours.
OTHERS = {
    "fully connected": (lambda x, w: F.fully_connected_geometric_product(x, x, w, "R2"), (10, 3, CHANNELS)),
    "linear": (lambda x, w: F.linear(x, w, None, "R2"), (GRADES, 3, CHANNELS)),
    "normalize": (lambda x, w: F.normalize(x, w, "R2"), (GRADES, CHANNELS)),
    "layer_norm": (lambda x, w: F.layer_norm(x, w, "R2"), (CHANNELS,)),
    "silu": (lambda x, w: F.silu(x, w, w, "R2"), (GRADES, CHANNELS)),
    "pool": (lambda x, w: F.pool(x, "R2", "sum", torch.tensor([0, 1, 0, 1]), 2) * w, (CHANNELS,)),
}


@functions
@pytest.mark.parametrize("algebra", ["R2", "R1,1"])
def test_forward_mode(letters, function, algebra):
    inputs = tuple(x.detach() for x in random_inputs(letters, algebra))
    every = tuple(range(len(inputs)))
    assert_forward_is_reverse(lambda *inputs: function(*inputs, algebra), inputs, every)


@pytest.mark.parametrize(("function", "shape"), OTHERS.values(), ids=OTHERS)
def test_forward_mode_and_vmap_of_other_functions(function, shape):
    inputs = torch.randn(4, 4, CHANNELS, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    assert_forward_is_reverse(function, inputs, (0, 1))
    xs, ws = (torch.randn(3, *t.shape, dtype=torch.float64) for t in inputs)
    for dims in ((0, 0), (0, None), (None, 0)):
        arguments = [batch if d == 0 else one for batch, one, d in zip((xs, ws), inputs, dims, strict=True)]
        wanted = [function(*(a if d is None else a[n] for a, d in zip(arguments, dims, strict=True))) for n in range(3)]
        torch.testing.assert_close(vmap(function, dims)(*arguments), torch.stack(wanted))


def assert_forward_is_reverse(function, inputs, every):
    wanted = torch.autograd.functional.jacobian(function, inputs)
    torch.testing.assert_close(jacfwd(function, argnums=every)(*inputs), wanted)

    def square(*inputs):
        return function(*inputs).square().sum()

    # forward over reverse
    got = hessian(square, argnums=every)(*inputs)
    torch.testing.assert_close(got, torch.autograd.functional.hessian(square, inputs))
    tangents = [torch.randn_like(x) for x in inputs]
    products = [(j.flatten(-x.dim()) @ t.flatten()) for j, x, t in zip(wanted, inputs, tangents, strict=True)]
    for requires_grad in (False, True):
        with forward_ad.dual_level():
            leaves = [x.clone().requires_grad_(requires_grad) for x in inputs]
            duals = [forward_ad.make_dual(x, t) for x, t in zip(leaves, tangents, strict=True)]
            got = forward_ad.unpack_dual(function(*duals)).tangent
        torch.testing.assert_close(got, sum(products))


EDGES = torch.tensor([[0, 1, 2, 3, 1], [1, 0, 3, 2, 3]])


def messages(x, w):
    """Along edges, with channels weighed, averaged in nodes."""
    edges = Edges(EDGES, 4)
    return edges.aggregate((edges.from_target(x) * edges.from_source(x)).square() * w, "mean")


# Each operator, and what has derivatives of its own.
COMPILED = {
    **{name: OTHERS[name] for name in ("linear", "fully connected", "pool")},
    "gelu_fcgp_norm": (lambda x, w: F.gelu_fcgp_norm(x, x + 1, w, "R2"), (10, 3, CHANNELS)),
    "gelu_sgp_norm": (lambda x, w: F.gelu_sgp_norm(x, x + 1, w, "R2"), (10, CHANNELS)),
    "messages": (messages, (CHANNELS,)),
}


@pytest.mark.parametrize(("function", "shape"), COMPILED.values(), ids=COMPILED)
def test_transforms_in_compiled_code(function, shape):
    """A gradient inside, which is differentiated again outside, as forces are; and a batch of batches."""
    inputs = torch.randn(4, 4, CHANNELS, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)

    def compiled(function):
        torch.compiler.reset()
        return torch.compile(function, fullgraph=True, backend="aot_eager")

    def gradient(x, w):
        return grad(lambda x: function(x, w).square().sum())(x)

    def by_autograd(x, w):
        return torch.autograd.grad(function(x, w).square().sum(), x, create_graph=True)[0]

    leaves = [t.clone().requires_grad_() for t in inputs]
    got, wanted = compiled(gradient)(*leaves), by_autograd(*leaves)
    torch.testing.assert_close(got, wanted)
    second = (torch.autograd.grad(first.square().sum(), leaves) for first in (got, wanted))
    torch.testing.assert_close(*second)
    xs = torch.randn(3, *inputs[0].shape, dtype=torch.float64)
    wanted = torch.stack([function(x, inputs[1]) for x in xs])
    torch.testing.assert_close(compiled(vmap(function, (0, None)))(xs, inputs[1]), wanted)


def test_graphs_are_no_samples():
    x = torch.randn(3, 4, 4, CHANNELS)
    layer = CliffordMessagePassing(CHANNELS, 3, "R2")
    torch.testing.assert_close(vmap(layer, (0, None))(x, EDGES), torch.stack([layer(one, EDGES) for one in x]))
    with pytest.raises(ValueError, match="edge_index: got one for each sample of vmap, wanted one for all"):
        vmap(layer)(x, EDGES.expand(3, -1, -1))
    with pytest.raises(ValueError, match="batch: got one for each sample of vmap, wanted one for all"):
        vmap(lambda x, batch: F.pool(x, "R2", batch=batch, size=2))(x, torch.zeros(3, 4, dtype=torch.int64))


SAMPLES = ["edge_attr", "receiver.weight", "sender.weight", "edge.weight", "bias"]


@pytest.mark.parametrize("mapped", [["x"], *([name] for name in SAMPLES), SAMPLES], ids=" ".join)
def test_samples_of_anything_in_messages(mapped):
    """What is added to may be the same for all samples, and what is added not."""
    layer = CliffordMessagePassing(CHANNELS, 3, "R2", edge_channels=2, difference=False).double()
    inputs = {
        "x": torch.randn(4, 4, CHANNELS).double(),
        "edge_attr": torch.randn(5, 4, 2).double(),
        **{name: torch.randn_like(p) for name, p in layer.named_parameters()},
    }

    def function(x, edge_attr, **parameters):
        return functional_call(layer, parameters, (x, EDGES, edge_attr))

    samples = {name: torch.randn(3, *value.shape).double() for name, value in inputs.items() if name in mapped}
    each = [function(**inputs | {name: value[i] for name, value in samples.items()}) for i in range(3)]
    at_once = vmap(lambda samples: function(**inputs | samples))
    torch.testing.assert_close(at_once(samples), torch.stack(each))
    torch.compiler.reset()
    compiled = torch.compile(at_once, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(samples), torch.stack(each))


@functions
def test_gradients_of_gradients(letters, function):
    inputs = [x.detach() for x in random_inputs(letters, "R2")]

    def penalty(*inputs):
        return grad(lambda *inputs: function(*inputs, "R2").square().sum())(*inputs).square().sum()

    leaves = [x.clone().requires_grad_() for x in inputs]
    (first,) = torch.autograd.grad(function(*leaves, "R2").square().sum(), leaves[:1], create_graph=True)
    (wanted,) = torch.autograd.grad(first.square().sum(), leaves[:1])
    torch.testing.assert_close(grad(penalty)(*inputs), wanted)


def test_the_linear_map():
    x, weight, bias = torch.randn(5, 4, 3), torch.randn(2, 3, 6, 3), torch.randn(2, 6)
    wanted = torch.stack([linear(x, *own) for own in zip(weight, bias, strict=True)])
    torch.testing.assert_close(vmap(linear, in_dims=(None, 0, 0))(x, weight, bias), wanted)
    # a bias of its own for each, and one matrix
    wanted = torch.stack([linear(x, weight[0], own) for own in bias])
    torch.testing.assert_close(vmap(linear, in_dims=(None, None, 0))(x, weight[0], bias), wanted)
    leaves = [t.clone().requires_grad_() for t in (x, weight[0], bias[0])]
    wanted = torch.autograd.grad(linear(*leaves).square().sum(), leaves)
    got = grad(lambda *inputs: linear(*inputs).square().sum(), argnums=(0, 1, 2))(x, weight[0], bias[0])
    torch.testing.assert_close(got, wanted)


def network():
    return nn.Sequential(MVLinear(2, 3, "R2"), SGPNormBlock(3, "R2"), MVLinear(3, 1, "R2")).double()


def test_functional_call():
    model, other = network(), network()
    x = torch.randn(4, 4, 2, dtype=torch.float64)
    parameters = dict(other.named_parameters())
    torch.testing.assert_close(functional_call(model, parameters, (x,)), other(x))
    got = grad(lambda parameters: functional_call(model, parameters, (x,)).square().sum())(parameters)
    wanted = torch.autograd.grad(other(x).square().sum(), list(other.parameters()))
    torch.testing.assert_close(list(got.values()), list(wanted))


def test_an_ensemble():
    models = [network() for _ in range(3)]
    parameters, buffers = stack_module_state(models)
    x = torch.randn(4, 4, 2, dtype=torch.float64)
    got = vmap(lambda parameters: functional_call(models[0], (parameters, buffers), (x,)))(parameters)
    torch.testing.assert_close(got, torch.stack([model(x) for model in models]))


@pytest.mark.parametrize("algebra", ["R2", "R3,0,1"])
def test_parametrisations(algebra):
    """Weights may be functions of others."""
    from torch.nn.utils import parametrizations

    layer = parametrizations.weight_norm(SGPNormBlock(3, algebra), "weight", dim=1)
    x = torch.randn(4, 2 ** (2 if algebra == "R2" else 4), 3)
    layer(x).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    assert len(list(layer.parameters())) == 4
