"""Messages along edges: against plain loops, in every order, on graphs of every shape, and the same in every run."""

import pytest
import reference
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from cliffnn import functional as F
from cliffnn.edges import Edges
from cliffnn.layers import CliffordMessagePassing, MVLinear, SGPNormBlock
from cliffnn.models import CGENN
from cliffnn.segments import Segments
from cliffnn.testing import randomize_parameters

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # dynamo's own way with functions

# node 3 has no edges, node 4 only hears, node 0 hears twice from node 1
EDGES = torch.tensor([[1, 2, 0, 1, 2, 1], [0, 1, 2, 0, 4, 4]])
NODES = 5


def layer_of(edge_channels=2, message=True, update=True, channels=3, algebra="R2", **options):
    layer = CliffordMessagePassing(
        channels,
        4,
        algebra,
        SGPNormBlock(4, algebra) if message else None,
        MVLinear(channels + 4, channels, algebra) if update else None,
        edge_channels,
        **options,
    ).double()
    randomize_parameters(layer)
    return layer


def inputs_of(edge_channels=2, channels=3, blades=4):
    x = torch.randn(NODES, blades, channels, dtype=torch.float64)
    return x, torch.randn(EDGES.shape[1], blades, edge_channels, dtype=torch.float64) if edge_channels else None


def compiled(function):
    torch.compiler.reset()
    return torch.compile(function, backend="aot_eager", fullgraph=True)


class Called(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def exported(function):
    return lambda *inputs: torch.export.export(Called(function), inputs).module()(*inputs)


def plainly(layer, x, edge_index, edge_attr):
    """The equations, one edge after the other."""

    def linear(module, x):
        return F.linear(x, module.weight, None, layer.algebra)

    received = [[] for _ in x]
    for e, (source, target) in enumerate(edge_index.T.tolist()):
        sender = layer.sender or layer.receiver
        sign = 1 if layer.sender else -1
        hidden = linear(layer.receiver, x[target]) + sign * linear(sender, x[source])
        if edge_attr is not None:
            hidden = hidden + linear(layer.edge, edge_attr[e])
        hidden = hidden + F.embed(layer.bias[None], 0, layer.algebra)
        received[target].append(layer.message(hidden[None])[0] if layer.message else hidden)
    nothing = torch.zeros(x.shape[1], 4, dtype=x.dtype)
    sums = [torch.stack(m).sum(0) / (len(m) if layer.aggregate == "mean" else 1) if m else nothing for m in received]
    aggregated = torch.stack(sums)
    if layer.update is None:
        return aggregated
    update = layer.update(torch.cat([x, aggregated], -1))
    return x + update if layer.residual else update


@pytest.mark.parametrize("aggregate", ["mean", "sum"])
@pytest.mark.parametrize("difference", [True, False])
@pytest.mark.parametrize("edge_channels", [0, 2])
@pytest.mark.parametrize("whole", [True, False])
def test_equals_loops_over_edges(aggregate, difference, edge_channels, whole):
    layer = layer_of(edge_channels, whole, whole, aggregate=aggregate, difference=difference)
    x, edge_attr = inputs_of(edge_channels)
    wanted = plainly(layer, x, EDGES, edge_attr)
    assert reference.relative_error(layer(x, EDGES, edge_attr), wanted) < 1e-12


def test_the_order_of_edges_does_not_matter():
    layer, (x, edge_attr) = layer_of(), inputs_of()
    order = torch.randperm(EDGES.shape[1])
    torch.testing.assert_close(layer(x, EDGES[:, order], edge_attr[order]), layer(x, EDGES, edge_attr))


@pytest.mark.parametrize(
    "given",
    [
        lambda attr: (Edges(EDGES, NODES), attr),
        lambda attr: (Edges(EDGES, NODES, attr),),
        lambda attr: (Edges(EDGES, NODES).with_attr(attr),),
        lambda attr: (Edges(EDGES, NODES, 2 * attr).with_attr(attr), None),
    ],
    ids=["attributes beside", "attributes within", "attributes later", "other attributes later"],
)
def test_edges_that_are_shared(given):
    """Attributes come in the order of the tensor, always: here it differs from that of the edges."""
    layer, (x, edge_attr) = layer_of(2, False, False), inputs_of()
    wanted = layer(x, EDGES, edge_attr)
    assert torch.equal(layer(x, *given(edge_attr)), wanted)
    torch.testing.assert_close(compiled(lambda x, edge_attr: layer(x, *given(edge_attr)))(x, edge_attr), wanted)
    model = CGENN(3, 4, 2, 2, 2, "R2").double()
    assert torch.equal(model(x, *given(edge_attr)), model(x, EDGES, edge_attr))


def test_derivatives_of_every_order():
    layer, (x, edge_attr) = layer_of(), inputs_of()
    inputs = [x.requires_grad_(), edge_attr.requires_grad_()]
    assert gradcheck(lambda x, e: layer(x, EDGES, e), inputs, fast_mode=True)
    assert gradgradcheck(lambda x, e: layer(x, EDGES, e), inputs, fast_mode=True)


def test_gradients_of_parameters():
    layer, (x, edge_attr) = layer_of(), inputs_of()
    parameters = list(layer.parameters())
    grad = torch.randn(NODES, 4, 3, dtype=torch.float64)
    got = torch.autograd.grad(layer(x, EDGES, edge_attr), parameters, grad)
    wanted = torch.autograd.grad(plainly(layer, x, EDGES, edge_attr), parameters, grad)
    torch.testing.assert_close(got, wanted)


def test_a_batch_of_graphs_is_each_of_them():
    layer, (x, edge_attr) = layer_of(), inputs_of()
    other = torch.randn_like(x)
    batch = layer(torch.cat([x, other]), torch.cat([EDGES, EDGES + NODES], 1), edge_attr.repeat(2, 1, 1))
    torch.testing.assert_close(batch, torch.cat([layer(x, EDGES, edge_attr), layer(other, EDGES, edge_attr)]))


@pytest.mark.parametrize("nodes", [0, 3])
def test_no_edges_and_no_nodes(nodes):
    layer = layer_of(0)
    x = torch.randn(nodes, 4, 3, dtype=torch.float64, requires_grad=True)
    out = layer(x, torch.empty(2, 0, dtype=torch.int64))
    wanted = x + layer.update(torch.cat([x, x.new_zeros(nodes, 4, 4)], -1))
    torch.testing.assert_close(out, wanted)
    out.sum().backward()
    assert x.grad.isfinite().all()


def test_deterministic(device):
    """Bit by bit, forward and backward, where many edges point to one node."""
    layer = layer_of(0, channels=16).float().to(device)
    x = torch.randn(10, 4, 16, device=device, requires_grad=True)
    edges = torch.randint(0, 10, (2, 5000), device=device)
    results = []
    for _ in range(3):
        out = layer(x, edges)
        results.append((out, *torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("ascending", [True, False])
def test_segments(ascending, device):
    """What a GPU and compiled code run, and what a CPU runs."""
    index = torch.tensor([0, 0, 2, 2, 2] if ascending else [2, 0, 2, 0, 2], device=device)
    x = torch.randn(5, 3, dtype=torch.float64, device=device, requires_grad=True)
    segments = Segments(index, 4, ascending)
    wanted = torch.stack([x[index == n].sum(0) for n in range(4)])
    for run in (segments.sum, compiled(lambda x: segments.sum(x))):
        torch.testing.assert_close(run(x), wanted)
    assert gradgradcheck(lambda x: segments.sum(x).sin(), [x])
    assert gradgradcheck(lambda x: segments.spread(x).sin(), [wanted.detach().requires_grad_()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("ascending", [True, False])
def test_half_precision_is_summed_in_float32(dtype, ascending, device):
    """Adding ones ends at 256 in bfloat16, at 2048 in float16; what they are multiplied with overflows the latter."""
    rows = 3000
    index = torch.arange(rows, device=device) // (rows - 1)
    segments = Segments(index if ascending else index.flip(0), 2, ascending)
    x, two = torch.ones(rows, 3, dtype=dtype, device=device), torch.ones(2, 3, dtype=dtype, device=device)
    wanted = torch.tensor([[rows - 1], [1]], device=device).to(dtype).expand(2, 3)

    def gradient(x):
        return torch.func.grad(lambda x: segments.spread(x).sum())(x)

    def product(x):
        """Of the Hessian of half a sum of squares with ones."""
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(segments.spread(x).square().sum() / 2, x, create_graph=True)
        return torch.autograd.grad(first.sum(), x)[0]

    def tangent(x):
        return torch.func.jvp(segments.sum, (x,), (x,))[1]

    for function, inputs in ((segments.sum, x), (gradient, two), (product, two), (tangent, x)):
        assert torch.equal(function(inputs), wanted)
    for run in (compiled, exported):
        assert torch.equal(run(lambda x: segments.sum(x))(x), wanted)
    assert torch.equal(compiled(gradient)(two), wanted)
    leaf = two.clone().requires_grad_()
    assert torch.equal(torch.autograd.grad(compiled(lambda x: segments.spread(x))(leaf), leaf, x)[0], wanted)
    for run in (lambda f: f, compiled, exported):
        assert torch.equal(run(lambda x: segments.mean(x))(60 * x), 60 * two)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_many_messages_in_half_precision(dtype, device):
    layer = CliffordMessagePassing(1, 1, "R2", difference=False)
    nn.init.zeros_(layer.receiver.weight)
    nn.init.ones_(layer.sender.weight)
    layer.to(device, dtype)
    nodes = 3000
    x = torch.ones(nodes, 4, 1, dtype=dtype, device=device)
    edge_index = torch.stack([torch.arange(nodes), torch.zeros(nodes, dtype=torch.int64)]).to(device)
    for run in (layer, compiled(layer), exported(layer)):
        assert torch.equal(run(x, edge_index)[0], x[0])


def test_compiled_without_breaks():
    layer, (x, edge_attr) = layer_of(), inputs_of()
    runs = compiled(layer), layer
    x.requires_grad_()
    torch.testing.assert_close(*(run(x, EDGES, edge_attr) for run in runs))
    got, wanted = (
        torch.autograd.grad(run(x, EDGES, edge_attr).square().sum(), [x, *layer.parameters()]) for run in runs
    )
    torch.testing.assert_close(got, wanted)


class EdgeWrites(TorchDispatchMode):
    """What writes a tensor of all edges."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.calls = shape, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if not function.is_view and isinstance(out, torch.Tensor) and out.shape == self.shape:
            self.calls.append(function.__name__)
        return out


@pytest.mark.parametrize("difference", [True, False])
def test_edges_are_written_no_more_than_needed(difference):
    """Two gathers and their sum forward, one gather backward: what nodes can do is done there."""
    layer = CliffordMessagePassing(3, 4, "R2", difference=difference).double()
    x, edges = inputs_of(0)[0].requires_grad_(), Edges(EDGES, NODES)
    shape = (EDGES.shape[1], 4, 4)
    with EdgeWrites(shape) as forward:
        out = layer(x, edges)
    with EdgeWrites(shape) as backward:
        out.backward(torch.randn_like(out))
    assert forward.calls == ["index_select.default", "index_select.default", "add_.Tensor"]
    assert backward.calls == ["index_select.default"]


def test_lazy_channels():
    layer = CliffordMessagePassing(None, 4, "R2", update=MVLinear(None, 3, "R2"), edge_channels=2)
    x, edge_attr = (t.float() for t in inputs_of())
    assert layer(x, EDGES, edge_attr).shape == x.shape
    other = CliffordMessagePassing(None, 4, "R2", update=MVLinear(None, 3, "R2"), edge_channels=2)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x, EDGES, edge_attr), layer(x, EDGES, edge_attr))


def scales(layer):
    """How large the weights are, times the root of the channels that come in."""
    return {name: p.std().item() * 8 for name, p in layer.named_parameters() if name != "bias"}


@pytest.mark.parametrize("grades", [None, 1], ids=["with a bias", "without scalars"])
@pytest.mark.parametrize("channels", [64, None])
def test_initial_values(grades, channels):
    """As large as those of one map of three times as many channels, whoever draws them, and how often."""
    blades = 8 if grades is None else 3
    inputs = torch.randn(5, blades, 64), EDGES, torch.randn(6, blades, 64)
    wanted = dict.fromkeys(["receiver.weight", "sender.weight", "edge.weight"], pytest.approx(3**-0.5, rel=0.03))

    def make(**k):
        return CliffordMessagePassing(channels, 256, "R3", grades=grades, difference=False, edge_channels=64, **k)

    layer = make()
    layer(*inputs)
    assert scales(layer) == wanted
    layer.reset_parameters()
    assert scales(layer) == wanted
    layer = make(device="meta")
    layer(*(x.to("meta") for x in inputs))
    layer.to_empty(device="cpu")
    for module in layer.modules():
        module.reset_parameters()
    assert scales(layer) == wanted
    assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize("name", ["receiver.weight", "sender.weight", "edge.weight", "bias"])
@pytest.mark.parametrize("by_hand", [False, True])
def test_what_was_loaded_before_the_first_input_is_kept(name, by_hand):
    known, layer = (CliffordMessagePassing(c, 4, "R2", difference=False, edge_channels=2) for c in (3, None))
    value = torch.randn_like(known.get_parameter(name))
    if by_hand:
        module, _, of = name.rpartition(".")
        setattr(layer.get_submodule(module), of, nn.Parameter(value.clone()))
    else:
        layer.load_state_dict({name: value}, strict=False)
    x, edge_attr = (t.float() for t in inputs_of())
    assert layer(x, EDGES, edge_attr).isfinite().all()
    assert torch.equal(layer.get_parameter(name), value)


def test_channels_of_edges_do_not_wait():
    layer, (x, edge_attr) = CliffordMessagePassing(None, 4, "R2", edge_channels=1), inputs_of()
    with pytest.raises(ValueError, match=r"edge_attr: got shape \(6, 4, 2\), wanted .* 1 channels"):
        layer(x.float(), EDGES, edge_attr.float())


def test_lazy_channels_compiled():
    layer = CliffordMessagePassing(None, 4, "R2", edge_channels=2)
    inputs = [t.float() if t.is_floating_point() else t for t in (inputs_of()[0], EDGES, inputs_of()[1])]
    torch.testing.assert_close(compiled(layer)(*inputs), layer(*inputs))


def test_wrong_inputs():
    layer, (x, edge_attr) = layer_of(), inputs_of()
    for broken, error, message in [
        ((x, EDGES.int(), edge_attr), TypeError, r"edge_index: got torch.int32, wanted .* torch.int64"),
        ((x, EDGES.T, edge_attr), ValueError, r"edge_index: got shape \(6, 2\), wanted \(2, edges\)"),
        ((x[:4], EDGES, edge_attr), ValueError, "edge_index: got nodes 0 to 4, wanted 0 to 3"),
        ((x[:4], Edges(EDGES, NODES), edge_attr), ValueError, "x: got 4 nodes, wanted 5"),
        ((x, EDGES, edge_attr[:3]), ValueError, "edge_attr: got 3 rows, wanted 6"),
        ((x, Edges(EDGES, NODES), edge_attr[:1]), ValueError, "edge_attr: got 1 rows, wanted 6"),
        ((x, EDGES, edge_attr[0, 0, 0]), ValueError, "edge_attr: got 0 rows, wanted 6"),
        ((x, EDGES, edge_attr[:, 0]), ValueError, r"edge_attr: got shape \(6, 2\), wanted \(..., 4 blades, 2 channels"),
        ((x, EDGES[:, :4], edge_attr[0]), ValueError, r"edge_attr: got shape \(4, 2\), wanted \(edges, blades, ch"),
        ((x, EDGES, edge_attr[:, None]), ValueError, r"edge_attr: got shape \(6, 1, 4, 2\), wanted \(edges, blades"),
        ((x, EDGES, edge_attr[..., :1]), ValueError, r"edge_attr: got shape \(6, 4, 1\), wanted .* 2 channels"),
        ((x, EDGES, edge_attr.float()), TypeError, "edge_attr: got torch.float32, wanted torch.float64"),
        ((x, EDGES, edge_attr.tolist()), TypeError, "edge_attr: got list, wanted a torch.Tensor"),
        ((x, Edges(EDGES, NODES, edge_attr), edge_attr), ValueError, "edge_attr: got a tensor, wanted None"),
        ((x, EDGES), ValueError, "edge_attr: got None, wanted 2 channels"),
        ((x, Edges(EDGES, NODES)), ValueError, "edge_attr: got None, wanted 2 channels"),
        ((x[0], EDGES, edge_attr), ValueError, r"x: got shape \(4, 3\), wanted \(nodes, blades, channels\)"),
    ]:
        with pytest.raises(error, match=message):
            layer(*broken)
    with pytest.raises(ValueError, match=r"edge_attr: got shape \(6, 4, 2\), wanted 0 channels"):
        layer_of(0)(x, Edges(EDGES, NODES, edge_attr))
    with pytest.raises(ValueError, match="aggregate: got 'max', wanted 'mean' or 'sum'"):
        layer_of(aggregate="max")


def test_pytorch_geometric():
    data = pytest.importorskip("torch_geometric.data")
    layer, (x, edge_attr) = layer_of(), inputs_of()
    graph = data.Data(x=x, edge_index=EDGES, edge_attr=edge_attr)
    batch = data.Batch.from_data_list([graph, graph])
    out = layer(batch.x, batch.edge_index, batch.edge_attr)
    torch.testing.assert_close(out, plainly(layer, x, EDGES, edge_attr).repeat(2, 1, 1))


def test_modules_of_any_kind():
    layer = CliffordMessagePassing(3, 4, "R2", nn.Identity(), aggregate="sum")
    assert layer(torch.randn(5, 4, 3), EDGES).shape == (5, 4, 4)


def test_hooks_of_its_linear_maps():
    """All are called, so that what is hung on them works."""
    layer, called = CliffordMessagePassing(3, 4, "R2", edge_channels=2, difference=False), []
    for name in ("receiver", "sender", "edge"):
        getattr(layer, name).register_forward_hook(lambda *_, name=name: called.append(name))
    layer(torch.randn(3, 4, 3), torch.tensor([[0, 1], [1, 2]]), torch.randn(2, 4, 2))
    assert sorted(called) == ["edge", "receiver", "sender"]
