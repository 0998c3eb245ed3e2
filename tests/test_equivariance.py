"""Every exported layer and function turns with its inputs, with parameters that hide nothing."""

import math
from functools import partial

import pytest
import reference
import torch

from cliffnn import Algebra, layers
from cliffnn import functional as F
from cliffnn.gates import GATES
from cliffnn.pooling import REDUCTIONS
from cliffnn.testing import apply_versor, assert_equivariant, equivariance_error, random_versor

ALGEBRAS = ["R2", "R3", "R1,3", "R3,0,1", "R4", "R2,0,1", "R0,2", "R1,1"]
CHANNELS = 3

algebras = pytest.mark.parametrize("algebra", ALGEBRAS)
parities = pytest.mark.parametrize("odd", [False, True], ids=["even", "odd"])


class SeededDropout(layers.MVDropout):
    """Drops the same each time."""

    def forward(self, x):
        torch.manual_seed(0)
        return super().forward(x)


class InvariantScalars(layers.Invariants):
    """The invariants as scalars, which versors leave as they are."""

    def forward(self, x):
        return F.embed(super().forward(x)[..., None, :], 0, self.algebra)


class EmbedParts(layers.MVEmbed):
    """Embeds the parts of a multivector anew."""

    def forward(self, x):
        return super().forward(scalars=x[..., 0, :], vectors=F.extract(x, 1, self.algebra), pseudoscalars=x[..., -1, :])


class OfGrades(torch.nn.Module):
    """A layer that takes and gives some grades, on multivectors."""

    def __init__(self, layer, out, *ins):
        super().__init__()
        self.layer, self.out, self.ins = layer, out, ins

    def forward(self, *inputs):
        algebra = self.layer.algebra
        held = [F.extract(x, grades, algebra) for x, grades in zip(inputs, self.ins, strict=True)]
        return F.embed(self.layer(*held), self.out, algebra)


def of_grades(layer, grades, *channels):
    """How to build a layer that takes and gives the same grades."""
    return lambda algebra: OfGrades(layer(*channels, algebra, grades=grades), grades, grades)


# For each exported layer the ways to build it, and the number of multivectors it takes.
LAYERS = {
    "MVLinear": (
        1,
        lambda algebra: layers.MVLinear(CHANNELS, 5, algebra),
        lambda algebra: layers.MVLinear(None, 5, algebra, bias=False),
        lambda algebra: OfGrades(layers.MVLinear(CHANNELS, 5, algebra, grades=(0, 2)), (0, 2), (0, 2)),
        lambda algebra: OfGrades(layers.MVLinear(None, 5, algebra, bias=False, grades=1), 1, 1),
    ),
    "MVGELU": (1, layers.MVGELU, lambda algebra: OfGrades(layers.MVGELU(algebra, (0, 1)), (0, 1), (0, 1))),
    "MVGate": (
        1,
        *[partial(layers.MVGate, activation) for activation in GATES],
        lambda algebra: OfGrades(layers.MVGate("tanh", algebra, (0, 1)), (0, 1), (0, 1)),
    ),
    "MVDropout": (
        1,
        partial(SeededDropout, 0.3),
        lambda algebra: SeededDropout(0.3, algebra, by_grade=True),
        lambda algebra: OfGrades(SeededDropout(0.3, algebra, True, grades=(1, 2)), (1, 2), (1, 2)),
    ),
    "MVPool": (
        1,
        *[partial(layers.MVPool, reduce) for reduce in REDUCTIONS],
        lambda algebra: layers.MVPool("max", algebra, by_grade=True),
        lambda algebra: OfGrades(layers.MVPool("max", algebra, grades=(1, 2)), (1, 2), (1, 2)),
    ),
    "Invariants": (
        1,
        lambda algebra: InvariantScalars(CHANNELS, algebra),
        lambda algebra: InvariantScalars(algebra=algebra, inner_products=True),
    ),
    "MVEmbed": (1, EmbedParts),
    "MVRMSNorm": (
        1,
        lambda algebra: layers.MVRMSNorm(algebra=algebra),
        lambda algebra: layers.MVRMSNorm(CHANNELS, algebra=algebra, elementwise_affine=True),
        lambda algebra: OfGrades(
            layers.MVRMSNorm(CHANNELS, algebra, elementwise_affine=True, grades=(1, 2)), (1, 2), (1, 2)
        ),
    ),
    "FCGP": (
        2,
        lambda algebra: layers.FCGP(CHANNELS, 5, algebra),
        lambda algebra: layers.FCGP(algebra=algebra),
        lambda algebra: OfGrades(
            layers.FCGP(CHANNELS, 5, algebra, x_grades=1, y_grades=(0, 1), out_grades=(0, 2)), (0, 2), 1, (0, 1)
        ),
    ),
    "FCGPNormBlock": (
        1,
        lambda algebra: layers.FCGPNormBlock(None, 5, algebra),
        lambda algebra: layers.FCGPNormBlock(CHANNELS, 2, algebra, normalize=False, bias=False),
        lambda algebra: OfGrades(
            layers.FCGPNormBlock(CHANNELS, 2, algebra, grades=(0, 1), out_grades=(1, 2)), (1, 2), (0, 1)
        ),
    ),
    "MVSiLU": (
        1,
        lambda algebra: layers.MVSiLU(CHANNELS, algebra),
        of_grades(layers.MVSiLU, (1, 2), CHANNELS),
    ),
    "MVLayerNorm": (
        1,
        lambda algebra: layers.MVLayerNorm(algebra=algebra),
        of_grades(layers.MVLayerNorm, (1, 2), CHANNELS),
    ),
    "NormalizationLayer": (
        1,
        lambda algebra: layers.NormalizationLayer(CHANNELS, algebra, init=0.5),
        of_grades(layers.NormalizationLayer, (1, 2), CHANNELS),
    ),
    "SGP": (
        2,
        lambda algebra: layers.SGP(CHANNELS, algebra=algebra),
        lambda algebra: OfGrades(
            layers.SGP(CHANNELS, algebra, x_grades=1, y_grades=(0, 1), out_grades=(0, 2)), (0, 2), 1, (0, 1)
        ),
    ),
    "SteerableGP": (
        1,
        lambda algebra: layers.SteerableGP(algebra=algebra),
        lambda algebra: layers.SteerableGP(CHANNELS, algebra, first_order=False, normalization=None),
        lambda algebra: OfGrades(layers.SteerableGP(CHANNELS, algebra, grades=(0, 2)), (0, 2), (0, 2)),
    ),
    "FullyConnectedSteerableGP": (
        1,
        lambda algebra: layers.FullyConnectedSteerableGP(None, 2, algebra),
        of_grades(layers.FullyConnectedSteerableGP, (0, 2), CHANNELS, 2),
    ),
    "CliffordMessagePassing": (1, lambda algebra: OnAGraph(algebra)),
    "SGPNormBlock": (
        1,
        lambda algebra: layers.SGPNormBlock(algebra=algebra),
        lambda algebra: layers.SGPNormBlock(CHANNELS, algebra=algebra, normalize=False),
        lambda algebra: OfGrades(
            layers.SGPNormBlock(CHANNELS, algebra, grades=(0, 1), out_grades=(1, 2)), (1, 2), (0, 1)
        ),
    ),
}


class OnAGraph(torch.nn.Module):
    """Message passing along fixed edges; node 3 has none."""

    def __init__(self, algebra):
        super().__init__()
        update = layers.MVLinear(2 * CHANNELS, CHANNELS, algebra)
        self.layer = layers.CliffordMessagePassing(
            CHANNELS, CHANNELS, algebra, layers.SGPNormBlock(CHANNELS, algebra), update
        )

    def forward(self, x):
        return self.layer(x, torch.tensor([[0, 1, 2], [1, 0, 1]]))


def by_grade(function, *args):
    """A norm or a gate with parameters for each grade and channel."""

    def build(algebra):
        params = torch.randn(2, len(Algebra(algebra).grades), CHANNELS, dtype=torch.float64)
        return lambda x: function(x, *params[: 1 + (function is F.silu)], algebra, *args)

    return build


def weight(algebra):
    """A weight for each path and channel, which does not turn."""
    return torch.randn(len(Algebra(algebra).paths), CHANNELS, dtype=torch.float64)


def channel_matrices(algebra):
    """A matrix for each path."""
    return torch.randn(len(Algebra(algebra).paths), 5, CHANNELS, dtype=torch.float64)


def with_weight(function, *args, weight=weight):
    """A product with its weight fixed."""

    def build(algebra):
        w = weight(algebra)
        return lambda x, y: function(x, y, w, algebra, *args)

    return build


def steerable(algebra):
    w, degree = weight(algebra), torch.randn(len(Algebra(algebra).grades), CHANNELS, dtype=torch.float64)
    return lambda x, y, z: F.steerable_geometric_product(x, y, z, w, degree, algebra)


def pooled(reduce, by_grade=False):
    """Pooling over a batch with a graph that is empty."""
    batch = torch.tensor([2, 0, 2, 2])
    return lambda algebra: lambda x: F.pool(x, algebra, reduce, batch, 4, by_grade=by_grade)


def weighted_points(algebra):
    """To points and back; a reflection changes the sign of their weight, which they don't keep."""
    weight = slice(-2, -1) if Algebra(algebra).r else None  # without null vectors there is no weight

    def function(x):
        points = F.embed_points(F.extract_points(x, algebra), algebra)
        return points * x[..., weight, :] if weight else points

    return function


# The same for each exported function, as a function of multivectors.
FUNCTIONS = {
    "gelu": (1, lambda algebra: lambda x: F.gelu(x, algebra)),
    "rms_norm": (1, lambda algebra: lambda x: F.rms_norm(x, algebra)),
    "geometric_product": (2, lambda algebra: lambda x, y: F.geometric_product(x, y, algebra)),
    "weighted_geometric_product": (2, with_weight(F.weighted_geometric_product)),
    "gelu_sgp_norm": (2, with_weight(F.gelu_sgp_norm), with_weight(F.gelu_sgp_norm, False)),
    "fully_connected_geometric_product": (
        2,
        with_weight(F.fully_connected_geometric_product, weight=channel_matrices),
    ),
    "gelu_fcgp_norm": (2, with_weight(F.gelu_fcgp_norm, weight=channel_matrices)),
    "linear": (1, lambda algebra: lambda x: F.linear(x, *matrices(algebra), algebra)),
    "steerable_geometric_product": (3, steerable),
    "silu": (1, by_grade(F.silu)),
    "normalize": (1, by_grade(F.normalize)),
    "layer_norm": (1, lambda algebra: lambda x: F.layer_norm(x, torch.tensor([1.0, -2.0, 0.5]).double(), algebra)),
    "grade": (1, lambda algebra: lambda x: F.grade(x, (0, 2), algebra)),
    "extract": (1, lambda algebra: lambda x: F.embed(F.extract(x, 1, algebra), 1, algebra)),
    "embed": (1, lambda algebra: lambda x: F.embed(F.extract(x, (1, 2), algebra), (1, 2), algebra)),
    "gate": (1, *[partial(lambda activation, algebra: lambda x: F.gate(x, activation, algebra), g) for g in GATES]),
    "dropout": (1, lambda algebra: SeededDropout(0.5, algebra), lambda algebra: SeededDropout(0.5, algebra, True)),
    "pool": (1, pooled("sum"), pooled("mean"), pooled("max"), pooled("max", True)),
    "invariants": (1, lambda algebra: InvariantScalars(CHANNELS, algebra)),
    "embed_points": (1, weighted_points),
    "extract_points": (1, weighted_points),
}
# These are not equivariant, and say so: test_versors.py.
ACTIONS = {"MSiLU", "VersorLinear", "msilu", "versor_linear"}
# These permute axes and know no algebra.
LAYOUTS = {"to_channels_first", "from_channels_first", "to_blades_first", "from_blades_first"}


def matrices(algebra):
    """A matrix for each grade, and a bias."""
    generator = torch.Generator().manual_seed(0)
    shapes = (len(Algebra(algebra).grades), CHANNELS, CHANNELS), (CHANNELS,)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def multivectors(algebra, count=1):
    return torch.randn(count, 4, len(Algebra(algebra)), CHANNELS, dtype=torch.float64)


@pytest.mark.parametrize("name", sorted({*layers.__all__} - ACTIONS))
@algebras
@parities
def test_layers(name, algebra, odd):
    assert name in LAYERS, f"{name} is exported, so say here how to build it"
    count, *builds = LAYERS[name]
    for build in builds:
        assert_equivariant(build(algebra), algebra, *multivectors(algebra, count).float(), odd=[odd])


@pytest.mark.parametrize("name", sorted({*F.__all__} - LAYOUTS - ACTIONS))
@algebras
@parities
def test_functions(name, algebra, odd):
    assert name in FUNCTIONS, f"{name} is exported, so say here how to call it"
    count, *builds = FUNCTIONS[name]
    for build in builds:
        assert_equivariant(build(algebra), algebra, *multivectors(algebra, count), odd=[odd])


class BiasOnAllBlades(layers.MVLinear):
    """What the predecessors did: a bias that starts at zero, on every blade."""

    def __init__(self, algebra):
        super().__init__(CHANNELS, CHANNELS, algebra, bias=False)
        self.everywhere = torch.nn.Parameter(torch.zeros(len(self.algebra), CHANNELS))

    def forward(self, x):
        return super().forward(x) + self.everywhere


def wrong_sign(x, y, algebra):
    """The product with one entry of its table turned round."""
    wrong = torch.zeros_like(x)
    wrong[..., 1, :] = 2 * x[..., 1, :] * y[..., 0, :]
    return F.geometric_product(x, y, algebra) - wrong


def blade_from_its_own_squares(x):
    """A norm that sums plain squares over the vectors: invariant only in definite metrics."""
    return x / (1 + x[..., 1:3, :].square().sum(-2, keepdim=True)).sqrt()


@algebras
@parities
@pytest.mark.parametrize(
    ("count", "build"),
    [
        (1, BiasOnAllBlades),
        (1, lambda algebra: torch.relu),
        (1, lambda algebra: lambda x: x + x.roll(1, -2)),
        (1, lambda algebra: lambda x: x * torch.sigmoid(x[..., 1:2, :])),
        (2, lambda algebra: lambda x, y: wrong_sign(x, y, algebra)),
        (1, lambda algebra: lambda x: x * math.nan),
    ],
    ids=["bias on all blades", "relu", "roll", "gate by a vector", "wrong sign", "nan"],
)
def test_the_checker_catches(count, build, algebra, odd):
    with pytest.raises(AssertionError, match=r"not equivariant in .*grade 0.*grade 1"):
        assert_equivariant(build(algebra), algebra, *multivectors(algebra, count).float(), odd=[odd])


@parities
@pytest.mark.parametrize(("algebra", "right"), [("R2", True), ("R0,2", True), ("R1,1", False)])
def test_the_checker_catches_a_norm_of_plain_squares(algebra, right, odd):
    """Right where the metric is definite up to its sign, wrong under boosts."""
    errors = equivariance_error(
        blade_from_its_own_squares, algebra, *multivectors(algebra), versor=random_versor(algebra, odd)
    )
    assert (max(errors) < 1e-12) == right


def test_the_checker_catches_what_is_no_number_in_one_of_several_results():
    with pytest.raises(AssertionError, match="grade 0: nan"):
        assert_equivariant(lambda x: (x * float("nan"), x), "R2", *multivectors("R2"))


def test_the_checker_refuses_to_pass_on_nothing():
    with pytest.raises(ValueError, match=r"nothing to test: got inputs of shape \(0, 4, 3\), wanted"):
        assert_equivariant(torch.relu, "R2", torch.zeros(0, 4, 3))


def test_the_checker_catches_what_only_reflections_show():
    """Swapping grades by the pseudoscalar commutes with rotations, not with reflections."""
    pseudoscalar = F.embed(torch.ones(1, 1, dtype=torch.float64), 3, "R3")

    def dual(x):
        return F.geometric_product(x, pseudoscalar, "R3")

    assert_equivariant(dual, "R3", *multivectors("R3"), odd=[False])
    with pytest.raises(AssertionError, match="odd"):
        assert_equivariant(dual, "R3", *multivectors("R3"))


def test_the_checker_leaves_the_module_as_it_was():
    layer = layers.SGPNormBlock(CHANNELS, algebra="R2")
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert_equivariant(layer, "R2", *multivectors("R2").float())
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert all(parameter.dtype == torch.float32 for parameter in layer.parameters())


def test_unrandomised_parameters_hide_a_bias():
    """Why parameters are randomised: the wrong layer passes while its bias is zero."""
    assert_equivariant(BiasOnAllBlades("R2"), "R2", *multivectors("R2").float(), randomize=False)


def action_of(versor, algebra):
    """The matrix of a versor's action on blades."""
    return apply_versor(versor, torch.eye(len(algebra), dtype=torch.float64), algebra)


@algebras
@pytest.mark.parametrize("count", [1, 2, 3])
def test_versors_act_by_reflections(algebra, count):
    """The sandwich with a product of vectors is the outermorphism of the reflections in them."""
    algebra = Algebra(algebra)
    signature = (algebra.p, algebra.q, algebra.r)
    vectors = torch.randn(count, algebra.dim, dtype=torch.float64)
    versor = F.embed(torch.ones(1, 1, dtype=torch.float64), 0, algebra)
    for vector in vectors:
        blades = torch.zeros(len(algebra), 1, dtype=torch.float64)
        blades[algebra.grade_slices[1], 0] = vector
        versor = reference.geometric_product(blades, versor, signature)
    expected = reference.versor_action(vectors, signature)
    assert reference.relative_error(action_of(versor[:, 0], algebra), expected) < 1e-10


@algebras
@parities
def test_random_versors(algebra, odd):
    """They act as orthogonal maps of vectors, proper or improper, extended to blades; and as no small group."""
    algebra = Algebra(algebra)
    signature = (algebra.p, algebra.q, algebra.r)
    form = torch.diag(torch.tensor(reference.metric(signature), dtype=torch.float64))
    moved = torch.zeros(algebra.dim, algebra.dim, dtype=torch.bool)
    for _ in range(5):
        action = action_of(random_versor(algebra, odd=odd), algebra)
        vectors = action[algebra.grade_slices[1], algebra.grade_slices[1]]
        assert reference.relative_error(action, reference.outermorphism(vectors, signature)) < 1e-10
        assert (vectors.T @ form @ vectors - form).norm() < 1e-10
        assert abs(torch.linalg.det(vectors).item() - (-1 if odd else 1)) < 1e-10
        moved |= (vectors - torch.eye(algebra.dim)).abs() > 1e-3
    null = torch.tensor(reference.metric(signature)) == 0
    # Every basis vector takes something from every other, except that null ones go nowhere but along themselves.
    assert moved[:, ~null].all()
    assert not moved[~null][:, null].any()


def test_random_versors_need_an_invertible_vector():
    with pytest.raises(ValueError, match=r"odd.*R0,0,2"):
        random_versor("R0,0,2", odd=True)
