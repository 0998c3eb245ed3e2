"""The linear map of each grade: torch's products on a CPU, kernels under the interpreter and on a GPU."""

import functools
import itertools

import pytest
import torch

from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn import linear as operators

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
# How many blades each grade has: in 2, 3 and 4 dimensions; then of vectors, bivectors and other choices of grades.
FULL = ((1, 2, 1), (1, 3, 3, 1), (1, 4, 6, 4, 1))
CHOSEN = ((3,), (6,), (1, 3), (4, 1), (1, 6, 1), (4, 4), (1,))
R3 = (1, 3, 3, 1)
SHAPES = ((0, 3, 4), (1, 1, 1), (3, 28, 7), (127, 33, 20), (130, 16, 130), (70, 200, 150))


def blades(sizes):
    """The grade of each blade."""
    return [k for k, size in enumerate(sizes) for _ in range(size)]


def truth(x, weight, bias, grad, sizes):
    """The result and its gradients, with respect to x, weight and bias, by a loop over blades, in the inputs' dtype."""
    grades = blades(sizes)
    out = torch.stack([x[:, b] @ weight[k].T for b, k in enumerate(grades)], 1)
    if bias is not None:
        out[:, 0] += bias
    grad_x = torch.stack([grad[:, b] @ weight[k] for b, k in enumerate(grades)], 1)
    # a batched product adds up all rows one after the other; a single one may split so long a sum, and err less
    of_blades = grad.permute(1, 2, 0) @ x.transpose(0, 1)
    grad_weight = torch.zeros_like(weight)
    for b, k in enumerate(grades):
        grad_weight[k] += of_blades[b]
    return out, grad_x, grad_weight, grad[:, 0].sum(0)


def inputs(rows, ins, outs, sizes, dtype, device="cpu"):
    shapes = (rows, sum(sizes), ins), (len(sizes), outs, ins), (outs,), (rows, sum(sizes), outs)
    return [torch.randn(shape, device=device, dtype=dtype) for shape in shapes]


def assert_close(name, got, wanted, in_float32):
    """Half precision is rounded once, at the end; float32 may err as much as twice the reference in float32."""
    least = {torch.float64: 1e-14, torch.float32: 1e-6}.get(got.dtype, torch.finfo(got.dtype).eps)
    size = wanted.norm().clamp(min=1e-30)
    error, allowed = ((t.double() - wanted).norm() / size for t in (got, in_float32))
    allowed = max(least, 2 * allowed if got.dtype == torch.float32 else 0)
    assert error <= allowed, f"{name}: relative error {error:.2e}, allowed {allowed:.2e}"


def check(run, gradients, rows, ins, outs, sizes, dtype, device, bias):
    """The result, the gradients together and, where that takes no time, each without the others."""
    x, weight, b, grad = inputs(rows, ins, outs, sizes, dtype, device)
    beside = torch.randn_like(x)
    b = b if bias else None
    exact = [None if t is None else t.double() for t in (x, weight, b, grad)]
    single = [None if t is None else t.float() for t in (x, weight, b, grad)]
    # on the device under test, whose own order of summation is the yardstick
    wanted, in_float32 = truth(*exact, sizes), truth(*single, sizes)
    out, grad_x, grad_weight, grad_bias = zip(wanted, in_float32, strict=True)
    with_beside = grad_x[0] + beside.double(), grad_x[1] + beside.float()
    cases = {
        "all": (with_beside, grad_weight, grad_bias, (x, weight, beside, sizes, True)),
        "of factors": (grad_x, grad_weight, (x, weight, None, sizes, False)),
        "of x": (grad_x, (None, weight, None, sizes, False)),
        "of x and bias": (with_beside, grad_bias, (None, weight, beside, sizes, True)),
        "of parameters": (grad_weight, grad_bias, (x, None, None, sizes, True)),
        "of bias": (grad_bias, (None, None, None, sizes, True)),
    }
    if max(rows, ins, outs) > 100:
        cases = {"all": cases["all"]}
    assert_close("out", run(x, weight, b, sizes), *out)
    for name, (*pairs, arguments) in cases.items():
        for tensor, pair in zip(gradients(grad, *arguments), pairs, strict=True):
            assert tensor.dtype == dtype
            assert_close(name, tensor, *pair)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        # the kernel knows an algebra by the sizes of its grades alone: many tiles need only the smallest
        *((sizes, shape) for shape in SHAPES for sizes in (FULL if max(shape) < 100 else FULL[:1])),
        *itertools.product(CHOSEN, ((0, 3, 4), (3, 28, 7))),
    ],
    ids=str,
)
def test_kernels_interpreted(shape, sizes, bias):
    if torch.cuda.is_available():
        pytest.skip("needs Triton's interpreter, which a GPU machine does not use")
    kernels = pytest.importorskip("cliffnn.kernels.linear")
    check(kernels.linear, kernels.linear_backward, *shape, sizes, torch.float32, "cpu", bias)


@pytest.mark.skipif(torch.cuda.is_available(), reason="no interpreter where there is a GPU")
def test_views_are_read_as_they_are():
    """Parameters may be columns of others, or transposed."""
    kernels = pytest.importorskip("cliffnn.kernels.linear")
    x, weight, bias, grad = inputs(5, 3, 4, R3, torch.float32)
    views = weight.repeat(1, 2, 1)[:, ::2], torch.stack([bias, bias * 0], -1)[:, 0]
    for given in ((weight, views[1]), (views[0], bias), (weight.mT.contiguous().mT, bias)):
        wanted, *_ = truth(x.double(), given[0].double(), given[1].double(), grad.double(), R3)
        torch.testing.assert_close(kernels.linear(x, *given, R3).double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="no interpreter where there is a GPU")
@pytest.mark.parametrize("sizes", [(1, 2, 1), (1, 3)], ids=str)
def test_derivatives_of_the_operators(sizes):
    """What a GPU differentiates, run on a CPU, where the public function is torch's own product."""
    pytest.importorskip("cliffnn.kernels.linear")
    x, weight, bias, grad = (t.requires_grad_() for t in inputs(3, 2, 3, sizes, torch.float64))
    beside = torch.randn_like(x).requires_grad_()

    def backward(bias, *tensors):
        return operators._LinearBackward.apply(operators._linear_backward, *tensors, sizes, bias)

    for run, arguments in (
        (lambda *tensors: operators._Linear.apply(operators._linear, *tensors, sizes), (x, weight, bias)),
        (lambda *tensors: operators._LinearBeside.apply(operators._linear, *tensors, sizes), (x, weight, bias)),
        (functools.partial(backward, True), (grad, x, weight, beside)),
        (functools.partial(backward, False), (grad, x, None, None)),
        (functools.partial(backward, True), (grad, None, weight, None)),
    ):
        assert torch.autograd.gradcheck(run, arguments)
        assert torch.autograd.gradgradcheck(run, arguments)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dims", [(0, 0, 0), (0, None, None), (None, 0, None), (1, None, 0)], ids=str)
def test_batches_of_operators(dims, biased):
    """What compiled code under `torch.vmap` asks of them, whatever the device."""
    sizes = [1, 2, 1]
    shapes = (3, 4, 5), (3, 6, 5), (6,)
    dims = [*dims[:2], dims[2] if biased else None]
    tensors = [
        torch.randn(shape if d is None else (*shape[:d], 2, *shape[d:]), dtype=torch.float64)
        for shape, d in zip(shapes, dims, strict=True)
    ]
    x, weight, bias = tensors[0], tensors[1], tensors[2] if biased else None
    one = [[t if d is None else t.select(d, n) for t, d in zip((x, weight, bias), dims, strict=True)] for n in range(2)]
    wanted = [truth(*of_one, torch.ones(3, 4, 6, dtype=torch.float64), sizes)[0] for of_one in one]
    operator = torch.ops.cliffnn.linear.default
    got = torch.vmap(lambda *of_one: operator(*of_one, sizes), (*dims,))(x, weight, bias)
    torch.testing.assert_close(got, torch.stack(wanted))

    grad = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    backward = torch.ops.cliffnn.linear_backward.default
    run = torch.vmap(lambda g, x, w: backward(g, x, w, x if biased else None, sizes, biased), (0, *dims[:2]))
    for n, got in enumerate(zip(*run(grad, x, weight), strict=True)):
        own, matrices, _ = one[n]
        _, grad_x, grad_weight, grad_bias = truth(own, matrices, None, grad[n], sizes)
        wanted = (grad_x + own, grad_weight, grad_bias) if biased else (grad_x, grad_weight)
        torch.testing.assert_close(got, wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", [*FULL, *CHOSEN, (1, 5, 10, 10, 5, 1)], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (1000, 32, 32), (5000, 512, 512)])
def test_operators_on_a_gpu(shape, sizes, dtype):
    check(operators.linear, operators.linear_backward, *shape, sizes, dtype, "cuda", True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("product", "channels"), [("linear", 32), ("linear", 512), ("fully connected", 32)])
def test_tensor_float_32_is_used_where_allowed(product, channels):
    paths = len(Algebra("R3").grades if product == "linear" else Algebra("R3").paths)
    x, weight = torch.randn(1000, 8, channels, device="cuda"), torch.randn(paths, channels, channels, device="cuda")

    def multiply(x, weight):
        if product == "linear":
            return F.linear(x, weight, None, "R3")
        return F.fully_connected_geometric_product(x, x, weight, "R3")

    exact = multiply(x.double(), weight.double())
    errors = []
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        try:
            errors.append(float((multiply(x, weight).double() - exact).norm() / exact.norm()))
        finally:
            torch.set_float32_matmul_precision("highest")
    assert errors[0] < 1e-6
    assert 1e-5 < errors[1] < 2e-3


DEVICES = ["cpu", pytest.param("cuda", marks=gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sizes", [(1, 2, 1), (1, 4, 6, 4, 1), (3,), (1, 6)], ids=str)
def test_first_and_second_derivatives(sizes, device):
    x, weight, bias, grad = (t.requires_grad_() for t in inputs(3, 4, 5, sizes, torch.float64, device))
    run = lambda *tensors: operators.linear(*tensors, sizes)  # noqa: E731
    assert torch.autograd.gradcheck(run, (x, weight, bias))
    assert torch.autograd.gradgradcheck(run, (x, weight, bias))
    gradients = lambda *tensors: tuple(operators.linear_backward(*tensors, x, sizes, True))  # noqa: E731
    if device == "cuda":
        assert torch.autograd.gradcheck(gradients, (grad, x, weight))
        assert torch.autograd.gradgradcheck(gradients, (grad, x, weight))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_operators_pass_opcheck():
    x, weight, bias, grad = (t.requires_grad_() for t in inputs(3, 4, 5, R3, torch.float32, "cuda"))
    torch.library.opcheck(torch.ops.cliffnn.linear.default, (x, weight, bias, R3))
    torch.library.opcheck(torch.ops.cliffnn.linear.default, (x, weight, None, R3))
    for given in ((x, weight, x, R3, True), (x, None, None, R3, False), (None, weight, None, R3, False)):
        torch.library.opcheck(torch.ops.cliffnn.linear_backward.default, (grad, *given))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("channels", [32, 512])
def test_the_same_bits_in_every_run(channels):
    x, weight, bias, grad = inputs(3000, channels, channels, R3, torch.float32, "cuda")
    run = lambda: [  # noqa: E731
        operators.linear(x, weight, bias, R3),
        *operators.linear_backward(grad, x, weight, None, R3, True),
    ]
    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("channels", [64, 256])
def test_weights_are_never_expanded_by_blade(channels):
    """No temporary tensor of the forward and of the input's gradient is larger than the weight."""
    x, weight, bias, grad = inputs(4, channels, channels, R3, torch.float32, "cuda")
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(
                t.untyped_storage().nbytes() for t in torch.utils._pytree.tree_leaves(out) if torch.is_tensor(t)
            )
            return out

    with Sizes():
        operators.linear(x.requires_grad_(), weight, bias, R3).backward(grad)
    assert max(sizes) <= weight.nbytes


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("x", torch.ones(5, 7, 3), "8 blades"),
        ("weight", torch.ones(4, 2, 4), "3 in_channels"),
        ("weight", torch.ones(3, 2, 3), "4 grades"),
        ("bias", torch.ones(3), r"\(2 out_channels,\)"),
        ("weight", torch.ones(4, 2, 3).double(), "torch.float64"),
    ],
)
def test_bad_input_is_named(argument, value, message):
    arguments = {"x": torch.ones(5, 8, 3), "weight": torch.ones(4, 2, 3), "bias": torch.ones(2), argument: value}
    with pytest.raises((ValueError, TypeError), match=rf"{argument}: .*{message}"):
        F.linear(**arguments, algebra="R3")


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("x", torch.ones(5, 8, 3), r"4 blades.*grades \(0, 2\) of R3"),
        ("weight", torch.ones(4, 2, 3), "2 grades"),
        ("grades", (0, 4), r"out of \(0, 1, 2, 3\)"),
        ("grades", (2, 0), "ascending"),
        ("grades", 0.0, "a grade"),
    ],
)
def test_bad_input_is_named_where_grades_are_chosen(argument, value, message):
    arguments = {"x": torch.ones(5, 4, 3), "weight": torch.ones(2, 2, 3), "bias": torch.ones(2), "grades": (0, 2)}
    with pytest.raises((ValueError, TypeError), match=rf"{argument}: .*{message}"):
        F.linear(**{**arguments, argument: value}, algebra="R3")


def test_a_bias_needs_the_scalar():
    with pytest.raises(ValueError, match=r"bias: .*\(1,\), wanted None"):
        F.linear(torch.ones(5, 3, 3), torch.ones(1, 2, 3), torch.ones(2), "R3", grades=1)
