"""Under torch.compile: what the compiler sees, what comes out, and when it compiles anew.

Inductor takes half a minute for Cl(3), so most tests stop at the graphs that it would get.
"""

import shutil
import subprocess
import sys
from collections import Counter

import pytest
import reference
import torch
from test_operators import (
    DTYPES_OF,
    OPERATORS,
    SIGNATURES,
    case_id,
    conditioned_inputs,
    executor,
    public,
    random_inputs,
    truth,
)
from torch import nn

from cliffnn import functional as F
from cliffnn import ops
from cliffnn.layers import MVLayerNorm, MVLinear, SGPNormBlock, VersorLinear
from cliffnn.segments import Segments

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # inductor's own imports


@pytest.fixture(autouse=True)
def forget_compiled_code():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def inductor_folder(tmp_path, monkeypatch):
    """A cache of inductor that is empty at the start."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


def recording_backend(graphs):
    """Like inductor up to the graphs of forward and backward, which are recorded and run step by step.

    What is recorded is the names of functions, those in regions too.
    """
    from torch._dynamo.backends.common import aot_autograd

    def record(graph, _):
        parts = [part for part in graph.modules() if isinstance(part, torch.fx.GraphModule)]
        calls = [node for part in parts for node in part.graph.nodes if node.op == "call_function"]
        graphs.append(Counter(str(node.target) for node in calls))
        return graph.forward

    from functorch.compile import make_boxed_func, min_cut_rematerialization_partition

    return aot_autograd(
        fw_compiler=lambda *arguments: make_boxed_func(record(*arguments)),
        bw_compiler=lambda *arguments: make_boxed_func(record(*arguments)),
        partition_fn=min_cut_rematerialization_partition,
    )


@pytest.mark.parametrize("algebra", ["R2", "R3", "R5"])
def test_only_large_algebras_are_opaque(algebra):
    graphs: list[Counter[str]] = []
    inputs = random_inputs("gelu_weighted_geometric_product", algebra, [3], 5, dtype=torch.float64)
    function = torch.compile(
        lambda x, y, w: F.gelu_sgp_norm(x, y, w, algebra), fullgraph=True, backend=recording_backend(graphs)
    )
    reference.assert_correct(function, truth("gelu_weighted_geometric_product", algebra, True), inputs)
    forward, backward = graphs
    opaque = 2 ** sum(SIGNATURES[algebra]) >= 32
    assert ("cliffnn.geometric_op.default" in forward) == opaque
    assert ("cliffnn.geometric_op.default" in backward) == opaque
    assert ("aten.erf.default" in forward) != opaque


def test_what_layers_repeat_is_compiled_once():
    """However deep a network is, inductor meets the steps of each operation once."""

    def met(depth):
        torch.compiler.reset()
        graphs: list[Counter[str]] = []
        layers = nn.Sequential(*[SGPNormBlock(3, "R2") for _ in range(depth)])
        run = torch.compile(layers, fullgraph=True, backend=recording_backend(graphs))
        run(torch.randn(5, 4, 3, requires_grad=True)).sum().backward()
        return [(calls["invoke_subgraph"], calls["aten.addcmul.default"]) for calls in graphs]

    (forward, in_forward), (backward, in_backward) = met(1)
    assert in_forward > 0
    assert in_backward > 0
    assert met(3) == [(3 * forward, in_forward), (3 * backward, in_backward)]


def test_sums_over_edges_are_an_operator_to_compilers_of_a_cpu():
    """What inductor makes of torch's is slow, or adds in any order."""
    index = torch.tensor([2, 0, 2, 3, 0, 2])
    x = torch.randn(6, 4, 3, dtype=torch.float64, requires_grad=True)

    def function(x):
        segments = Segments(index, 5)
        return segments.spread(segments.sum(x).square())

    wanted, graphs = function(x), []
    torch.compiler.reset()
    got = torch.compile(function, fullgraph=True, backend=recording_backend(graphs))(x)
    torch.testing.assert_close(got, wanted)
    grad = torch.randn_like(wanted)
    gradients = (torch.autograd.grad(out, x, grad) for out in (got, wanted))
    torch.testing.assert_close(*gradients)
    # the sum forward; backward that of what was spread
    assert [graph["cliffnn.segment_sum.default"] for graph in graphs] == [1, 1]


@pytest.mark.parametrize("order", [1, -1], ids=["the same first", "another first"])
def test_regions_of_the_same_tensor_twice(order):
    """A product of a tensor with itself is no product with another of the same shape."""

    def function(x, y):
        first, second = (F.geometric_product(x, other, "R3") for other in (x, y)[::order])
        return first + 2 * second

    x, y = torch.randn(2, 5, 8, 3, dtype=torch.float64)
    inputs = [x.requires_grad_(), y.requires_grad_()]
    wanted = function(*inputs)
    torch.compiler.reset()
    got = torch.compile(function, fullgraph=True, backend="aot_eager")(*inputs)
    torch.testing.assert_close(got, wanted)
    grad = torch.randn_like(wanted)
    gradients = (torch.autograd.grad(out, inputs, grad) for out in (got, wanted))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_regions_that_differ_in_little():
    """Algebras of the same size, what norms add, dtypes: each has its own."""

    def function(x, half):
        parts = [F.rms_norm(x, algebra, eps) for algebra in ("R1,3", "R3,0,1") for eps in (1e-6, 1.0)]
        return torch.stack([*parts, F.rms_norm(half, "R1,3").double()])

    x = torch.randn(5, 16, 3, dtype=torch.float64)
    torch.compiler.reset()
    got = torch.compile(function, fullgraph=True, backend="aot_eager")(x, x.float())
    torch.testing.assert_close(got, function(x, x.float()), rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_linear_map_on_a_gpu_stays_one_operator():
    graphs, layer = [], MVLinear(3, 4, "R2", device="cuda")
    x = torch.randn(5, 4, 3, device="cuda", requires_grad=True)
    out = torch.compile(layer, fullgraph=True, backend=recording_backend(graphs))(x)
    torch.testing.assert_close(out, layer(x))
    out.square().sum().backward()
    forward, backward = graphs
    assert {name for name in forward | backward if "mm" in name} == set()
    assert "cliffnn.linear.default" in forward
    assert "cliffnn.linear_backward.default" in backward


@pytest.mark.parametrize(
    ("expression", "normalize", "dtype"), [(*o, dtype) for o in OPERATORS for dtype in DTYPES_OF[o[0]]], ids=case_id
)
@pytest.mark.parametrize("algebra", [algebra for algebra in SIGNATURES if algebra != "R5"])
def test_what_the_compiler_sees_is_right(algebra, expression, normalize, dtype):
    """Without a compiler: that would take its time over each, and repeat what it is told."""
    function = executor("traceable", expression, algebra, normalize)
    for rows in (0, 7):
        inputs = conditioned_inputs(expression, algebra, rows, 5, normalize, dtype=dtype)
        reference.assert_correct(function, truth(expression, algebra, normalize), inputs)


@pytest.mark.parametrize("needs_grad", [[True, False, False], [False, True, False], [False, False, True]], ids=str)
def test_gradients_of_some_inputs(needs_grad):
    inputs = random_inputs("gelu_weighted_geometric_product", "R2", [7], 5)
    function = torch.compile(lambda *xyw: F.gelu_sgp_norm(*xyw, "R2"), fullgraph=True, backend="aot_eager")
    reference.assert_correct(function, truth("gelu_weighted_geometric_product", "R2", True), inputs, needs_grad)


@pytest.mark.parametrize(("algebra", "dtype"), [("R2", torch.bfloat16), ("R3", torch.float32)], ids=str)
def test_inductor(inductor_folder, algebra, dtype):
    """Vectorised by the channel, with a rest: 28 is no multiple of what a register holds."""
    expression = "gelu_weighted_geometric_product"
    inputs = random_inputs(expression, algebra, [19], 28, dtype=dtype)
    function = torch.compile(public(expression, algebra, True), fullgraph=True)
    reference.assert_correct(function, truth(expression, algebra, True), inputs)


def test_training_with_inductor(inductor_folder):
    """A whole network: gradients as without the compiler, batches of another size without a third compilation."""
    from torch._dynamo.testing import CompileCounterWithBackend

    def network(dtype):
        torch.manual_seed(0)
        return nn.Sequential(MVLinear(2, 6, "R2"), SGPNormBlock(6, "R2"), MVLinear(6, 1, "R2")).to(dtype)

    def gradients(model, x):
        return torch.autograd.grad(model(x).square().sum(), [x, *parameters])

    counter = CompileCounterWithBackend("inductor")
    model, exact = network(torch.float64), network(torch.float64)
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for rows in (40, 50, 60, 7):
        x = torch.randn(rows, 4, 2, dtype=torch.float64, requires_grad=True)
        parameters = list(model.parameters())
        got = gradients(compiled, x)
        parameters = list(exact.parameters())
        for g, wanted in zip(got, gradients(exact, x), strict=True):
            torch.testing.assert_close(g, wanted, rtol=1e-9, atol=1e-12)
    assert counter.frame_count == 2


def test_inductor_with_sizes_that_are_products(inductor_folder):
    """Rows of two batch dimensions, both of any size: the code of a region has to find both."""
    model = nn.Sequential(SGPNormBlock(3, "R1"), SGPNormBlock(3, "R1")).double()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)

    def step(model, x):
        out = model(x)
        return out, *torch.autograd.grad(out.square().sum(), [x, *model.parameters()])

    for rows in ((4, 5), (6, 7)):
        x = torch.randn(*rows, 2, 3, dtype=torch.float64, requires_grad=True)
        torch.testing.assert_close(step(compiled, x), step(model, x))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, which compiles the wrapper")
def test_wrappers_in_cpp(inductor_folder):
    """Inductor has no code in C++ for regions."""
    block, x = SGPNormBlock(3, "R1").double(), torch.randn(5, 2, 3, dtype=torch.float64)
    compiled = torch.compile(block, fullgraph=True, options={"cpp_wrapper": True})
    torch.testing.assert_close(compiled(x), block(x))


def test_versors_with_inductor(inductor_folder):
    """Rotors and their sandwiches, trained."""
    layer = VersorLinear(3, 4, "R3", dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True)
    x = torch.randn(5, 8, 3, dtype=torch.float64, requires_grad=True)

    def step(module):
        out = module(x)
        return out, *torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])

    torch.testing.assert_close(step(compiled), step(layer))


@pytest.mark.parametrize("spec", ["R0,1,1", (1, 0, 1), "R0, 2"], ids=str)
def test_an_algebra_first_met_in_compiled_code(spec, monkeypatch):
    from types import SimpleNamespace

    from cliffnn import algebra

    monkeypatch.setattr(algebra, "_known", SimpleNamespace())
    x = torch.randn(3, 4, 2)

    def function(x):
        # of two algebras, the second is met when the first is known
        return F.rms_norm(x, spec) + F.gelu(x, "R1,1")

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, function(x))


@pytest.mark.parametrize(("dynamic", "last"), [(True, 0), (None, 1)])
@pytest.mark.parametrize("algebra", ["R1", "R0,0,1"])
def test_new_batch_sizes_compile_nothing(dynamic, last, algebra):
    """From the first batch on, or from the second; without the norm and with it, with null grades too."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    model = nn.Sequential(SGPNormBlock(3, algebra), SGPNormBlock(3, algebra, normalize=False))
    compiled = torch.compile(model, fullgraph=True, backend=counter, dynamic=dynamic)
    counts = []
    for rows in (4, 5, 6, 9):
        compiled(torch.randn(rows, 2, 2, 3)).sum().backward()
        counts.append(counter.frame_count)
    assert counts[last:] == [counts[last]] * (4 - last)


def test_what_a_float_costs_under_dynamic_shapes():
    """Dynamo first tries to make floats dynamic, as eps, and begins anew: for torch's own layers too."""
    from torch._dynamo.testing import CompileCounterWithBackend

    def compilations(module, **options):
        torch.compiler.reset()
        counter = CompileCounterWithBackend("aot_eager")
        with torch._dynamo.config.patch(**options):
            compiled = torch.compile(module, fullgraph=True, backend=counter, dynamic=True)
            for rows in (5, 6, 9):
                compiled(torch.randn(rows, 2, 3)).sum().backward()
        return counter.frame_count

    block = SGPNormBlock(3, "R1")
    assert compilations(block) == compilations(nn.LayerNorm(3))
    assert compilations(block, specialize_float=True) == 1


SIZES_OF_DATA = {
    "nonzero": lambda x, chosen: x[chosen.nonzero().squeeze(1)],
    "mask": lambda x, chosen: x[chosen],
    "repeat_interleave": lambda x, chosen: x.repeat_interleave(2 * chosen, 0),
    "unique": lambda x, chosen: x[torch.unique(chosen.long())],
    "item": lambda x, chosen: x[: chosen.sum().item()],
}


def check_sizes_of_data(choose, module, needs_grad, backend):
    def function(x, chosen):
        return module(choose(x, chosen))

    x = torch.randn(9, 2, 3, dtype=torch.float64, requires_grad=needs_grad)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True, capture_scalar_outputs=True):
        compiled = torch.compile(function, fullgraph=True, backend=backend)
        for chosen in (torch.arange(9) % 2 == 0, torch.arange(9) == 3):
            results = [run(x, chosen) for run in (compiled, function)]
            torch.testing.assert_close(*results)
            if needs_grad:
                inputs = [x, *module.parameters()]
                torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), inputs) for out in results))


@pytest.mark.parametrize("needs_grad", [False, True])
@pytest.mark.parametrize("choose", SIZES_OF_DATA.values(), ids=SIZES_OF_DATA)
def test_sizes_that_only_the_data_know(choose, needs_grad):
    """What is found of nodes or edges, say: steps are no region there."""
    module = nn.Sequential(MVLayerNorm(3, "R1"), SGPNormBlock(3, "R1")).double().requires_grad_(needs_grad)
    check_sizes_of_data(choose, module, needs_grad, "aot_eager")


def test_sizes_that_only_the_data_know_with_inductor(inductor_folder):
    """Not of a linear map: inductor wants to know of a sum over rows, a batched matrix product, that they are many."""
    check_sizes_of_data(SIZES_OF_DATA["mask"], MVLayerNorm(3, "R1").double(), True, "inductor")


def test_many_of_what_only_the_data_know_with_inductor(inductor_folder):
    """What the docs say of it."""
    block = SGPNormBlock(3, "R1").double()

    def function(x, chosen):
        rows = x[chosen]
        torch._check(rows.shape[0] > 1)
        return block(rows)

    x, chosen = torch.randn(9, 2, 3, dtype=torch.float64, requires_grad=True), torch.arange(9) % 2 == 0
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        results = [run(x, chosen) for run in (torch.compile(function, fullgraph=True), function)]
    torch.testing.assert_close(*results)
    inputs = [x, *block.parameters()]
    torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), inputs) for out in results))


def test_one_of_a_size_that_only_the_data_know():
    """One row for all of them broadcasts, and so does torch's."""
    x, chosen = torch.randn(9, 4, 3), torch.arange(9) % 2 == 0

    def function(x, chosen):
        return F.geometric_product(x[chosen], x[:1], "R2")

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, chosen), function(x, chosen))


def test_new_generator_is_never_served_old_code(inductor_folder, monkeypatch):
    from torch._dynamo.utils import counters

    def outcome():
        torch.compiler.reset()
        counters.clear()
        torch.compile(lambda x: F.gelu(x, "R2"), fullgraph=True)(torch.randn(3, 4, 8))
        return {name: counters["aot_autograd"][f"autograd_cache_{name}"] for name in ("hit", "miss")}

    assert outcome() == {"hit": 0, "miss": 1}
    assert outcome() == {"hit": 1, "miss": 0}
    monkeypatch.setattr(ops, "GENERATOR", "another")
    assert outcome() == {"hit": 0, "miss": 1}


def test_import_leaves_the_compiler_alone():
    """It costs seconds that only who compiles shall pay."""
    script = (
        "import sys, torch, cliffnn.functional as F, cliffnn.layers;"
        "F.gelu(torch.randn(3, 4, 8, requires_grad=True), 'R2').sum().backward();"
        "print([name for name in ('torch._dynamo', 'torch._inductor') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"
