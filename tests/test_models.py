"""The paper's models: their sizes, what they turn with, and that they compile and train."""

import pytest
import torch

from cliffnn import Algebra
from cliffnn import functional as F
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


def test_jets_do_not_see_each_other():
    model = LorentzCGENN(features=6, channels=3, layers=2).double().eval()
    momenta, scalars = torch.randn(4, 4, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    both = model(momenta, scalars, EDGES, BATCH, 2)
    alone = model(momenta[2:], scalars[2:], EDGES[:, 2:4] - 2, torch.zeros(2, dtype=torch.int64), 1)
    torch.testing.assert_close(both[1:], alone)


MODELS = {
    "CGENN": (lambda: CGENN(2, 4, 1, 1, 1, "R2"), lambda: (torch.randn(4, 4, 2), EDGES, torch.randn(5, 4, 1))),
    "O3SignedVolume": (lambda: O3SignedVolume(hidden_channels=4), lambda: (torch.randn(5, 3, 3),)),
    "LorentzCGENN": (
        lambda: LorentzCGENN(features=6, channels=2, layers=1, dropout=0.0),
        lambda: (torch.randn(4, 4), torch.randn(4, 2), EDGES, BATCH, 2),
    ),
    "O5ConvexHull": (lambda: O5ConvexHull(4, 3, 1), lambda: (torch.randn(5, 4, 5),)),
}


# Compilers take long over all steps of many products: for those the graph that they would get is enough.
BACKENDS = {"CGENN": "eager", "O5ConvexHull": "aot_eager", "O3SignedVolume": "eager", "LorentzCGENN": "eager"}


@pytest.mark.parametrize("name", BACKENDS)
def test_compiled_without_breaks(name):
    build, make = MODELS[name]
    model, inputs = build(), make()
    torch.compiler.reset()
    compiled = torch.compile(model, backend=BACKENDS[name], fullgraph=True)
    got, wanted = (f(*inputs) for f in (compiled, model))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    parameters = list(model.parameters())
    pairs = zip(*(torch.autograd.grad(out.square().sum(), parameters) for out in (got, wanted)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


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
