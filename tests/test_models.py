"""The paper's models: their sizes, what they turn with, and that they compile and train."""

import copy
import io
import pickle

import pytest
import torch

from cliffnn import Algebra, models, ops
from cliffnn import functional as F
from cliffnn.edges import Edges
from cliffnn.layers import CliffordMessagePassing, MVLayerNorm, MVSiLU, NormalizationLayer
from cliffnn.models import CEMLP, CGENN, LorentzCGENN, O3SignedVolume, O5ConvexHull, O5Regression
from cliffnn.testing import apply_versor, assert_equivariant, random_versor, randomize_parameters

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # dynamo's own way with functions

EDGES = torch.tensor([[0, 1, 2, 3, 1], [1, 0, 3, 2, 0]])
BATCH = torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (CGENN, 134_625),
        (O3SignedVolume, 48_913),
        (O5ConvexHull, 58_849),
        (O5Regression, 344_077),
        (LorentzCGENN, 320_594),
    ],
)
def test_parameters_are_as_many_as_in_the_papers_code(model, count):
    assert sum(p.numel() for p in model().parameters()) == count


@pytest.mark.parametrize("algebra", ["R2", "R1,3", "R2,0,1"])
def test_perceptron(algebra):
    x = torch.randn(3, len(Algebra(algebra)), 2)
    assert_equivariant(CEMLP(2, 4, 3, algebra), algebra, x)
    assert len(CEMLP(2, 4, 3, algebra, layers=3)) == 3


class OnEdges(torch.nn.Module):
    def __init__(self, algebra):
        super().__init__()
        self.model = CGENN(2, 3, 2, 1, 2, algebra)
        self.charges = F.embed(torch.randn(5, 1, 1, dtype=torch.float64), 0, algebra)

    def forward(self, x):
        return self.model(x, EDGES, self.charges)


@pytest.mark.parametrize("algebra", ["R2", "R3", "R1,3"])
def test_graph_network(algebra):
    assert_equivariant(OnEdges(algebra), algebra, torch.randn(4, len(Algebra(algebra)), 2))


def rotations(algebra, odd, count=1):
    """How versors act on vectors."""
    algebra = Algebra(algebra)
    basis = torch.eye(len(algebra), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        action = apply_versor(random_versor(algebra, odd, generator), basis, algebra)
        yield action[algebra.grade_slices[1], algebra.grade_slices[1]]


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize(
    ("model", "points", "pseudo"), [(O3SignedVolume, 3, True), (O5ConvexHull, 16, False), (O5Regression, 2, False)]
)
def test_turned_points(model, points, pseudo, odd):
    model = model().double()
    randomize_parameters(model, scale=0.1)
    x = torch.randn(4, points, model.algebra.dim, dtype=torch.float64)
    (turn,) = rotations(model.algebra, odd)
    sign = -1 if pseudo and odd else 1
    torch.testing.assert_close(model(x @ turn.T), sign * model(x), rtol=1e-9, atol=1e-9)
    assert model(x).std() > 0.01 * model(x).abs().mean()


@pytest.mark.parametrize("odd", [False, True])
def test_boosted_jets(odd):
    model = LorentzCGENN(features=6, channels=3, layers=2).double().eval()
    randomize_parameters(model, scale=0.2)
    momenta, scalars = torch.randn(4, 4, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    (boost,) = rotations("R1,3", odd)
    out = model(momenta, scalars, EDGES, BATCH, 2)
    boosted = model(momenta @ boost.T, scalars, EDGES, BATCH, 2)
    torch.testing.assert_close(boosted, out, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(out[0], out[1])


def test_wrong_jets():
    model = LorentzCGENN(features=6, channels=2, layers=1, dropout=0.0).eval()
    momenta, scalars = torch.randn(4, 4), torch.randn(4, 2)
    for batch, graphs, error, message in [
        (BATCH, 1, ValueError, "batch: got an index outside the graphs 0 to 0"),
        (BATCH - 1, 2, ValueError, "batch: got an index outside the graphs 0 to 1"),
        (BATCH[:3], 2, ValueError, r"batch: got shape \(3,\) for momenta of \(4, 4\), wanted \(particles,\)"),
        (BATCH.int(), 2, TypeError, "batch: got torch.int32, wanted a torch.Tensor of torch.int64"),
        (BATCH.to("meta"), 2, ValueError, "batch: got a tensor on meta, wanted cpu, where momenta is"),
        (BATCH, -1, ValueError, "graphs: got -1, wanted a number of graphs"),
    ]:
        with pytest.raises(error, match=message):
            model(momenta, scalars, EDGES, batch, graphs)
    with pytest.raises(ValueError, match="momenta: got 4 nodes, wanted 5, as the edges have"):
        model(momenta, scalars, Edges(EDGES, 5), BATCH, 2)
    inputs = momenta, scalars, EDGES, BATCH, 2
    torch.compiler.reset()
    for run in (torch.export.export(model, inputs).module(), torch.compile(model, backend="aot_eager", fullgraph=True)):
        torch.testing.assert_close(run(*inputs), model(*inputs))
        with pytest.raises(RuntimeError, match="outside the graphs"):
            run(momenta, scalars, EDGES, BATCH + 1, 2)


def test_jets_do_not_see_each_other():
    model = LorentzCGENN(features=6, channels=3, layers=2).double().eval()
    momenta, scalars = torch.randn(4, 4, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    both = model(momenta, scalars, EDGES, BATCH, 2)
    alone = model(momenta[2:], scalars[2:], EDGES[:, 2:4] - 2, torch.zeros(2, dtype=torch.int64), 1)
    torch.testing.assert_close(both[1:], alone)


def jets(particles):
    """Two jets of the particles of even and of odd numbers."""
    momenta, scalars = torch.randn(particles, 4), torch.randn(particles, 2)
    return momenta, scalars, a_graph(particles), torch.arange(particles) % 2, 2


def graphs(nodes):
    return torch.randn(nodes, 4, 2), a_graph(nodes), torch.randn(2 * nodes + 1, 4, 1)


def a_graph(nodes):
    return torch.randint(nodes, (2, 2 * nodes + 1))


def systems(count):
    return torch.randn(count, 4), torch.randn(count, 4, 3), torch.randn(count, 4, 3)


def nbody():
    from examples.nbody.cgenn import NBodyCGENN

    return NBodyCGENN(channels=4, layers=1)


def in_double(inputs):
    return tuple(x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs)


ROWS, EDGE = torch.export.Dim("rows"), torch.export.Dim("edge")
BATCHES = ({0: ROWS},)
# A model, its inputs for some size, and which of their dimensions may change.
MODELS = {
    "CEMLP": (lambda: CEMLP(3, 4, 2, "R2"), lambda rows: (torch.randn(rows, 4, 3),), BATCHES),
    "CGENN": (lambda: CGENN(2, 4, 1, 1, 1, "R2"), graphs, ({0: ROWS}, {1: EDGE}, {0: EDGE})),
    "O3SignedVolume": (lambda: O3SignedVolume(hidden_channels=4), lambda rows: (torch.randn(rows, 3, 3),), BATCHES),
    "LorentzCGENN": (
        lambda: LorentzCGENN(features=6, channels=2, layers=1, dropout=0.0),
        jets,
        ({0: ROWS}, {0: ROWS}, {1: EDGE}, {0: ROWS}, None),
    ),
    "O5ConvexHull": (lambda: O5ConvexHull(4, 3, 1), lambda rows: (torch.randn(rows, 4, 5),), BATCHES),
    "O5Regression": (lambda: O5Regression(features=5), lambda rows: (torch.randn(rows, 2, 5),), BATCHES),
    "NBodyCGENN": (nbody, systems, 3 * BATCHES),
}
every_model = pytest.mark.parametrize(("build", "make", "dynamic"), MODELS.values(), ids=MODELS)


def test_every_model_is_here():
    assert set(models.__all__) <= set(MODELS)


@every_model
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning")  # torch.export's own use
def test_exported_with_dynamic_sizes(build, make, dynamic):
    model = build().double()
    program = torch.export.export(model, in_double(make(7)), dynamic_shapes=dynamic).module()
    for n in (7, 3, 8):
        inputs = in_double(make(n))
        torch.testing.assert_close(program(*inputs), model(*inputs))


@every_model
def test_compiled_without_breaks(build, make, dynamic, monkeypatch):
    """One compilation for all sizes, of operators; test_compile.py compiles their steps, which takes its time."""
    from torch._dynamo.testing import CompileCounterWithBackend

    monkeypatch.setattr(ops, "_VISIBLE_BLADES", 0)
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model = build().double()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    parameters = list(model.parameters())
    for n in (7, 3, 8):
        inputs = in_double(make(n))
        # or dynamo first tries to make floats dynamic too: test_compile.py
        with torch._dynamo.config.patch(specialize_float=True):
            got, wanted = compiled(*inputs), model(*inputs)
        torch.testing.assert_close(got, wanted)
        gradients = (torch.autograd.grad(out.square().sum(), parameters) for out in (got, wanted))
        torch.testing.assert_close(*gradients)
    assert counter.frame_count == 1


@every_model
def test_copies_files_and_states(build, make, dynamic, device):
    model = build().double().to(device)
    randomize_parameters(model)
    inputs = tuple(x.to(device) if isinstance(x, torch.Tensor) else x for x in in_double(make(7)))
    expected = model(*inputs)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert torch.equal(twin(*inputs), expected)
        assert repr(twin) == repr(model)
    # built without memory; the other device's state
    with torch.device("meta"):
        twin = build().double()
    assert all(parameter.is_meta for parameter in twin.parameters())
    twin.load_state_dict({name: value.cpu() for name, value in model.state_dict().items()}, assign=True)
    torch.testing.assert_close(twin(*(x.cpu() if isinstance(x, torch.Tensor) else x for x in inputs)), expected.cpu())
    twin = twin.to_empty(device=device)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(*inputs), expected)


@every_model
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(build, make, dynamic, dtype):
    model = build().to(dtype)
    inputs = (x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in make(7))
    out = model(*inputs)
    assert out.dtype == dtype
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        (CEMLP, (3, 4, 2, "R2")),
        (CGENN, ()),
        (O3SignedVolume, ()),
        (O5ConvexHull, ()),
        (O5Regression, ()),
        (LorentzCGENN, ()),
    ],
)
def test_skip_init(model, arguments):
    skipped = torch.nn.utils.skip_init(model, *arguments)
    # what the fixture `poison` fills memory with
    assert all(p.device.type == "cpu" and p.isnan().all() for p in skipped.parameters())
    twin = model(*arguments)
    skipped.load_state_dict(twin.state_dict())
    torch.testing.assert_close(dict(skipped.state_dict()), dict(twin.state_dict()))


def test_inductor(tmp_path, monkeypatch):
    """Messages with a gate and a norm; a product would take its compiler half a minute."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    message = torch.nn.Sequential(MVSiLU(2, "R2"), NormalizationLayer(2, "R2"), MVLayerNorm(2, "R2"))
    model = CliffordMessagePassing(2, 2, "R2", message, edge_channels=1).double()
    inputs = torch.randn(4, 4, 2).double(), EDGES, torch.randn(5, 4, 1).double()
    compiled = torch.compile(model, fullgraph=True)
    gradients = [torch.autograd.grad(f(*inputs).square().sum(), list(model.parameters())) for f in (compiled, model)]
    torch.testing.assert_close(*gradients)


def test_a_model_trains():
    model = O3SignedVolume(hidden_channels=8)
    points = torch.randn(128, 3, 3)
    volumes = torch.linalg.det(points) / 10
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.mse_loss(model(points), volumes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("layers", [0, -1])
def test_wrong_layers(layers):
    for model in (lambda **k: CEMLP(2, 4, 3, "R2", **k), CGENN, O3SignedVolume, O5ConvexHull, LorentzCGENN):
        with pytest.raises(ValueError, match=f"layers: got {layers}, wanted a positive int"):
            model(layers=layers)
