"""Every operator against the slow truth: forward and every gradient, by every way it is executed."""

import importlib
import itertools

import pytest
import reference
import torch

from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.operation import operation, text

SIGNATURES = {
    "R2": (2, 0, 0),
    "R3": (3, 0, 0),
    "R1,3": (1, 3, 0),
    "R3,0,1": (3, 0, 1),
    "R2,0,1": (2, 0, 1),
    "R5": (5, 0, 0),
}

# What the executors run: the expression, its rows and what there is a weight for; and the public functions that say
# the same.
EXPRESSIONS = {
    "identity": (1, ()),
    "gelu": (1, ()),
    "geometric_product": (2, ()),
    "weighted_geometric_product": (2, ("paths",)),
    "gelu_weighted_geometric_product": (2, ("paths",)),
    "silu": (1, ("grades", "grades")),
    "normalize": (1, ("grades",)),
    "layer_norm": (1, ("channels",)),
    "steerable_geometric_product": (3, ("paths", "grades")),
}
# Those that take the norm of an input, and of which.
WITHIN = {"normalize": 0, "layer_norm": 0, "steerable_geometric_product": 1}
# Those that are offered with the norm too.
NORMED = [*EXPRESSIONS][:5]

# Rows 0, 1, 3, 127 and channels 1, 5, 28, 33, each with each over the algebras.
SHAPES = {
    "R2": [(0, 5), (1, 28), (3, 1), (127, 33)],
    "R3": [(0, 1), (1, 33), (3, 28), (127, 5)],
    "R1,3": [(0, 28), (1, 1), (3, 33), (127, 5)],
    "R3,0,1": [(0, 33), (1, 5), (3, 1), (127, 28)],
    "R2,0,1": [(1, 1), (3, 5), (127, 28)],
    "R5": [(0, 5), (1, 33), (3, 28), (127, 1)],
}
# On a GPU each with each.
ROWS_ON_GPU = (0, 1, 3, 127, 1000, 70001)
CHANNELS_ON_GPU = (1, 7, 28, 33, 100, 1000, 2048)
# Rows that no single tile of a kernel holds.
WIDE = {"R2": 4100, "R3": 2100, "R1,3": 1100, "R2,0,1": 2100, "R5": 600}

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# What smooths a norm is nothing in float16, and the reference's gradients then are not finite.
DTYPES_OF = {e: DTYPES[:3] if e in WITHIN else DTYPES for e in EXPRESSIONS}
FUSED = ("gelu_weighted_geometric_product", True)
# The identity is nothing without the norm.
OPERATORS = [
    *((expression, False) for expression in EXPRESSIONS if expression != "identity"),
    *((expression, True) for expression in NORMED),
]

algebras = pytest.mark.parametrize("algebra", SIGNATURES)
operators = pytest.mark.parametrize(("expression", "normalize"), OPERATORS)
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="no interpreter where there is a GPU")
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def cases_on_cpu():
    """All of it, by the generated torch code."""
    for algebra, operator, dtype in itertools.product(SIGNATURES, OPERATORS, DTYPES):
        for rows, channels in SHAPES[algebra] if dtype in DTYPES_OF[operator[0]] else ():
            # Divided by its own size, a single channel has hardly a gradient along itself: in half
            # precision that is the difference of rounding errors, and no yardstick.
            if not (dtype.itemsize == 2 and operator[1] and channels == 1):
                yield "cpu", algebra, *operator, rows, channels, dtype


def cases_in_the_interpreter():
    """The kernels, at fewer and smaller shapes: the interpreter takes its time over each tile."""
    for algebra, operator in itertools.product(SIGNATURES, OPERATORS):
        for rows, channels in SHAPES[algebra]:
            if algebra == "R5" and rows:
                continue
            if operator[0] not in NORMED and (rows != 3 or algebra == "R1,3"):
                continue
            if rows < 100 or (operator == FUSED and algebra != "R3,0,1"):
                yield algebra, *operator, rows, channels, torch.float32
        for dtype in DTYPES_OF[operator[0]] if algebra != "R5" else [torch.float32]:
            yield algebra, *operator, 3, 2 if algebra == "R5" else 5, dtype
    for algebra, channels in (("R2", 200), ("R3", 200), ("R1,3", 1100)):
        yield algebra, *FUSED, 1, channels, torch.float32
    yield "R2", "layer_norm", False, 1, 4100, torch.float32


def cases_on_gpu():
    """The fused operator at every shape, with every dtype and width; the others at two: compiling takes seconds."""
    for algebra, rows, channels in itertools.product(SIGNATURES, ROWS_ON_GPU, CHANNELS_ON_GPU):
        # 32 blades take most of a minute to compile, once for each width
        known = algebra in ("R2", "R3") or truth_is_quick(algebra, rows, channels)
        if known and (algebra != "R5" or channels < 100 or rows in (3, 1000)):
            yield "cuda", algebra, *FUSED, rows, channels, torch.float32
    # Each algebra, width and dtype, with the norm and without, is a kernel of its own. Each runs on one number of
    # rows, by turns: every number of rows occurs with every algebra, width and dtype, with the norm and without.
    turns = itertools.cycle(ROWS_ON_GPU[1:])
    names = [algebra for algebra in SIGNATURES if algebra != "R5"]
    for algebra, channels, dtype, normalize in itertools.product(names, CHANNELS_ON_GPU, DTYPES, (False, True)):
        # as on a CPU, a single channel that is normalised is no yardstick in half precision
        if not (dtype.itemsize == 2 and normalize and channels == 1):
            rows = next(turns)
            rows = rows if truth_is_quick(algebra, rows, channels) else 1000
            yield "cuda", algebra, FUSED[0], normalize, rows, channels, dtype
    for algebra, (rows, channels) in itertools.product(SIGNATURES, ((3, 28), (1000, 33))):
        for operator in OPERATORS:
            yield "cuda", algebra, *operator, rows, channels, torch.float32
        for dtype in DTYPES:
            yield "cuda", algebra, *FUSED, rows, channels, dtype
    for algebra, channels in WIDE.items():
        yield "cuda", algebra, *FUSED, 5, channels, torch.float32


def truth_is_quick(algebra, rows, channels):
    """For a hundred million numbers it takes seconds."""
    return rows * channels * len(Algebra(algebra)) <= 2**27


def case_id(value):
    """Dtypes by their name; pytest knows the rest."""
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


def operation_of(expression, algebra, normalize):
    return operation(text(expression, normalize=normalize), Algebra(algebra).name)


def executor(module, expression, algebra, normalize):
    """A differentiable function of rows and weights that runs one executor, past the dispatcher."""
    module = importlib.import_module(f"cliffnn.{module}")
    forward = operation_of(expression, algebra, normalize)

    class Executed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            out, *scales = module.run(forward, inputs, 1e-6)
            ctx.save_for_backward(*inputs, *([out, *scales] if normalize else []))
            return out

        @staticmethod
        def backward(ctx, grad):
            wrt = [name for name, needed in zip(forward.inputs, ctx.needs_input_grad, strict=True) if needed]
            grads = module.run(forward.vjp(["out"], wrt), [*ctx.saved_tensors, grad], 1e-6)
            assert len(grads) == len(wrt), "a gradient for each input that needs one and for no other"
            grads = dict(zip(wrt, grads, strict=True))
            return tuple(grads.get(name) for name in forward.inputs)

    return Executed.apply


def public(expression, algebra, normalize):
    """The public function, or composition of functions, that an expression stands for."""
    norm = (lambda out: F.rms_norm(out, algebra)) if normalize else (lambda out: out)
    return {
        "identity": norm,
        "gelu": lambda x: norm(F.gelu(x, algebra)),
        "geometric_product": lambda x, y: norm(F.geometric_product(x, y, algebra)),
        "weighted_geometric_product": lambda *xyw: norm(F.weighted_geometric_product(*xyw, algebra)),
        "gelu_weighted_geometric_product": lambda *xyw: F.gelu_sgp_norm(*xyw, algebra, normalize),
        "layer_norm": lambda x, weight: F.layer_norm(x, weight[0], algebra),
        "normalize": lambda x, degree: F.normalize(x, degree, algebra),
        "silu": lambda *xab: F.silu(*xab, algebra),
        "steerable_geometric_product": lambda *inputs: F.steerable_geometric_product(*inputs, algebra),
    }[expression]


def truth(expression, algebra, normalize):
    """The same function by the reference."""
    s = SIGNATURES.get(algebra, algebra)
    norm = (lambda out: reference.rms_norm(out, s)) if normalize else (lambda out: out)
    return {
        "identity": norm,
        "gelu": lambda x: norm(reference.gelu(x, s)),
        "geometric_product": lambda x, y: norm(reference.geometric_product(x, y, s)),
        "weighted_geometric_product": lambda *xyw: norm(reference.weighted_geometric_product(*xyw, s)),
        "gelu_weighted_geometric_product": lambda *xyw: reference.gelu_sgp_norm(*xyw, s, normalize),
        "layer_norm": lambda x, weight: reference.layer_norm(x, weight, s),
        "normalize": lambda x, degree: reference.normalize(x, degree, s),
        "silu": lambda *xab: reference.silu(*xab, s),
        "steerable_geometric_product": lambda *inputs: reference.steerable_geometric_product(*inputs, s),
    }[expression]


def random_inputs(expression, algebra, lead, channels, **kind):
    """Multivectors of given leading dimensions, then weights where there are some."""
    count, weights = EXPRESSIONS[expression]
    signature = SIGNATURES[algebra]
    shapes = {
        "paths": (len(reference.paths(signature)), channels),
        "grades": (sum(signature) + 1, channels),
        "channels": (1, channels),
    }
    inputs = [torch.randn(*lead, 2 ** sum(signature), channels, **kind) for _ in range(count)]
    return inputs + [torch.randn(shapes[weight], **kind) for weight in weights]


def parts_of_rows(algebra, rows, channels):
    """Slices of the rows whose products, blade by blade, the truth has the memory for."""
    count = max(1, 2**24 // (len(Algebra(algebra)) ** 2 * channels))
    return [slice(start, start + count) for start in range(0, max(1, rows), count)]


def conditioned_inputs(expression, algebra, rows, channels, normalize, **kind):
    """Random inputs at which the norm can be told apart from rounding errors.

    The gradient of |q| jumps on the null cone, and a row that nearly vanishes is blown up: there any two
    orders of evaluation differ by more than a tolerance can allow for. So what is normalised is drawn
    away from there; float64 comes as it comes, unless a channel is alone. More than a thousand rows are
    a thousand in random order: among 70,001 there are always some to draw anew.
    """
    drawn = min(rows, 1000)
    inputs = random_inputs(expression, algebra, [drawn], channels, **kind)
    if (normalize or expression in WITHIN) and (kind["dtype"] is not torch.float64 or channels == 1):
        for part in parts_of_rows(algebra, drawn, channels):
            redraw_ill_conditioned(expression, algebra, [x[part] if x.dim() == 3 else x for x in inputs])
    if rows == drawn:
        return inputs
    order = torch.randint(drawn, [rows], device=inputs[0].device)
    return [x[order] if x.dim() == 3 else x for x in inputs]


def redraw_ill_conditioned(expression, algebra, inputs):
    """Draw the channels anew, in place, at which the norm can't be told apart from rounding errors."""
    rows, _, channels = inputs[0].shape
    signature = SIGNATURES[algebra]
    form = torch.tensor(reference.quadratic_form(signature)).double().to(inputs[0].device)
    while True:
        wide = [x.double() for x in inputs]
        normed = wide[WITHIN[expression]] if expression in WITHIN else truth(expression, algebra, False)(*wide)
        squares = normed.square()
        bad = torch.zeros(rows, channels, dtype=torch.bool, device=form.device)
        for grade in [slice(None)] if expression == "layer_norm" else reference.grade_slices(signature):
            if form[grade].any():
                q = torch.einsum("b,nbc->nc", form[grade], squares[:, grade]).abs()
                size = torch.einsum("b,nbc->nc", form[grade].abs(), squares[:, grade])
                bad |= (q < 0.1 * size) | (q.mean(-1, keepdim=True) < 0.1 * q.mean())
        if not bad.any():
            return
        for x in inputs[: EXPRESSIONS[expression][0]]:
            x.copy_(torch.where(bad[:, None, :], torch.randn_like(x), x))


@pytest.mark.parametrize("signature", [s for s in itertools.product(range(4), repeat=3) if sum(s) <= 4])
def test_algebra_agrees_with_the_reference(signature):
    algebra = Algebra(signature)
    assert (algebra.p, algebra.q, algebra.r) == signature
    assert algebra.dim == sum(signature)
    assert len(algebra) == len(algebra.blades) == 2 ** sum(signature)
    assert algebra.grades == tuple(range(sum(signature) + 1))
    assert algebra.grade_slices == reference.grade_slices(signature)
    assert algebra.paths == reference.paths(signature)
    assert algebra.quadratic_form == reference.quadratic_form(signature)
    first = 0 if signature[2] == 1 else 1
    assert algebra.blades == tuple(
        "e" + "".join(str(v + first) for v in blade) for blade in reference.blades(signature)
    )
    for spec in (algebra.name, algebra):
        assert Algebra(spec) == algebra


@pytest.mark.parametrize(
    ("place", "algebra", "expression", "normalize", "rows", "channels", "dtype"),
    [*cases_on_cpu(), *(pytest.param(*case, marks=gpu) for case in dict.fromkeys(cases_on_gpu()))],
    ids=case_id,
)
def test_public_functions(gpu_memory, place, algebra, expression, normalize, rows, channels, dtype):
    if place == "cuda":
        # inputs, results and gradients; the truth takes some rows at a time
        gpu_memory(7 * rows * len(Algebra(algebra)) * channels * dtype.itemsize)
    inputs = conditioned_inputs(expression, algebra, rows, channels, normalize, dtype=dtype, device=place)
    function, exact = public(expression, algebra, normalize), truth(expression, algebra, normalize)
    reference.assert_correct_by_parts(function, exact, inputs, parts_of_rows(algebra, rows, channels))


@no_gpu
@pytest.mark.parametrize(
    ("algebra", "expression", "normalize", "rows", "channels", "dtype"),
    [*dict.fromkeys(cases_in_the_interpreter())],
    ids=case_id,
)
def test_kernels_in_the_interpreter(algebra, expression, normalize, rows, channels, dtype):
    inputs = conditioned_inputs(expression, algebra, rows, channels, normalize, dtype=dtype)
    function = executor("kernels", expression, algebra, normalize)
    reference.assert_correct(function, truth(expression, algebra, normalize), inputs)


def assert_correct_for_subsets(function, expression, algebra, normalize, place="cpu"):
    """Whichever inputs need a gradient, they get the right one."""
    inputs = random_inputs(expression, algebra, [2], 3, dtype=torch.float64, device=place)
    for needs_grad in itertools.product([False, True], repeat=len(inputs)):
        reference.assert_correct(function, truth(expression, algebra, normalize), inputs, needs_grad)


@pytest.mark.parametrize(
    ("place", "algebra"),
    [*(("cpu", algebra) for algebra in SIGNATURES), pytest.param("cuda", "R3", marks=gpu)],
)
@operators
def test_inputs_that_need_no_gradient(place, algebra, expression, normalize):
    function = public(expression, algebra, normalize)
    assert_correct_for_subsets(function, expression, algebra, normalize, place)


@pytest.mark.parametrize("module", ["generated", pytest.param("kernels", marks=no_gpu)])
@pytest.mark.parametrize("algebra", ["R2", "R2,0,1"])
@operators
def test_executors_leave_out_what_is_not_needed(module, algebra, expression, normalize):
    function = executor(module, expression, algebra, normalize)
    assert_correct_for_subsets(function, expression, algebra, normalize)


@pytest.mark.parametrize(
    ("algebra", "expression", "launches"),
    [
        ("R3", "gelu", 1),
        ("R3", "gelu_weighted_geometric_product", 2),
        ("R3", "silu", 2),
        ("R5", "gelu_weighted_geometric_product", 2),
    ],
)
def test_launches_of_a_backward(device, monkeypatch, algebra, expression, launches):
    """One for each kernel, and one for two totals, which lie in one scratch tensor."""
    kernels = pytest.importorskip("cliffnn.kernels")
    launch = kernels.prepared.Prepared.__call__
    count = 0

    def counted(*arguments):
        nonlocal count
        count += 1
        return launch(*arguments)

    forward = operation(text(expression), algebra)
    backward = forward.vjp(forward.outputs, forward.inputs)
    inputs = [
        torch.randn(3, group.size, 5, device=device)
        if group.kind == "rows"
        else torch.randn(group.size, 5, device=device)
        for group in backward.inputs.values()
    ]
    # the first time all of them are looked at, so that they are compiled side by side
    kernels.run(backward, inputs, 1e-6)
    monkeypatch.setattr("cliffnn.kernels.prepared.Prepared.__call__", counted)
    kernels.run(backward, inputs, 1e-6)
    assert count == launches


@pytest.mark.parametrize("channels", [(1, 4), (4, 1)], ids=str)
def test_broadcast_channels_twice(device, channels):
    """What was found right is remembered; channels that broadcast are not like others."""
    x, y = (torch.randn(5, 8, n, device=device, dtype=torch.float64) for n in channels)
    wanted = F.geometric_product(x.expand(-1, -1, 4), y.expand(-1, -1, 4), "R3")
    for _ in range(2):
        torch.testing.assert_close(F.geometric_product(x, y, "R3"), wanted)


@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (2, 1, 3), (2, 0, 3)], ids=str)
@operators
def test_leading_dimensions(device, lead, expression, normalize):
    inputs = random_inputs(expression, "R1,3", lead, 5, dtype=torch.float64, device=device)
    function = public(expression, "R1,3", normalize)
    reference.assert_correct(function, truth(expression, "R1,3", normalize), inputs)


@pytest.mark.parametrize(
    ("left", "right"),
    [((), (4,)), ((4,), ()), ((3, 1), (1, 2)), ((1,), (5,)), ((2, 3), (3,)), ((0, 1), (1, 2)), ((1, 1), ())],
    ids=str,
)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("expression", [e for e, (rows, _) in EXPRESSIONS.items() if rows == 2])
def test_broadcasting(device, left, right, expression, normalize):
    x, *rest = random_inputs(expression, "R3", left, 5, dtype=torch.float64, device=device)
    y = torch.randn(*right, 8, 5, dtype=torch.float64, device=device)
    inputs = [x, y, *rest[1:]]
    function = public(expression, "R3", normalize)
    reference.assert_correct(function, truth(expression, "R3", normalize), inputs)
    only_last = [False] * (len(inputs) - 1) + [True]
    reference.assert_correct(function, truth(expression, "R3", normalize), inputs, only_last)


def non_contiguous(x, how):
    """The same shape in another memory layout (and other values where it is expanded)."""
    if how == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if how == "rows last":
        return x.movedim(0, -1).contiguous().movedim(-1, 0)
    if how == "strided":
        wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype, device=x.device)
        wide[..., ::2] = x
        return wide[..., ::2]
    if how == "offset":
        return torch.cat([x[:1], x])[1:][..., 1:]
    if how == "expanded rows":
        return x[:1].expand_as(x)
    return x[..., :1].expand_as(x)


@pytest.mark.parametrize("how", ["transposed", "rows last", "strided", "offset", "expanded rows", "expanded channels"])
@operators
def test_non_contiguous_inputs(device, how, expression, normalize):
    inputs = random_inputs(expression, "R2,0,1", [4], 6, dtype=torch.float64, device=device)
    inputs = [non_contiguous(x, how) for x in inputs]
    function = public(expression, "R2,0,1", normalize)
    reference.assert_correct(function, truth(expression, "R2,0,1", normalize), inputs)
    # And a gradient from `sum`, expanded from one number, has no strides to speak of.
    leaves = [x.detach().requires_grad_() for x in inputs]
    dense = [x.detach().contiguous().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(truth(expression, "R2,0,1", normalize)(*dense).sum(), dense)
    for got, wanted in zip(torch.autograd.grad(function(*leaves).sum(), leaves), expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_the_same_tensor_twice(device):
    """The gradients of both places add up."""
    x, _, weight = random_inputs("weighted_geometric_product", "R3", [3], 5, device=device)
    x, weight = x.double(), weight.double()
    reference.assert_correct(
        lambda x, w: F.gelu_sgp_norm(x, x, w, "R3"),
        lambda x, w: reference.gelu_sgp_norm(x, x, w, SIGNATURES["R3"]),
        [x, weight],
    )


@pytest.mark.parametrize(
    ("run", "place", "rows", "channels"),
    [
        ("public", "cpu", 127, 28),
        # the interpreter has one thread: a small case shows what code that forgets to write, or adds twice, gives
        pytest.param("kernels", "cpu", 19, 5, marks=no_gpu),
        *(pytest.param("public", "cuda", 1000, channels, marks=gpu) for channels in (28, 1000)),
    ],
)
@algebras
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=case_id)
def test_repeats_are_equal_to_the_bit(run, place, rows, channels, algebra, dtype):
    """Nothing is summed in an order that depends on the machine's mood, and torch agrees."""
    if (run == "kernels" and algebra not in ("R2", "R2,0,1")) or (algebra, channels) == ("R5", 1000):
        pytest.skip("too slow in the interpreter, and to compile")
    assert torch.are_deterministic_algorithms_enabled()
    inputs = random_inputs(FUSED[0], algebra, [rows], channels, dtype=dtype, device=place)
    grad = torch.randn_like(inputs[0])
    function = public(FUSED[0], algebra, True) if run == "public" else executor(run, FUSED[0], algebra, True)
    first, second = (reference.evaluate(function, inputs, grad, [True] * 3) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("channels", [64, 1024, 8192])
def test_more_numbers_than_an_int32_counts(gpu_memory, channels):
    """Offsets beyond 2^31 reach the right rows, by kernels on whole rows, and forward or backward on blocks of them."""
    gpu_memory(40 * 2**30)
    step = 2**31 // (4 * channels) // 8 + 1
    rows = 8 * step + 1

    def function(x, y, weight):
        """Nine rows that are far apart; those between are zeros."""
        large = []
        for few in (x, y):
            many = torch.zeros(rows, 4, channels, dtype=x.dtype, device=x.device)
            many[::step] = few
            many.register_hook(assert_no_nan)
            large.append(many)
        assert large[0].stride(0) * (rows - 1) > 2**31
        out = F.gelu_sgp_norm(*large, weight, "R2")
        assert_no_nan(out)
        return out[::step]

    def assert_no_nan(x):
        assert not x.isnan().any()

    inputs = conditioned_inputs(FUSED[0], "R2", 9, channels, True, dtype=torch.bfloat16, device="cuda")
    reference.assert_correct(function, truth(FUSED[0], "R2", True), inputs)


@pytest.mark.parametrize("eps", [1e-6, 1e-2, 10.0])
def test_eps(device, eps):
    """Inside the root, and the same in the fused operator."""
    x, y, weight = random_inputs("weighted_geometric_product", "R1,3", [3], 5, dtype=torch.float64, device=device)
    signature = SIGNATURES["R1,3"]
    reference.assert_correct(lambda x: F.rms_norm(x, "R1,3", eps), lambda x: reference.rms_norm(x, signature, eps), [x])
    reference.assert_correct(
        lambda x, y, w: F.gelu_sgp_norm(x, y, w, "R1,3", eps=eps),
        lambda x, y, w: reference.gelu_sgp_norm(x, y, w, signature, eps=eps),
        [x, y, weight],
    )


@algebras
def test_norm_of_zeros(device, algebra):
    """No division by zero: zeros stay zeros, and the gradient is that of x / sqrt(eps)."""
    x = torch.zeros(3, len(Algebra(algebra)), 4, dtype=torch.float64, device=device, requires_grad=True)
    out = F.rms_norm(x, algebra, eps=1e-4)
    assert not out.any()
    (grad,) = torch.autograd.grad(out.sum(), x)
    for k, grade in enumerate(Algebra(algebra).grade_slices):
        null = not any(Algebra(algebra).quadratic_form[grade])
        torch.testing.assert_close(grad[:, grade], torch.full_like(grad[:, grade], 1 if null else 1e2), msg=str(k))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=case_id)
@pytest.mark.parametrize("run", ["public", pytest.param("kernels", marks=no_gpu)])
def test_norm_on_the_null_cone(device, run, dtype):
    """Light-like vectors, as massless particles have them: q is exactly zero, and so is the sign of it.

    A sign made of rounding errors (a * a - a * a is not zero where a compiler fuses a product with the
    difference) turns the gradient of a blown-up vector around. Squares of small numbers are exact.
    """
    x = torch.randn(3, 16, 6, dtype=dtype, device=device)
    x[:, 1] = torch.tensor([5.0, -10, 13, 3, 5, 1])
    x[:, 2] = torch.tensor([3.0, 6, 5, 3, 0, 0])
    x[:, 3] = torch.tensor([-4.0, 8, 12, 0, 4, 0])
    x[:, 4] = torch.tensor([0.0, 0, 0, 0, 3, 1])
    # In one row a channel is not light-like, so the norm of that row is of ordinary size.
    x[0, 1, 0] = 7
    function = public("identity", "R1,3", True) if run == "public" else executor(run, "identity", "R1,3", True)
    reference.assert_correct(function, truth("identity", "R1,3", True), [x])


@pytest.mark.parametrize("spec", ["R3,0,1", (3, 0, 1), Algebra("R3,0,1")], ids=str)
def test_algebra_may_be_written_in_any_way(spec):
    x, y, weight = random_inputs("weighted_geometric_product", "R3,0,1", [3], 2)
    expected = F.gelu_sgp_norm(x, y, weight, "R3,0,1")
    assert torch.equal(F.gelu_sgp_norm(x, y, weight, spec), expected)
    assert torch.equal(F.gelu_sgp_norm(x, y, weight, algebra=spec, normalize=True, eps=1e-6), expected)


@pytest.mark.parametrize(("grades", "chosen"), [(0, [0]), (1, [1, 2, 3]), ((0, 2), [0, 4, 5, 6])])
def test_embed_extract_and_grade(device, grades, chosen):
    """Blades of chosen grades, and nothing of the others."""
    x = torch.randn(2, 3, 8, 5, dtype=torch.float64, device=device)
    keep = torch.zeros(8, 1, dtype=torch.float64, device=device)
    keep[chosen] = 1
    reference.assert_correct(lambda x: F.extract(x, grades, "R3"), lambda x: x[..., chosen, :], [x])
    reference.assert_correct(lambda x: F.grade(x, grades, "R3"), lambda x: x * keep, [x])
    part = x[..., chosen, :]
    reference.assert_correct(
        lambda part: F.embed(part, grades, "R3"),
        lambda part: torch.zeros_like(x).index_copy(-2, torch.tensor(chosen, device=device).long(), part),
        [part],
    )
    assert torch.equal(F.extract(F.embed(part, grades, "R3"), grades, "R3"), part)


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)], ids=str)
def test_layouts(lead):
    x = torch.randn(*lead, 8, 5)
    channels_first, blades_first = F.to_channels_first(x), F.to_blades_first(x)
    assert torch.equal(channels_first, x.transpose(-1, -2))
    assert torch.equal(blades_first, x.movedim(-2, 0))
    assert torch.equal(F.from_channels_first(channels_first), x)
    assert torch.equal(F.from_blades_first(blades_first), x)


@no_gpu
def test_wide_rows_of_large_numbers_in_half_precision():
    """Before the norm, products of large numbers overflow float16; nothing may be stored in it there."""
    kernels = importlib.import_module("cliffnn.kernels")
    algebra = Algebra("R3")
    x, y = (300 * torch.randn(1, 8, 2100)).half(), (300 * torch.randn(1, 8, 2100)).half()
    weight = torch.randn(20, 2100).half()
    out, _ = kernels.run(operation_of(FUSED[0], algebra, True), [x, y, weight], 1e-6)
    exact = reference.gelu_sgp_norm(x.double(), y.double(), weight.double(), SIGNATURES["R3"])
    assert (out - exact).norm() < 1e-3 * exact.norm()


@no_gpu
@pytest.mark.parametrize("channels", [5, 2100])
def test_scales_say_what_was_multiplied_with(channels):
    """Also where a grade of null blades has no norm, on rows of any width."""
    algebra, x = Algebra("R2,0,1"), torch.randn(2, 8, channels)
    scales = [
        importlib.import_module(f"cliffnn.{module}").run(operation_of("identity", algebra, True), [x], 1e-6)[1]
        for module in ("generated", "kernels")
    ]
    torch.testing.assert_close(*scales)
