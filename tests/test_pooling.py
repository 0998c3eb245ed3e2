"""Pooling over nodes and graphs: against loops, under versors and permutations, and to the second derivative."""

import pytest
import reference
import torch
from test_operators import DTYPES, SIGNATURES
from torch._dynamo.testing import CompileCounter

from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.layers import MVPool
from cliffnn.segments import Segments

# dynamo makes an instance of every autograd.Function that it traces
pytestmark = pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'>:DeprecationWarning")

KINDS = {
    "sum": ("sum", False),
    "mean": ("mean", False),
    "max": ("max", False),
    "max by grade": ("max", True),
}
# In no order, with graphs 1, 4 and 5 empty.
BATCH = torch.tensor([3, 0, 0, 2, 3, 0, 3])
GRAPHS = 6

algebras = pytest.mark.parametrize("algebra", SIGNATURES)
kinds = pytest.mark.parametrize(("reduce", "by_grade"), KINDS.values(), ids=KINDS)


def nodes_to_graph(x, reduce, by_grade, signature):
    """One graph, ``(nodes, blades, channels)``."""
    if not len(x):
        return x.sum(0)
    if reduce != "max":
        return x.sum(0) / (len(x) if reduce == "mean" else 1)
    form, grades = torch.tensor(reference.quadratic_form(signature)).to(x), reference.grade_slices(signature)
    channels = []
    for c in range(x.shape[-1]):
        node = x[..., c]
        norms = torch.stack([(form[grade] * node[:, grade] ** 2).sum(-1).abs() for grade in grades], -1)
        norms = norms if by_grade else norms.sum(-1, keepdim=True)
        parts = []
        for grade, norm in zip(grades if by_grade else [slice(None)], norms.unbind(-1), strict=True):
            chosen = [n for n in range(len(x)) if norm[n] == norm.max()]
            parts.append(sum(node[n, grade] for n in chosen) / len(chosen))
        channels.append(torch.cat(parts))
    return torch.stack(channels, -1)


def truth(reduce, by_grade, signature, batch=None, size=None):
    def function(x):
        if batch is None:
            return torch.stack([nodes_to_graph(nodes, reduce, by_grade, signature) for nodes in x])
        graphs = [x[(batch == g).to(x.device)] for g in range(size)]
        return torch.stack([nodes_to_graph(nodes, reduce, by_grade, signature) for nodes in graphs])

    return function


@algebras
@kinds
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_over_a_batch(algebra, reduce, by_grade, dtype, device):
    x = torch.randn(len(BATCH), len(Algebra(algebra)), 3, dtype=torch.float64, device=device).to(dtype)
    batch = BATCH.to(device)
    reference.assert_correct(
        lambda x: F.pool(x, algebra, reduce, batch, GRAPHS, by_grade=by_grade),
        truth(reduce, by_grade, SIGNATURES[algebra], BATCH, GRAPHS),
        [x],
    )


@algebras
@kinds
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_over_a_dimension(algebra, reduce, by_grade, dtype, device):
    x = torch.randn(2, 5, len(Algebra(algebra)), 3, dtype=torch.float64, device=device).to(dtype)
    reference.assert_correct(
        lambda x: F.pool(x, algebra, reduce, by_grade=by_grade), truth(reduce, by_grade, SIGNATURES[algebra]), [x]
    )


@kinds
def test_any_dimension(reduce, by_grade):
    x = torch.randn(2, 5, 4, 8, 3)
    expected = F.pool(x, "R3", reduce, by_grade=by_grade)
    assert expected.shape == (2, 5, 8, 3)
    for dim in (0, 1, 2, -3, -4, -5):
        moved = x.movedim(2, dim) if dim >= 0 else x.movedim(2, dim + 5)
        torch.testing.assert_close(MVPool(reduce, "R3", dim, by_grade)(moved), expected)
        torch.testing.assert_close(F.pool(moved, "R3", reduce, dim=dim, by_grade=by_grade), expected)


@kinds
def test_a_batch_is_its_graphs_one_by_one(reduce, by_grade):
    """And the number of graphs is that of the last with nodes."""
    x = torch.randn(len(BATCH), 8, 3)
    out = MVPool(reduce, "R3", by_grade=by_grade)(x, BATCH)
    assert len(out) == 4
    for graph, pooled in enumerate(out):
        torch.testing.assert_close(F.pool(x[graph == BATCH], "R3", reduce, by_grade=by_grade), pooled)


@kinds
def test_without_nodes(reduce, by_grade):
    nobody, x = torch.zeros(0, dtype=torch.int64), torch.randn(0, 8, 3, requires_grad=True)
    assert torch.equal(F.pool(x, "R3", reduce, nobody, 2, by_grade=by_grade), torch.zeros(2, 8, 3))
    assert F.pool(x, "R3", reduce, nobody, by_grade=by_grade).shape == (0, 8, 3)
    out = F.pool(x, "R3", reduce, by_grade=by_grade)
    assert torch.equal(out, torch.zeros(8, 3))
    out.sum().backward()
    assert x.grad.shape == x.shape


@kinds
@pytest.mark.parametrize("batch", [None, BATCH], ids=["dimension", "batch"])
def test_derivatives(reduce, by_grade, batch):
    x = torch.randn(len(BATCH), 4, 2, dtype=torch.float64, requires_grad=True)

    def function(x):
        return F.pool(x * x * x, "R2", reduce, batch, by_grade=by_grade)

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_derivatives_of_every_order_through_segments():
    segments, x = Segments(BATCH, GRAPHS), torch.randn(len(BATCH), 3, dtype=torch.float64, requires_grad=True)

    def third(x):
        out = segments.spread(segments.sum(x**4))
        for _ in range(2):
            (out,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        return out

    assert torch.autograd.gradcheck(third, x)


def test_the_larger_is_chosen_and_ties_are_shared():
    """Of two points with the same weight there is no larger one: the order must not choose."""
    points = F.embed_points(torch.randn(4, 3, 2, dtype=torch.float64), "R3,0,1")
    mean = F.pool(points, "R3,0,1", "mean")
    torch.testing.assert_close(F.pool(points, "R3,0,1", "max"), mean)
    torch.testing.assert_close(F.pool(points[[2, 0, 3, 1]], "R3,0,1", "max"), mean)
    points[2] *= 1.5
    assert torch.equal(F.pool(points, "R3,0,1", "max"), points[2])
    one = torch.zeros(4, dtype=torch.int64)
    assert torch.equal(F.pool(points, "R3,0,1", "max", one)[0], points[2])


def test_a_grade_without_norm_is_averaged():
    x = torch.randn(5, 16, 3)
    out = F.pool(x, "R3,0,1", "max", by_grade=True)
    torch.testing.assert_close(out[-1], x[:, -1].mean(0))


@kinds
@pytest.mark.parametrize("batch", [None, BATCH], ids=["dimension", "batch"])
def test_nan_is_not_lost(reduce, by_grade, batch):
    x = torch.randn(len(BATCH), 8, 2)
    x[1, 2, 1] = torch.nan
    out = F.pool(x, "R3", reduce, batch, by_grade=by_grade).reshape(-1, 8, 2)
    assert out[0, 2, 1].isnan()
    assert not out[..., 0].isnan().any()
    assert not out[1:].isnan().any()


@pytest.fixture
def forget_compiled_code():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("forget_compiled_code")
@kinds
def test_compiled(reduce, by_grade):
    pool, x = MVPool(reduce, "R3", by_grade=by_grade), torch.randn(len(BATCH), 8, 3, requires_grad=True)
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    for arguments in ((), (BATCH, GRAPHS)):
        results = []
        for function in (pool, compiled):
            out = function(x, *arguments)
            results.append((out, *torch.autograd.grad(out.square().sum(), x)))
        torch.testing.assert_close(*results)
    with pytest.raises(RuntimeError, match="outside the graphs"):
        compiled(x, BATCH, 3)


@pytest.mark.usefixtures("forget_compiled_code")
def test_one_compilation_for_batches_of_every_size():
    frames = CompileCounter()
    compiled = torch.compile(
        lambda x, batch: F.pool(x, "R3", "max", batch, GRAPHS), fullgraph=True, backend=frames, dynamic=True
    )
    for copies in (1, 2, 3):
        batch = BATCH.repeat(copies)
        x = torch.randn(len(batch), 8, 3)
        torch.testing.assert_close(compiled(x, batch), F.pool(x, "R3", "max", batch, GRAPHS))
    assert frames.frame_count == 1


@kinds
def test_the_same_bits_in_every_run(reduce, by_grade, device):
    """Without asking torch for it; atomic additions would come in another order each time."""
    torch.set_deterministic_debug_mode("default")  # `poison` puts it back
    x = torch.randn(20_000, 4, 8, device=device, requires_grad=True)
    batch = torch.randint(0, 20, (len(x),), device=device)
    grad = torch.randn(20, 4, 8, device=device)
    runs = []
    for _ in range(5):
        out = F.pool(x, "R2", reduce, batch, 20, by_grade=by_grade)
        (first,) = torch.autograd.grad(out, x, grad, create_graph=True)
        # differentiating the selection back is a sum again
        runs.append((out, first))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))
