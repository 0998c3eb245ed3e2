"""Multivectors of some grades: functions and layers equal embedding, the full function, extracting."""

import pytest
import torch
from torch import nn

from cliffnn import Algebra, generated
from cliffnn import functional as F
from cliffnn.layers import (
    FCGP,
    MVGELU,
    SGP,
    CliffordMessagePassing,
    FCGPNormBlock,
    FullyConnectedSteerableGP,
    Invariants,
    MVDropout,
    MVEmbed,
    MVGate,
    MVLayerNorm,
    MVLinear,
    MVPool,
    MVRMSNorm,
    MVSiLU,
    NormalizationLayer,
    SGPNormBlock,
    SteerableGP,
)
from cliffnn.models import CEMLP
from cliffnn.operation import operation, text
from cliffnn.testing import randomize_parameters

# Of the algebra, what the factors and the result hold: vectors to scalars and bivectors, subalgebras, groups of one,
# three and six blades, null grades, grades that no product reaches (they are zero).
CASES = {
    "vectors": ("R3", 1, 1, (0, 2)),
    "even": ("R3", (0, 2), (0, 2), (0, 2)),
    "even-spacetime": ("R1,3", (0, 2, 4), (0, 2, 4), (0, 2, 4)),
    "bivectors": ("R1,3", 2, (0, 2), (2, 4)),
    "null": ("R3,0,1", (0, 1), None, (0, 3)),
    "out": ("R2,0,1", None, None, 0),
    "not-reached": ("R2", 1, (0, 2), (0, 1)),
}
# The same where the scalar is held, which gates.
GATED = {
    "even": CASES["even"],
    "even-spacetime": ("R1,3", (0, 2, 4), (0, 2, 4), 2),
    "scalars-and-vectors": ("R3", (0, 1), (0, 1), (0, 1, 2)),
    "scalars": ("R1,3", 0, (0, 2), 2),
    "null": CASES["null"],
    "spacetime": ("R1,3", (0, 1), (0, 2), (1, 3)),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
gated = pytest.mark.parametrize("case", GATED.values(), ids=GATED)
GRADES = [("R3", 1), ("R3", (0, 2)), ("R1,3", (0, 2, 4)), ("R1,3", 2), ("R3,0,1", (0, 1, 3)), ("R2,0,1", (0, 3))]
grades_of_one = pytest.mark.parametrize(("algebra", "grades"), GRADES, ids=str)
CHANNELS = 3


def held(algebra, grades):
    return Algebra(algebra).grades if grades is None else grades


def multivector(algebra, grades, *lead, channels=CHANNELS):
    return torch.randn(*lead, len(Algebra(algebra).blades_of(grades)), channels, dtype=torch.float64)


def path_weight(algebra, *grades):
    return torch.randn(len(Algebra(algebra).paths_between(*grades)), CHANNELS, dtype=torch.float64)


def full_path_weight(weight, algebra, *grades):
    """The same for all paths: zero off those that are held."""
    paths = Algebra(algebra).paths
    chosen = [paths.index(path) for path in Algebra(algebra).paths_between(*grades)]
    return weight.new_zeros(len(paths), *weight.shape[1:]).index_put((torch.tensor(chosen),), weight)


def full_matrices(weight, algebra, grades):
    chosen = Algebra(algebra).checked_grades(held(algebra, grades))
    full = weight.new_zeros(len(Algebra(algebra).grades), *weight.shape[1:])
    return full.index_put((torch.tensor(chosen),), weight)


def assert_same(function, full, inputs):
    """Result and gradients in float64; first derivatives and second."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    got, wanted = function(*inputs), full(*inputs)
    assert got.shape == wanted.shape
    grad = torch.randn_like(got)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    gradients = (torch.autograd.grad(out, inputs, grad, allow_unused=True) for out in (got, wanted))
    for mine, theirs, x in zip(*gradients, inputs, strict=True):
        zero = torch.zeros_like(x)
        torch.testing.assert_close(
            zero if mine is None else mine, zero if theirs is None else theirs, rtol=1e-11, atol=1e-11
        )


def embedded(x, algebra, grades):
    return F.embed(x, held(algebra, grades), algebra)


def extracted(x, algebra, grades):
    return F.extract(x, held(algebra, grades), algebra)


@cases
def test_products(case):
    algebra, x_grades, y_grades, out_grades = case
    grades = case[1:]
    inputs = [multivector(algebra, x_grades, 4), multivector(algebra, y_grades, 4)]

    def full(function, x, y, *rest):
        out = function(embedded(x, algebra, x_grades), embedded(y, algebra, y_grades), *rest, algebra)
        return extracted(out, algebra, out_grades)

    assert_same(
        lambda x, y: F.geometric_product(x, y, algebra, *grades), lambda x, y: full(F.geometric_product, x, y), inputs
    )
    assert_same(
        lambda x, y, w: F.weighted_geometric_product(x, y, w, algebra, *grades),
        lambda x, y, w: full(F.weighted_geometric_product, x, y, full_path_weight(w, algebra, *grades)),
        [*inputs, path_weight(algebra, *grades)],
    )


@gated
@pytest.mark.parametrize("normalize", [False, True])
def test_fused_operator(case, normalize):
    algebra, x_grades, y_grades, out_grades = case
    grades = case[1:]

    def full(x, y, w):
        x, y = embedded(x, algebra, x_grades), embedded(y, algebra, y_grades)
        out = F.gelu_sgp_norm(x, y, full_path_weight(w, algebra, *grades), algebra, normalize)
        return extracted(out, algebra, out_grades)

    inputs = [multivector(algebra, x_grades, 2, 1), multivector(algebra, y_grades, 3), path_weight(algebra, *grades)]
    assert_same(lambda x, y, w: F.gelu_sgp_norm(x, y, w, algebra, normalize, 1e-6, *grades), full, inputs)


@grades_of_one
def test_functions_of_one(algebra, grades):
    x = multivector(algebra, grades, 4)

    def full(function, *arguments):
        return lambda x: extracted(function(embedded(x, algebra, grades), algebra, *arguments), algebra, grades)

    assert_same(lambda x: F.rms_norm(x, algebra, grades=grades), full(F.rms_norm), [x])
    if 0 in Algebra(algebra).checked_grades(grades):
        assert_same(lambda x: F.gelu(x, algebra, grades), full(F.gelu), [x])


@grades_of_one
def test_linear(algebra, grades):
    count = len(Algebra(algebra).checked_grades(grades))
    weight, bias = torch.randn(count, 5, CHANNELS).double(), torch.randn(5).double()
    bias = [bias] if 0 in Algebra(algebra).checked_grades(grades) else []

    def full(x, weight, bias=None):
        out = F.linear(embedded(x, algebra, grades), full_matrices(weight, algebra, grades), bias, algebra)
        return extracted(out, algebra, grades)

    def mine(x, weight, bias=None):
        return F.linear(x, weight, bias, algebra, grades)

    assert_same(mine, full, [multivector(algebra, grades, 2, 4), weight, *bias])


DIFFERENTIATED = {
    "product": lambda x, y, w: F.weighted_geometric_product(x, y, w, "R3", 1, (0, 2), (1, 3)),
    "fused": lambda x, y, w: F.gelu_sgp_norm(
        F.embed(x, 1, "R3")[..., :4, :], y, w, "R3", True, 1e-6, (0, 1), (0, 2), 1
    ),
}


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_derivatives(name):
    grades = (1, (0, 2), (1, 3)) if name == "product" else ((0, 1), (0, 2), 1)
    inputs = [multivector("R3", 1, 2), multivector("R3", (0, 2), 2), path_weight("R3", *grades)]
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(DIFFERENTIATED[name], inputs)
    assert torch.autograd.gradgradcheck(DIFFERENTIATED[name], inputs)


def test_derivatives_of_the_norm_and_the_linear_map():
    x, weight = multivector("R1,3", 2, 2).requires_grad_(), torch.randn(1, 2, CHANNELS).double().requires_grad_()
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x: F.rms_norm(x, "R1,3", grades=2), [x])
        assert check(lambda x, weight: F.linear(x, weight, None, "R1,3", 2), [x, weight])


@pytest.mark.parametrize("rows", [0, 5])
@pytest.mark.parametrize("name", GATED)
def test_kernels(device, name, rows):
    """Forward, backward and double backward, on a CPU interpreted, against generated torch code in float64."""
    kernels = pytest.importorskip("cliffnn.kernels")
    if device.type == "cpu" and torch.cuda.is_available():
        pytest.skip("no interpreter where there is a GPU")
    algebra, *grades = GATED[name]
    grades = {
        n: Algebra(algebra).checked_grades(held(algebra, k)) for n, k in zip(("x", "y", "out"), grades, strict=True)
    }
    forward = operation(text("gelu_weighted_geometric_product", grades, normalize=True), algebra)
    backward = forward.vjp(["out"], forward.inputs)
    tensors = {}
    for op in (forward, backward, backward.vjp(backward.outputs, ["x", "y", "w", "grad_out"])):
        for key, group in op.inputs.items():
            shape = () if group.kind == "shared" else (rows,)
            tensors.setdefault(key, torch.randn(*shape, group.size, 5, dtype=torch.float32).to(device))
        inputs = [tensors[key] for key in op.inputs]
        got = kernels.run(op, inputs, 1e-6)
        wanted = generated.run(op, [x.double() for x in inputs], 1e-6)
        for key, mine, theirs in zip(op.outputs, got, wanted, strict=True):
            assert mine.shape == theirs.shape
            error = (mine.double() - theirs).norm() / theirs.norm().clamp(min=1e-30)
            assert theirs.numel() == 0 or error < 1e-5, f"{op.text}: {key}: {error:.1e}"
        if op is forward:
            tensors |= {key: value.float() for key, value in zip(op.outputs, wanted, strict=True)}


# Grades that have products among themselves.
STEERABLE = [("R3", (0, 2)), ("R1,3", (0, 2, 4)), ("R3", (1, 2)), ("R2,0,1", (0, 3))]
PRODUCTS = (SGP, SGPNormBlock, FCGP, FCGPNormBlock, SteerableGP, FullyConnectedSteerableGP)


# Of each layer: with grades, in full, and what goes in and comes out.
def layer_pairs():
    kind = {"dtype": torch.float64}
    for algebra, grades in GRADES:
        scalar = 0 in Algebra(algebra).checked_grades(grades)
        for per_grade in (True, False):
            make = [
                MVLinear(CHANNELS, 4, algebra, scalar, per_grade=per_grade, grades=k, **kind) for k in (grades, None)
            ]
            yield algebra, [grades], grades, *make
        make = [MVRMSNorm(CHANNELS, algebra, elementwise_affine=True, grades=k, **kind) for k in (grades, None)]
        yield algebra, [grades], grades, *make
        for layer in (MVSiLU, MVLayerNorm, NormalizationLayer):
            yield algebra, [grades], grades, *(layer(CHANNELS, algebra, grades=k, **kind) for k in (grades, None))
        for options in ({"reduce": "mean"}, {"reduce": "max"}, {"reduce": "max", "by_grade": True}):
            yield algebra, [grades], grades, *(MVPool(algebra=algebra, grades=k, **options) for k in (grades, None))
        yield algebra, [grades], grades, *(MVDropout(0.3, algebra, grades=k).eval() for k in (grades, None))
        if scalar:
            yield algebra, [grades], grades, MVGELU(algebra, grades), MVGELU(algebra)
            yield algebra, [grades], grades, MVGate("tanh", algebra, grades), MVGate("tanh", algebra)
    for algebra, x, y, out in CASES.values():
        yield (
            algebra,
            [x, y],
            out,
            SGP(CHANNELS, algebra, x_grades=x, y_grades=y, out_grades=out, **kind),
            SGP(CHANNELS, algebra, **kind),
        )
        grades = {"x_grades": x, "y_grades": y, "out_grades": out}
        yield algebra, [x, y], out, FCGP(CHANNELS, 4, algebra, **grades, **kind), FCGP(CHANNELS, 4, algebra, **kind)
    for algebra, x, _, out in GATED.values():
        if Algebra(algebra).paths_between(x, x, out):
            yield (
                algebra,
                [x],
                out,
                SGPNormBlock(CHANNELS, algebra, grades=x, out_grades=out, **kind),
                SGPNormBlock(CHANNELS, algebra, **kind),
            )
            yield (
                algebra,
                [x],
                out,
                FCGPNormBlock(CHANNELS, 4, algebra, grades=x, out_grades=out, **kind),
                FCGPNormBlock(CHANNELS, 4, algebra, **kind),
            )
    for algebra, grades in STEERABLE:
        for options in ({}, {"first_order": False, "normalization": None}):
            options |= kind
            yield (
                algebra,
                [grades],
                grades,
                *(SteerableGP(CHANNELS, algebra, grades=k, **options) for k in (grades, None)),
            )
            yield (
                algebra,
                [grades],
                grades,
                *(FullyConnectedSteerableGP(CHANNELS, 4, algebra, grades=k, **options) for k in (grades, None)),
            )


@pytest.mark.parametrize(
    "pair", list(layer_pairs()), ids=lambda pair: f"{type(pair[3]).__name__}-{pair[0]}-{pair[1]}-{pair[2]}"
)
def test_layers(pair):
    algebra, ins, out, sparse, full = pair
    randomize_parameters(sparse)
    names = [name for name, _ in sparse.named_parameters()]

    def in_full(*tensors):
        xs, parameters = tensors[: len(ins)], dict(zip(names, tensors[len(ins) :], strict=True))
        for name, like in full.named_parameters():
            if name not in parameters:  # a bias, which is the scalar's
                parameters[name] = torch.zeros_like(like)
            if parameters[name].shape == like.shape:
                continue
            products = name == "weight" and isinstance(full, PRODUCTS)
            spread = full_path_weight if products else full_matrices
            grades = (ins[0], ins[-1], out) if products else (ins[0],)
            parameters[name] = spread(parameters[name], algebra, *grades)
        result = torch.func.functional_call(
            full, parameters, tuple(embedded(x, algebra, k) for x, k in zip(xs, ins, strict=True))
        )
        return extracted(result, algebra, out)

    def mine(*tensors):
        parameters = dict(zip(names, tensors[len(ins) :], strict=True))
        return torch.func.functional_call(sparse, parameters, tensors[: len(ins)])

    assert_same(mine, in_full, [*(multivector(algebra, k, 4) for k in ins), *sparse.parameters()])


@pytest.mark.parametrize(
    "layer",
    [
        lambda channels: MVLinear(channels, 4, "R3", grades=(0, 2)),
        lambda channels: MVRMSNorm(channels, "R3", elementwise_affine=True, grades=(0, 2)),
        lambda channels: SGP(channels, "R3", x_grades=(0, 2), y_grades=(0, 2), out_grades=0),
        lambda channels: SGPNormBlock(channels, "R3", grades=(0, 2), out_grades=(0, 2)),
    ],
    ids=["MVLinear", "MVRMSNorm", "SGP", "SGPNormBlock"],
)
def test_channels_come_from_the_first_input(layer):
    lazy, known = layer(None), layer(CHANNELS)
    x = multivector("R3", (0, 2), 5).float()
    inputs = [x, x] if isinstance(known, SGP) else [x]
    lazy(*inputs)
    assert {n: p.shape for n, p in lazy.named_parameters()} == {n: p.shape for n, p in known.named_parameters()}
    fresh = layer(None)
    fresh.load_state_dict(known.state_dict())
    assert torch.equal(fresh(*inputs), known(*inputs))
    for module in (layer(None), known):
        with pytest.raises(
            ValueError, match=r"x: got shape \(5, 8, 3\), wanted \(\.\.\., 4 blades.*grades \(0, 2\) of R3"
        ):
            module(*[torch.randn(5, 8, CHANNELS) for _ in inputs])


def test_both_factors_are_checked():
    product = SGP(CHANNELS, "R3", x_grades=1, y_grades=(0, 2))
    x, y = multivector("R3", 1, 5).float(), multivector("R3", (0, 2), 5).float()
    assert product(x, y).shape == (5, 8, CHANNELS)
    with pytest.raises(ValueError, match=r"y: .*4 blades.*\(0, 2\)"):
        product(x, x)


def test_all_grades_are_the_full_layer():
    layers = [SGPNormBlock(4, "R3", grades=(0, 1, 2, 3), out_grades=(0, 1, 2, 3)), SGPNormBlock(4, "R3")]
    assert repr(layers[0]) == repr(layers[1])
    x = torch.randn(3, 8, 4)
    assert F.gelu(x, "R3", (0, 1, 2, 3)).equal(F.gelu(x, "R3"))


def test_initial_products_keep_their_size():
    """The variance counts the products there are, not those of the full algebra."""
    for algebra, x, y, out in CASES.values():
        if algebra == "R2":
            continue  # a grade that no product reaches stays zero
        product = SGP(2000, algebra, x_grades=x, y_grades=y, out_grades=out)
        left, right = (torch.randn(50, len(Algebra(algebra).blades_of(k)), 2000) for k in (x, y))
        result = F.embed(product(left, right).detach(), held(algebra, out), algebra)
        for k in Algebra(algebra).checked_grades(held(algebra, out)):
            assert abs(result[:, Algebra(algebra).grade_slices[k]].square().mean() - 1) < 0.15


def test_reprs():
    assert repr(MVLinear(2, 3, "R3", False, grades=1)) == "MVLinear(2, 3, algebra='R3', bias=False, grades=(1,))"
    assert repr(SGP(4, "R3", x_grades=1, y_grades=1, out_grades=(0, 2))) == (
        "SGP(4, algebra='R3', x_grades=(1,), y_grades=(1,), out_grades=(0, 2))"
    )
    assert repr(MVGELU("R3", (0, 2))) == "MVGELU(algebra='R3', grades=(0, 2))"
    assert repr(SGPNormBlock(4, "R3", grades=(0, 2))).splitlines()[1].endswith("bias=True, grades=(0, 2)")


V, S = torch.ones(2, 3, 4), torch.ones(2, 1, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.gelu(V, "R3", 1), r"grades: got 1, wanted the scalar"),
        (
            lambda: F.gelu_sgp_norm(S, V, torch.ones(1, 4), "R3", x_grades=0, y_grades=1),
            r"y_grades: got 1, wanted the sc",
        ),
        (lambda: F.rms_norm(V, "R3", grades=(1, 1)), r"^grades: got \(1, 1\), wanted .*ascending"),
        (lambda: F.rms_norm(V, "R3", grades=2.0), r"^grades: got 2.0, wanted"),
        (lambda: F.geometric_product(V, V, "R3", 1, 4), r"y_grades: got 4, wanted .*R3"),
        (lambda: F.geometric_product(V, V, "R3", 1, 1, 1), r"out_grades: got \(1,\), wanted grades that products"),
        (lambda: F.geometric_product(V, V, "R3", 1), r"y: got .* 8 blades"),
        (
            lambda: F.weighted_geometric_product(V, V, torch.ones(20, 4), "R3", 1, 1),
            r"weight: got shape \(20, 4\), wanted \(2, 4\)",
        ),
        (lambda: MVLinear(4, 4, "R3", grades=1), r"bias: got True .*\(1,\), wanted False"),
        (lambda: MVGELU("R3", 1), "grades: got 1, wanted the scalar"),
        (lambda: MVRMSNorm(algebra="R3", grades=(2, 1)), "grades: .*ascending"),
        (lambda: SGP(4, "R3", out_grades=7), "out_grades: got 7"),
        (
            lambda: SGP(4, "R3", x_grades=0, y_grades=0, out_grades=1),
            r"out_grades: got \(1,\), wanted grades that prod",
        ),
        (lambda: SGPNormBlock(4, "R3", grades=(1, 2)), r"grades: got \(1, 2\), wanted the scalar"),
        (lambda: SGPNormBlock(4, "R3", grades=0, out_grades=1), r"out_grades: got \(1,\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_compiled_in_one_graph():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = MVLinear(2, 4, "R3", bias=False, grades=1)
            self.product = SGP(4, "R3", x_grades=1, y_grades=1, out_grades=(0, 2))
            self.blocks = nn.Sequential(
                SGPNormBlock(4, "R3", grades=(0, 2), out_grades=(0, 2)),
                MVGELU("R3", (0, 2)),
                MVRMSNorm(4, "R3", elementwise_affine=True, grades=(0, 2)),
            )

        def forward(self, x):
            x = self.embed(x)
            return self.blocks(self.product(x, x))

    model, x = Model(), torch.randn(3, 3, 2)
    out = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(out, model(x))
    gradients = [torch.autograd.grad(result.square().sum(), model.parameters()) for result in (out, model(x))]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("inner_products", [False, True])
@grades_of_one
def test_invariants(algebra, grades, inner_products):
    """Features of the grades held, those that the full multivector has more of being zero."""
    x = multivector(algebra, grades, 4)
    got = F.invariants(x, algebra, inner_products, grades)
    full = F.invariants(embedded(x, algebra, grades), algebra, inner_products)
    assert torch.equal(got, full[:, (full != 0).any(0)])
    layer = Invariants(CHANNELS, algebra, inner_products, grades=grades)
    assert torch.equal(layer(x), got)
    assert layer.out_features == got.shape[-1]


def test_no_invariants():
    for make in (lambda: Invariants(3, "R2,0,1", grades=3), lambda: F.invariants(torch.ones(1, 3), "R2,0,1", grades=3)):
        with pytest.raises(ValueError, match=r"grades: got .*3.*, wanted some with blades that are not null in R2,0,1"):
            make()


@pytest.mark.parametrize("by_grade", [False, True])
def test_dropout_of_whole_grades(by_grade):
    layer, x = MVDropout(0.5, "R3", by_grade, grades=(1, 3)), torch.ones(50, 4, CHANNELS)
    out = layer(x)
    vectors, pseudoscalars = out[:, :3], out[:, 3:]
    assert (vectors == vectors[:, :1]).all()
    assert set(out.unique().tolist()) == {0, 2}
    assert (vectors[:, :1] == pseudoscalars).all() != by_grade


def test_embedding():
    scalars, vectors = torch.randn(5, 2), torch.randn(5, 3, 1)
    full = MVEmbed("R3")(scalars=scalars, vectors=vectors)
    assert torch.equal(MVEmbed("R3", (0, 1))(scalars=scalars, vectors=vectors), F.extract(full, (0, 1), "R3"))
    points = F.embed_points(vectors, "R3,0,1", (2, 3))
    assert torch.equal(points, F.extract(F.embed_points(vectors, "R3,0,1"), (2, 3), "R3,0,1"))
    with pytest.raises(ValueError, match=r"out_grades: got \(0, 2\), wanted \(1,\) among them"):
        MVEmbed("R3", (0, 2))(vectors=vectors)


@pytest.mark.parametrize("grades", [(0, 2), (1, 2)])
def test_networks_of_some_grades(grades):
    """A perceptron is its layers, message passing what it is in full, between `embed` and `extract`."""
    perceptron = CEMLP(2, 4, CHANNELS, "R3", dtype=torch.float64, grades=grades)
    assert perceptron(multivector("R3", grades, 5, channels=2)).shape == (5, len(Algebra("R3").blades_of(grades)), 3)

    sparse, full = (
        CliffordMessagePassing(CHANNELS, 4, "R3", edge_channels=1, difference=False, dtype=torch.float64, grades=k)
        for k in (grades, None)
    )
    randomize_parameters(sparse)
    for linear in ("receiver", "sender", "edge"):
        weight = full_matrices(getattr(sparse, linear).weight.detach(), "R3", grades)
        getattr(full, linear).weight.data = weight
    if sparse.bias is not None:
        full.bias.data = sparse.bias.detach()
    assert (sparse.bias is None) == (0 not in grades)
    edges = torch.tensor([[0, 1, 2, 2], [1, 0, 1, 0]])
    assert_same(
        lambda x, e: sparse(x, edges, e),
        lambda x, e: extracted(full(embedded(x, "R3", grades), edges, embedded(e, "R3", grades)), "R3", grades),
        [multivector("R3", grades, 4), multivector("R3", grades, 4, channels=1)],
    )


def test_derivatives_of_the_fully_connected_product():
    grades = (1, (0, 2), (1, 3))
    weight = torch.randn(len(Algebra("R3").paths_between(*grades)), 2, CHANNELS, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (multivector("R3", 1, 2), multivector("R3", (0, 2), 2), weight)]
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda *tensors: F.fully_connected_geometric_product(*tensors, "R3", *grades), inputs)


@pytest.mark.parametrize(
    "layer",
    [
        SteerableGP(CHANNELS, "R3", grades=(0, 2)),
        FCGPNormBlock(CHANNELS, 2, "R3", grades=(0, 2), out_grades=0),
        MVPool("max", "R3", by_grade=True, grades=(0, 2)),
        Invariants(CHANNELS, "R3", grades=(0, 2)),
        MVGate("silu", "R3", (0, 2)),
        CEMLP(CHANNELS, 2, 2, "R3", 1, grades=(0, 2)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_others_compiled_in_one_graph(layer):
    x = torch.randn(5, 4, CHANNELS)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))
