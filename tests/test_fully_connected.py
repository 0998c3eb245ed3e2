"""The fully connected geometric product: torch's products on a CPU, kernels under the interpreter and on a GPU."""

import functools
import importlib
from itertools import chain, pairwise

import pytest
import reference
import torch
from torch import nn

from cliffnn import Algebra, ops, path_products
from cliffnn import fully_connected as operators
from cliffnn import functional as F
from cliffnn.graded_product import GradedProduct
from cliffnn.layers import FCGP, MVGELU, FCGPNormBlock, MVRMSNorm

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
DEVICES = ["cpu", pytest.param("cuda", marks=gpu)]
ALGEBRAS = ("R2", "R3", "R1,3", "R3,0,1", "R2,0,1", "R0,2", "R5")
# Grades that factors and results hold; there is no path to a vector from two.
GRADED = (
    "R3[x=1,y=1,out=0+2]",
    "R3[x=0+2,y=0+1,out=0+1+2+3]",
    "R3[x=1,y=1,out=0+1+2]",
    "R3,0,1[x=1,y=2+4,out=1+3]",
    "R1,3[x=0+2+4,y=0+2+4,out=0+2+4]",
)
# rows, channels in, channels out
SHAPES = ((0, 3, 4), (1, 1, 1), (3, 28, 7), (19, 5, 33))
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="no interpreter where there is a GPU")


@functools.cache
def path_tables(name):
    """The Cayley table taken apart by path: ``(paths, blades, blades, blades)``."""
    algebra = Algebra(name)
    signature = (algebra.p, algebra.q, algebra.r)
    table, grades = reference.cayley(signature), reference.grade_slices(signature)
    tables = torch.zeros(len(reference.paths(signature)), *table.shape, dtype=table.dtype)
    for part, (i, j, k) in zip(tables, reference.paths(signature), strict=True):
        block = grades[i], grades[j], grades[k]
        part[block] = table[block]
    return tables


def gelu(x):
    return reference.gelu(x, None)


def held(name):
    """The algebra, and the grades that the factors and the result hold."""
    name, _, rest = name.partition("[")
    algebra = Algebra(name)
    texts = [part.partition("=")[2] for part in rest.rstrip("]").split(",")] if rest else [""] * 3
    return algebra, [tuple(map(int, text.split("+"))) if text else algebra.grades for text in texts]


def product(x, y, weight, name, gate=False):
    """The definition, path by path."""
    x, y = (gelu(x), gelu(y)) if gate else (x, y)
    algebra, grades = held(name)
    signature = (algebra.p, algebra.q, algebra.r)
    table, slices = reference.cayley(signature).to(x), reference.grade_slices(signature)
    out = x.new_zeros(len(x), len(algebra.blades_of(grades[2])), weight.shape[1])
    left, right, of_out = (
        dict(zip(own, tensor.split([algebra.grade_sizes[k] for k in own], 1), strict=True))
        for own, tensor in zip(grades, (x, y, out), strict=True)
    )
    paths = [p for p in reference.paths(signature) if all(k in own for k, own in zip(p, grades, strict=True))]
    for matrix, (i, j, k) in zip(weight, paths, strict=True):
        pairs = left[i][:, :, None] * right[j][:, None]
        of_path = torch.einsum("abk,nabc->nkc", table[slices[i], slices[j], slices[k]], pairs)
        of_out[k] = of_out[k] + of_path @ matrix.T
    return torch.cat([of_out[k] for k in grades[2]], 1)


@torch.enable_grad()
def truth(x, y, weight, grad, name, gate):
    """The result, and the gradients with respect to the factors and the weight."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, y, weight)]
    out = product(*leaves, name, gate)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def inputs(rows, ins, outs, name, dtype, device="cpu"):
    algebra, grades = held(name)
    x, y, out = (len(algebra.blades_of(own)) for own in grades)
    paths = len(algebra.paths_between(*grades))
    shapes = (rows, x, ins), (rows, y, ins), (paths, outs, ins), (rows, out, outs)
    return [torch.randn(s, dtype=dtype, device=device) for s in shapes]


def check(module, rows, ins, outs, name, dtype, device="cpu", gate=False):
    """Each of a module's functions against the definition in float64; half precision may round products once."""
    tensors = inputs(rows, ins, outs, name, dtype, device)
    x, y, weight, grad = tensors
    exact = truth(*(t.double() for t in tensors), name, gate)
    in_float32 = truth(*(t.float() for t in tensors), name, gate)
    of = name if module is operators else GradedProduct.of(name)
    out = module.fully_connected(x, y, weight, of, gate)
    grad_weight = module.fully_connected_weight(grad, x, y, of, gate)
    factors = []
    if module is operators and not gate:
        left = module.fully_connected_factor(grad, y, weight, of, True)
        factors.append((left, module.fully_connected_factor(grad, x, weight, of, False)))
    if module is operators or module.shares_products(of):
        factors.append(module.fully_connected_factors(grad, x, y, weight, of, gate))
    floor = {torch.float64: 1e-13, torch.float32: 2e-6}.get(dtype, 2 * torch.finfo(dtype).eps)
    got = [out, *chain(*factors), grad_weight]
    exact, in_float32 = ([one, *both * len(factors), last] for one, *both, last in (exact, in_float32))
    for result, wanted, single in zip(got, exact, in_float32, strict=True):
        assert result.dtype == dtype
        slack = 2 * reference.relative_error(single, wanted) if dtype == torch.float32 else 0
        assert reference.relative_error(result, wanted) <= max(floor, slack)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*ALGEBRAS, *GRADED])
def test_torch_on_a_cpu(name, dtype):
    for shape in SHAPES[: 3 if name == "R5" else 4]:
        check(operators, *shape, name, dtype)


@torch.no_grad()
@pytest.mark.parametrize("name", ["R3", "R3,0,1", "R3[x=0+2,y=0+1,out=0+1+2+3]"])
def test_gates_on_a_cpu(name):
    check(operators, 5, 3, 4, name, torch.float64, gate=True)


def test_rows_in_chunks(monkeypatch):
    """Few rows at a time give what all give at once."""
    monkeypatch.setattr(path_products, "_ON_CPU", 8000)
    check(operators, 37, 5, 3, "R3", torch.float64)


@interpreted
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["R2", "R3"])
def test_kernels_interpreted(name, shape):
    kernels = pytest.importorskip("cliffnn.kernels.fully_connected")
    check(kernels, *shape, name, torch.float32)


@interpreted
@pytest.mark.parametrize("name", ["R1,3", "R3,0,1", "R2,0,1", "R0,2", *GRADED])
def test_kernels_interpreted_in_other_algebras(name):
    kernels = pytest.importorskip("cliffnn.kernels.fully_connected")
    check(kernels, 1, 3, 2, name, torch.float32)


@pytest.mark.parametrize("name", ["R3", "R3,0,1", "R5", "R3,3"])
def test_tables_of_kernels(name):
    """They hold each product of two blades once, under its path and blade."""
    of_kernels = pytest.importorskip("cliffnn.kernels.fully_connected.tables")
    blades, entries, terms = of_kernels.tables(GradedProduct.of(name))
    found = torch.zeros_like(path_tables(name))
    for blade, begin, end in blades:
        for path, first, size, start, count in entries[begin:end]:
            for code in terms[start + blade - first : start + count * size : size]:
                found[path, code % 256, code // 256 % 256, blade] += code // 65536 - 1
    assert torch.equal(found, path_tables(name))


@pytest.mark.parametrize(("programs", "blocks"), [(1, 1), (264, 7), (1000, 10**6)])
def test_shares_of_paths(programs, blocks):
    """Each path is shared out once, and its shares lie side by side."""
    of_kernels = pytest.importorskip("cliffnn.kernels.fully_connected.tables")
    of = GradedProduct.of("R3")
    of_programs, starts = of_kernels.shares(of, programs, blocks)
    assert len(of_programs) == starts[-1] <= max(programs, len(of.paths))
    for path, (start, end) in enumerate(pairwise(starts)):
        assert 1 <= end - start <= blocks
        for n, (entry, share, count) in enumerate(of_programs[start:end]):
            assert of_kernels.tables(of).entries[entry][0] == path
            assert (share, count) == (n, end - start)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])  # it multiplies matrices of bfloat16 wrongly
@pytest.mark.parametrize("name", ["R3", "R3[x=0+2,y=0+1,out=0+1+2+3]"])
def test_gates_of_kernels_interpreted(name, dtype):
    kernels = pytest.importorskip("cliffnn.kernels.fully_connected")
    check(kernels, 5, 20, 3, name, dtype, gate=True)


@interpreted
@pytest.mark.parametrize("name", ["R2", "R3,0,1", "R3[x=1,y=1,out=0+1+2]"])
def test_a_gradient_times_all_matrices_interpreted(name):
    kernels = pytest.importorskip("cliffnn.kernels.fully_connected")
    *_, weight, grad = inputs(19, 17, 33, name, torch.float32)
    of = GradedProduct.of(name)
    mix = kernels.Mix(weight, of, 10, kernels.Tiles(16, 16, 16, 4))
    for some in grad.split(10):
        for part, matrix, (*_, k) in zip(mix(some), weight, of.paths, strict=True):
            torch.testing.assert_close(part, some[:, of.out_slices[k]] @ matrix, rtol=1e-5, atol=1e-5)


@interpreted
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("name", ["R2", "R3[x=0+2,y=0+1,out=0+1+2+3]"])
def test_gradients_of_factors_in_pieces_interpreted(monkeypatch, name, gate):
    """As on a GPU where no kernel holds all blades: all of it kernels, some rows at a time, the last ones fewer."""
    kernels = pytest.importorskip("cliffnn.kernels.fully_connected")
    monkeypatch.setattr(ops, "_executor", lambda device: importlib.import_module("cliffnn.kernels"))
    monkeypatch.setattr(path_products, "_mixing", kernels.Mix)
    monkeypatch.setattr(path_products, "_ON_CPU", 4 * 3 * 4 * sum(GradedProduct.of(name).path_sizes))
    x, y, weight, grad = inputs(10, 3, 2, name, torch.float32)
    of = GradedProduct.of(name)
    assert path_products._rows_at_once(of, grad, x) == 4
    _, *exact, _ = truth(*(t.double() for t in (x, y, weight, grad)), name, gate)
    both = path_products.factors(grad, x, y, weight, of, gate)
    each = [path_products.factors(grad, x, y, weight, of, gate, (factor,))[0] for factor in "xy"]
    for got in (both, each):
        for result, wanted in zip(got, exact, strict=True):
            assert reference.relative_error(result, wanted) < 2e-6


@interpreted
def test_kernels_interpreted_on_many_tiles():
    """Several tiles of rows and channels, and rows that no tile divides."""
    kernels = pytest.importorskip("cliffnn.kernels.fully_connected")
    x, y, weight, grad = inputs(17, 17, 33, "R2", torch.float32)
    of, tiles = GradedProduct.of("R2"), kernels.Tiles(16, 16, 16, 4)
    out, grad_x, grad_y, grad_weight = truth(*(t.double() for t in (x, y, weight, grad)), "R2", False)
    both = kernels.fully_connected_factors(grad, x, y, weight, of, False, tiles)
    for got, wanted in (
        (kernels.fully_connected(x, y, weight, of, False, tiles), out),
        (both[0], grad_x),
        (both[1], grad_y),
        (kernels.fully_connected_weight(grad, x, y, of, False, tiles), grad_weight),
    ):
        assert reference.relative_error(got, wanted) < 2e-6


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["R2", "R1,0,1", "R2[x=0+1,y=0,out=1]"])
@pytest.mark.parametrize("gate", [False, True])
def test_first_and_second_derivatives(name, gate, device):
    x, y, weight, grad = (t.requires_grad_() for t in inputs(1, 2, 2, name, torch.float64, device))
    for run, arguments in (
        (lambda *t: operators.fully_connected(*t, name, gate), (x, y, weight)),
        (lambda *t: operators.fully_connected_factor(*t, name, True), (grad, y, weight)),
        (lambda *t: operators.fully_connected_factor(*t, name, False), (grad, x, weight)),
        (lambda *t: operators.fully_connected_weight(*t, name, gate), (grad, x, y)),
    ):
        assert torch.autograd.gradcheck(run, arguments)
        assert torch.autograd.gradgradcheck(run, arguments)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gate", [False, True])
def test_gradients_of_some_arguments(gate, device):
    """Whichever need one, the first derivatives are those of the definition, fused or to be differentiated again."""
    for wanted in ([True, True, True], [True, False, False], [False, True, False], [False, False, True]):
        *tensors, grad = inputs(3, 4, 5, "R3", torch.float64, device)
        leaves = [t.requires_grad_(need) for t, need in zip(tensors, wanted, strict=True)]
        chosen = [t for t in leaves if t.requires_grad]
        exact = torch.autograd.grad(product(*leaves, "R3", gate), chosen, grad)
        for again in (False, True):
            out = operators.fully_connected(*leaves, "R3", gate)
            for a, b in zip(torch.autograd.grad(out, chosen, grad, create_graph=again), exact, strict=True):
                assert reference.relative_error(a, b) < 1e-13


@pytest.mark.parametrize("device", DEVICES)
def test_operators_pass_opcheck(device):
    x, y, weight, grad = (t.requires_grad_() for t in inputs(3, 4, 5, "R3", torch.float64, device))
    operations = torch.ops.cliffnn
    torch.library.opcheck(operations.fully_connected.default, (x, y, weight, "R3", True))
    torch.library.opcheck(operations.fully_connected_factor.default, (grad, x, weight, "R3", False))
    torch.library.opcheck(operations.fully_connected_weight.default, (grad, x, y, "R3", False))
    x, y, weight, grad = (t.detach() for t in (x, y, weight, grad))
    torch.library.opcheck(operations.fully_connected_factors.default, (grad, x, y, weight, "R3", True))
    torch.library.opcheck(operations.fully_connected_weight.default, (grad, x, y, "R3", True))


def test_a_gated_gradient_refuses_to_be_differentiated():
    x, y, weight, grad = (t.requires_grad_() for t in inputs(3, 4, 5, "R2", torch.float64))
    operations = torch.ops.cliffnn
    for out in (
        operations.fully_connected_factors.default(grad, x, y, weight, "R2", False)[0],
        operations.fully_connected_weight.default(grad, x, y, "R2", True),
    ):
        with pytest.raises(RuntimeError, match="no derivative"):
            out.sum().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # torch's own imports
@pytest.mark.parametrize("device", DEVICES)
def test_compiled(device):
    """A compiled block gives what the block gives, backward too."""
    block = FCGPNormBlock(3, 4, "R2", device=device)
    x = torch.randn(5, 4, 3, device=device, requires_grad=True)
    run = torch.compile(block, fullgraph=True, backend="aot_eager")
    results = []
    for function in (block, run):
        out = function(x)
        results.append([out, *torch.autograd.grad(out.square().mean() + out[0].sum(), [x, *block.parameters()])])
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # torch's own imports
@pytest.mark.parametrize("gate", [False, True])
def test_transforms_of_torch_func(gate):
    x, y, weight, _ = inputs(3, 2, 2, "R2", torch.float64)
    run = lambda *t: operators.fully_connected(*t, "R2", gate).square().sum()  # noqa: E731
    exact = lambda *t: product(*t, "R2", gate).square().sum()  # noqa: E731
    for transform in (torch.func.grad, torch.func.hessian):
        torch.testing.assert_close(transform(run)(x, y, weight), transform(exact)(x, y, weight))
    weights = torch.stack([weight, 2 * weight])
    each = torch.func.vmap(lambda w: F.fully_connected_geometric_product(x, y, w, "R2"))(weights)
    torch.testing.assert_close(each, torch.stack([product(x, y, w, "R2") for w in weights]))


def test_views_and_leading_dimensions():
    x, y, weight, _ = inputs(6, 4, 5, "R3", torch.float64)
    y = y[:3]
    wanted = product(x, y.repeat(2, 1, 1), weight, "R3")
    strided = x.mT.contiguous().mT
    transposed = weight.mT.contiguous().mT
    for left, w in ((x, weight), (strided, weight), (x, transposed), (x, weight.repeat(1, 2, 1)[:, :5])):
        got = F.fully_connected_geometric_product(left.view(2, 3, 8, 4), y, w, "R3")
        assert got.shape == (2, 3, 8, 5)
        torch.testing.assert_close(got.flatten(0, 1), wanted)
    assert F.fully_connected_geometric_product(x[0], y[0], weight, "R3").shape == (8, 5)


@pytest.mark.parametrize("name", ["R2", "R3", "R1,3", "R3,0,1"])
@pytest.mark.parametrize("normalize", [True, False])
def test_block_equals_its_unfused_layers(name, normalize):
    block = FCGPNormBlock(5, 7, name, normalize=normalize, dtype=torch.float64)
    nn.init.normal_(block.linear.bias)
    gate, layer, norm = MVGELU(name), FCGP(5, 7, name, dtype=torch.float64), MVRMSNorm(algebra=name)
    layer.load_state_dict({"weight": block.weight})
    x = torch.randn(4, len(Algebra(name)), 5, dtype=torch.float64)
    unfused = layer(gate(x), gate(block.linear(x)))
    torch.testing.assert_close(block(x), norm(unfused) if normalize else unfused, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["R2", "R3", "R0,2"])
def test_initial_weights_keep_the_size(name):
    """Independent factors of unit variance give blades of every grade with unit variance."""
    algebra = Algebra(name)
    x, y = torch.randn(2, 500, len(algebra), 40)
    with torch.no_grad():
        out = FCGP(40, 60, name)(x, y)
    for blades in algebra.grade_slices:
        assert abs(out[:, blades].var() - 1) < 0.25


@pytest.mark.parametrize("layer", [FCGP, FCGPNormBlock])
def test_channels_of_layers(layer):
    assert repr(layer(3, 4, "R2")).startswith(f"{layer.__name__}(")
    assert "3, 4, algebra='R2'" in repr(layer(3, 4, "R2"))
    for lazy, outs in ((layer(None, 4, "R2"), 4), (layer(algebra="R2"), 3), (layer(3, None, "R2"), 3)):
        x = torch.randn(5, 4, 3)
        out = lazy(x, x) if layer is FCGP else lazy(x)
        assert out.shape == (5, 4, outs)
        fresh = layer(None, None, "R2")
        fresh.load_state_dict(lazy.state_dict())
        assert torch.equal(fresh(x, x) if layer is FCGP else fresh(x), out)
        with pytest.raises(ValueError, match=r"x: .*3 channels"):
            lazy(x[..., :2], x) if layer is FCGP else lazy(x[..., :2])


def test_autocast():
    block = FCGPNormBlock(3, 4, "R3")
    x = torch.randn(5, 8, 3)
    exact = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = block(x)
    assert out.dtype == torch.bfloat16
    assert (out - exact).norm() < 0.05 * exact.norm()
    out.float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("x", torch.ones(5, 7, 3), "8 blades"),
        ("y", torch.ones(5, 7, 3), "8 blades"),
        ("y", torch.ones(5, 8, 2), "wanted 3, as x has"),
        ("y", [1.0], "wanted a torch.Tensor"),
        ("y", torch.ones(5, 8, 3).double(), "torch.float64"),
        ("x", torch.ones(5, 8, 3).long(), "torch.int64"),
        ("weight", torch.ones(20, 2, 4), "3 in_channels"),
        ("weight", torch.ones(19, 2, 3), "20 paths of R3"),
        ("weight", torch.ones(20, 3), "20 paths of R3"),
        ("weight", torch.ones(20, 0, 3), "20 paths of R3"),
        ("weight", torch.ones(20, 2, 3).double(), "torch.float64"),
        ("weight", torch.ones(20, 2, 3, device="meta"), "meta"),
    ],
)
def test_bad_input_is_named(argument, value, message):
    arguments = {"x": torch.ones(5, 8, 3), "y": torch.ones(5, 8, 3), "weight": torch.ones(20, 2, 3), argument: value}
    for function in (F.fully_connected_geometric_product, F.gelu_fcgp_norm):
        with pytest.raises((ValueError, TypeError), match=rf"{argument}: .*{message}"):
            function(**arguments, algebra="R3")


def test_rows_that_do_not_broadcast():
    with pytest.raises(ValueError, match=r"x, y: got shapes .* that broadcast"):
        F.fully_connected_geometric_product(torch.ones(5, 8, 3), torch.ones(4, 8, 3), torch.ones(20, 2, 3), "R3")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ALGEBRAS)
@pytest.mark.parametrize("shape", [*SHAPES, (130, 16, 130), (70, 200, 150), (1000, 32, 32)])
def test_operators_on_a_gpu(shape, name, dtype):
    if dtype == torch.float64 and shape not in SHAPES[:2]:
        pytest.skip("its kernels, one for each width, take long to compile")
    with torch.no_grad():
        for gate in (False, True):
            check(operators, *shape, name, dtype, "cuda", gate)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", GRADED)
@torch.no_grad()
def test_operators_of_grades_on_a_gpu(name, dtype):
    check(operators, 300, 33, 20, name, dtype, "cuda", gate="[x=0" in name and ",y=0" in name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("name", "shape"),
    [("R3", (70, 200, 150)), ("R3", (40, 520, 512)), ("R1,3", (40, 260, 256)), ("R2", (1000, 32, 32))],
)
def test_tensor_cores(name, shape):
    """TF32 keeps 10 bits of a factor; wide matrices go another way."""
    x, y, weight, grad = inputs(*shape, name, torch.float32, "cuda")
    before = torch.get_float32_matmul_precision()
    exact = truth(*(t.double() for t in (x, y, weight, grad)), name, False)
    torch.set_float32_matmul_precision("high")
    try:
        got = (
            operators.fully_connected(x, y, weight, name),
            operators.fully_connected_factors(grad, x, y, weight, name),
            operators.fully_connected_weight(grad, x, y, name),
        )
    finally:
        torch.set_float32_matmul_precision(before)
    for result, wanted in zip((got[0], *got[1], got[2]), exact, strict=True):
        assert reference.relative_error(result, wanted) < 3e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_bits_in_every_run():
    x, y, weight, grad = inputs(3000, 48, 32, "R3", torch.float32, "cuda")
    name = "R3"
    run = lambda: [  # noqa: E731
        operators.fully_connected(x, y, weight, name),
        operators.fully_connected_factor(grad, y, weight, name, True),
        *operators.fully_connected_factors(grad, x, y, weight, name),
        operators.fully_connected_weight(grad, x, y, name),
    ]
    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
def test_products_are_never_written():
    """Beyond its result, forward takes no memory; a gradient, the transposed weight or partial sums, and gates."""
    x, y, weight, grad = inputs(4096, 64, 64, "R3", torch.float32, "cuda")
    name = "R3"
    programs = 4 * torch.cuda.get_device_properties("cuda").multi_processor_count
    partial = programs * 64 * 64 * 4
    for run, allowed in (
        (lambda: operators.fully_connected(x, y, weight, name, True), grad.nbytes),
        (lambda: operators.fully_connected_factors(grad, x, y, weight, name, True), 2 * x.nbytes + weight.nbytes),
        (lambda: operators.fully_connected_weight(grad, x, y, name, True), x.nbytes // 8 + weight.nbytes + partial),
    ):
        run()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        assert torch.cuda.max_memory_allocated() - before <= allowed + 2**20
