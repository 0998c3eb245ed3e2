"""Break each dimension of each input: the error names the argument, what came and what was wanted."""

import pytest
import torch

from cliffnn import Algebra, layers
from cliffnn import functional as F

X, Y, W, V = torch.randn(2, 8, 5), torch.randn(2, 8, 5), torch.randn(20, 5), torch.randn(2, 3, 5)

# A valid call of each function, which the tests break in one place at a time.
CALLS = {
    F.gelu: {"x": X, "algebra": "R3"},
    F.geometric_product: {"x": X, "y": Y, "algebra": "R3"},
    F.weighted_geometric_product: {"x": X, "y": Y, "weight": W, "algebra": "R3"},
    F.rms_norm: {"x": X, "algebra": "R3"},
    F.gelu_sgp_norm: {"x": X, "y": Y, "weight": W, "algebra": "R3"},
    F.embed: {"x": V, "grades": 1, "algebra": "R3"},
    F.extract: {"x": X, "grades": 1, "algebra": "R3"},
    F.grade: {"x": X, "grades": 1, "algebra": "R3"},
    F.gate: {"x": X, "activation": "silu", "algebra": "R3"},
    F.dropout: {"x": X, "algebra": "R3"},
    F.pool: {"x": X, "algebra": "R3"},
    F.invariants: {"x": X, "algebra": "R3"},
    F.embed_points: {"x": V, "algebra": "R3"},
    F.extract_points: {"x": X, "algebra": "R3"},
}
PLACES = [(call, name) for call, kwargs in CALLS.items() for name, x in kwargs.items() if torch.is_tensor(x)]
SHARED = [(call, name) for call, name in PLACES if "y" in CALLS[call]]


def label(value):
    """Functions and layers by their name; pytest knows the rest."""
    return getattr(value, "__name__", None)


places = pytest.mark.parametrize(("call", "name"), PLACES, ids=label)
shared = pytest.mark.parametrize(("call", "name"), SHARED, ids=label)


def assert_refused(words, call, *args, error=(ValueError, TypeError), **kwargs):
    """An error whose message has each of the words in it (or one of each tuple of words)."""
    with pytest.raises(error) as raised:
        call(*args, **kwargs)
    message = str(raised.value)
    for word in words:
        options = word if isinstance(word, tuple) else (word,)
        assert any(option in message for option in options), f"no {word!r} in: {message}"


def named(name):
    """The ways a message may begin to speak of an argument."""
    return (f"{name}:", f"{name},", f"{name} ", f"`{name}`", f"'{name}'")


@pytest.fixture(autouse=True, scope="module")
def right_calls_before():
    """What was found right once is remembered, and must excuse nothing else."""
    for call, kwargs in CALLS.items():
        call(**kwargs)


def test_the_unbroken_calls_are_valid():
    for call, kwargs in CALLS.items():
        assert torch.is_tensor(call(**kwargs))


@places
def test_wrong_number_of_blades_or_paths(call, name):
    x = CALLS[call][name]
    wanted = x.shape[-2]
    for count in (0, 1, wanted - 1, wanted + 1):
        broken = x.new_zeros(*x.shape[:-2], count, 5)
        words = [named(name), str(count), str(wanted)]
        assert_refused(words, call, **{**CALLS[call], name: broken}, error=ValueError)


@places
def test_too_few_dimensions(call, name):
    for broken in (torch.randn(5), torch.tensor(1.0)):
        words = [named(name), str(tuple(broken.shape)).rstrip(")")]
        assert_refused(words, call, **{**CALLS[call], name: broken}, error=ValueError)


@shared
def test_channels_that_differ(call, name):
    # A single channel broadcasts in the plain product, as its documentation has it.
    for count in (4, 6) if call is F.geometric_product else (1, 4, 6):
        broken = CALLS[call][name][..., :1].repeat(*[1] * (CALLS[call][name].dim() - 1), count)
        # Of two that differ, the message may lay the blame on either.
        words = [(*named("x"), *named("y"), *named("weight")), str(count), "5"]
        assert_refused(words, call, **{**CALLS[call], name: broken}, error=ValueError)


def test_weight_of_three_dimensions():
    for call in (F.weighted_geometric_product, F.gelu_sgp_norm):
        assert_refused([named("weight"), "(2, 20, 5)"], call, X, Y, W.expand(2, 20, 5), "R3", error=ValueError)


@pytest.mark.parametrize("call", [c for c in CALLS if "y" in CALLS[c]], ids=label)
def test_leading_dimensions_that_do_not_broadcast(call):
    kwargs = {**CALLS[call], "y": torch.randn(3, 8, 5)}
    assert_refused([named("x"), named("y"), "2", "3"], call, **kwargs, error=ValueError)


@places
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_numbers_that_are_not_real(call, name, dtype):
    broken = CALLS[call][name].to(dtype)
    words = [named(name), str(dtype).removeprefix("torch."), "float"]
    assert_refused(words, call, **{**CALLS[call], name: broken})


@places
@pytest.mark.parametrize("broken", [None, 3.0, [[1.0]], "x"], ids=str)
def test_what_is_no_tensor(call, name, broken):
    words = [named(name), ("Tensor", "tensor"), type(broken).__name__]
    assert_refused(words, call, **{**CALLS[call], name: broken}, error=TypeError)


@shared
def test_mixed_dtypes(call, name):
    broken = CALLS[call][name].double()
    assert_refused(["float64", "float32"], call, **{**CALLS[call], name: broken})


@shared
def test_mixed_devices(call, name):
    broken = CALLS[call][name].to("meta")
    assert_refused(["meta", "cpu"], call, **{**CALLS[call], name: broken})


WRONG_ALGEBRAS = [
    *("", "R", "Q3", "R-1", "R3,", "R3,,1", "R1,2,3,4", "R20", "R7", "3", "r3", "R3.0", "R 3 x", "Cl(3)"),
    *(
        -1,
        7,
        3.5,
        True,
        None,
        (),
        (1, 2, 3, 4),
        (1, -1),
        (3.0, 0, 1),
        (4, 4),
        ("3",),
        torch.ones(1),
        b"R3",
        {},
    ),
]


@pytest.mark.parametrize("spec", WRONG_ALGEBRAS, ids=repr)
def test_wrong_algebras(spec):
    calls = [Algebra, lambda algebra: F.gelu(X, algebra)]
    # Layers take a missing algebra for None and say so more briefly.
    calls += [layers.MVGELU] if spec is not None else []
    for call in calls:
        # The grammar is what was wanted.
        assert_refused(["algebra", repr(spec), "R3,0,1", "(p, q, r)"], call, spec)


@pytest.mark.parametrize("call", [F.embed, F.extract, F.grade], ids=label)
@pytest.mark.parametrize("grades", [-1, 4, (0, 4), 1.0, "1", None, (1, 1), True], ids=repr)
def test_wrong_grades(call, grades):
    assert_refused([named("grades"), repr(grades), ("0", "grades")], call, CALLS[call]["x"], grades, "R3")


WRONG_CHANNELS = [0, -1, 2.5, "8", True, (8,)]


@pytest.mark.parametrize("channels", WRONG_CHANNELS, ids=repr)
def test_wrong_channels(channels):
    for make in (layers.SGP, layers.MVRMSNorm, layers.SGPNormBlock, layers.MSiLU):
        assert_refused([named("channels"), repr(channels)], make, channels, algebra="R3")
    for make in (layers.MVLinear, layers.FCGP, layers.FCGPNormBlock, layers.VersorLinear):
        assert_refused([named("in_channels"), repr(channels)], make, channels, 4, "R3")
        assert_refused([named("out_channels"), repr(channels)], make, 4, channels, "R3")


CHOICES = {
    "activation": lambda x: F.gate(X, x, "R3"),
    "MVGate activation": lambda x: layers.MVGate(x, "R3"),
    "reduce": lambda x: F.pool(X, "R3", x),
    "MVPool reduce": lambda x: layers.MVPool(x, "R3"),
    "p": lambda x: F.dropout(X, "R3", x),
    "MVDropout p": lambda x: layers.MVDropout(x, "R3"),
    "eps": lambda x: F.extract_points(X, "R3", x),
    "size": lambda x: F.pool(X, "R3", batch=torch.tensor([0, 1]), size=x),
}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("value", ["x", -0.5, True], ids=repr)
def test_wrong_choices(choice, value):
    assert_refused([named(choice.split()[-1]), repr(value), "wanted"], CHOICES[choice], value, error=ValueError)


def test_wrong_dimensions_and_batches():
    for dim in (-1, -2, 1, 2, 3, -4):
        assert_refused([named("dim"), str(dim), "(2, 8, 5)"], F.pool, X, "R3", dim=dim, error=ValueError)
    assert_refused([named("dim"), "None"], F.pool, X, "R3", dim=None, error=TypeError)
    assert_refused([named("size"), "3", "batch"], F.pool, X, "R3", size=3, error=ValueError)
    for batch in ([0, 1], torch.tensor([0.0, 1.0]), torch.tensor([0, 1], dtype=torch.int32)):
        assert_refused([named("batch"), "int64"], F.pool, X, "R3", batch=batch, error=TypeError)
    for batch in (torch.tensor([0, 1, 1]), torch.tensor([[0, 1]]), torch.tensor(0)):
        assert_refused([named("batch"), str(tuple(batch.shape))], F.pool, X, "R3", batch=batch, error=ValueError)
    good = torch.tensor([0, 2])
    assert_refused([named("batch"), "(2,)", "(1, 2, 8, 5)"], F.pool, X[None], "R3", batch=good, error=ValueError)
    assert_refused([named("batch"), "meta", "cpu"], F.pool, X, "R3", batch=good.to("meta"), error=ValueError)
    assert_refused([named("batch"), "0 to 1"], F.pool, X, "R3", batch=good, size=2, error=ValueError)
    assert_refused([named("batch"), "outside"], F.pool, X, "R3", batch=-good, error=ValueError)


def test_points_need_an_algebra_with_one_null_vector_at_most():
    for call in (F.embed_points, F.extract_points):
        assert_refused([named("algebra"), "R2,0,2", "null"], call, torch.randn(2, 16, 5), "R2,0,2", error=ValueError)


def test_wrong_parts_to_embed():
    embed, scalars = layers.MVEmbed("R3,0,1"), torch.randn(2, 5)
    assert_refused(["scalars", "vectors", "points", "pseudoscalars", "nothing"], embed, error=ValueError)
    assert_refused([named("vectors"), "3", "4"], embed, vectors=V, error=ValueError)
    assert_refused([named("points"), "4", "3"], embed, points=torch.randn(2, 4, 5), error=ValueError)
    assert_refused([named("pseudoscalars"), "()"], embed, pseudoscalars=torch.tensor(1.0), error=ValueError)
    assert_refused([named("scalars"), "int64", "float"], embed, scalars=scalars.long(), error=TypeError)
    assert_refused([named("scalars"), "float", "Tensor"], embed, scalars=1.0, error=TypeError)
    assert_refused([named("points"), "float64", "float32"], embed, scalars=scalars, points=V.double(), error=TypeError)
    assert_refused([named("scalars"), "(2,)", "(3,)"], embed, scalars=scalars, points=V[[0, 0, 0]], error=ValueError)
    assert_refused([named("vectors"), "str", "Tensor"], embed, vectors="x", error=TypeError)


def test_layers_need_an_algebra():
    for make in (layers.MVDropout, layers.MVPool, layers.Invariants, layers.MVEmbed, lambda: layers.MVGate("relu")):
        assert_refused([named("algebra"), "None", "R3"], make, error=TypeError)
    for make in (layers.SGP, layers.MVRMSNorm, layers.SGPNormBlock, layers.MSiLU):
        assert_refused([named("algebra"), "None", "R3"], make, 4, error=TypeError)
    for make in (layers.MVLinear, layers.FCGP, layers.FCGPNormBlock, layers.VersorLinear):
        assert_refused([named("algebra"), "None", "R3"], make, 4, 4, error=TypeError)
    assert_refused([named("algebra"), "None", "R3"], layers.MVGELU, error=TypeError)


LAYERS = {
    "MVLinear": lambda channels: layers.MVLinear(channels, 4, "R3"),
    "MVGELU": lambda channels: layers.MVGELU("R3"),
    "MVGate": lambda channels: layers.MVGate("silu", "R3"),
    "MVDropout": lambda channels: layers.MVDropout(0.5, "R3"),
    "MVPool": lambda channels: layers.MVPool("max", "R3"),
    "Invariants": lambda channels: layers.Invariants(channels, "R3"),
    "MVRMSNorm": lambda channels: layers.MVRMSNorm(channels, algebra="R3"),
    "MVRMSNorm with a gain": lambda channels: layers.MVRMSNorm(channels, "R3", elementwise_affine=True),
    "FCGP": lambda channels: layers.FCGP(channels, 4, algebra="R3"),
    "FCGPNormBlock": lambda channels: layers.FCGPNormBlock(channels, 4, algebra="R3"),
    "SGP": lambda channels: layers.SGP(channels, algebra="R3"),
    "SGPNormBlock": lambda channels: layers.SGPNormBlock(channels, algebra="R3"),
    "MVSiLU": lambda channels: layers.MVSiLU(channels, "R3"),
    "MVLayerNorm": lambda channels: layers.MVLayerNorm(channels, "R3"),
    "NormalizationLayer": lambda channels: layers.NormalizationLayer(channels, "R3"),
    "SteerableGP": lambda channels: layers.SteerableGP(channels, "R3"),
    "FullyConnectedSteerableGP": lambda channels: layers.FullyConnectedSteerableGP(channels, 4, "R3"),
    "VersorLinear": lambda channels: layers.VersorLinear(channels, 4, "R3"),
    "MSiLU": lambda channels: layers.MSiLU(channels, "R3"),
}
PARAMETERLESS = {"MVGELU", "MVGate", "MVDropout", "MVPool", "MVRMSNorm", "Invariants"}
BROKEN = {
    "no tensor": (None, ["ensor", "None"], TypeError),
    "blades": (X[..., :7, :], ["7", "8"], ValueError),
    "dimensions": (X[0, 0], ["(5,"], ValueError),
    "integers": (X.long(), ["int64", "float"], TypeError),
    "complex": (X.to(torch.complex64), ["complex64", "float"], TypeError),
}
BROKEN_FOR_PARAMETERS = {
    "channels": (torch.randn(2, 8, 6), ["6", "5"], ValueError),
    "dtype": (X.double(), ["float64", "float32"], TypeError),
    "device": (X.to("meta"), ["meta", "cpu"], ValueError),
}


def caller(layer):
    """The layer as a function of one input."""
    return (lambda x: layer(x, x)) if isinstance(layer, (layers.SGP, layers.FCGP)) else layer


@pytest.mark.parametrize("name", layers.__all__)
def test_every_layer_is_here(name):
    elsewhere = "MVEmbed", "CliffordMessagePassing"  # no x; edges too: test_message_passing.py
    assert name in LAYERS or name in elsewhere


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize(("x", "words", "error"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("channels", [5, None], ids=["", "lazy"])
def test_layers_refuse_wrong_inputs(make, x, words, error, channels):
    """And a lazy layer that refused its first input still takes another number of channels."""
    call = caller(make(channels))
    assert_refused([named("x"), *words], call, x, error=error)
    assert call(torch.randn(2, 8, channels or 6)).isfinite().all()


@pytest.mark.parametrize("name", sorted({*LAYERS} - PARAMETERLESS))
@pytest.mark.parametrize(("x", "words", "error"), BROKEN_FOR_PARAMETERS.values(), ids=BROKEN_FOR_PARAMETERS)
@pytest.mark.parametrize("lazy", [False, True], ids=["", "lazy"])
def test_layers_refuse_what_their_parameters_do_not_fit(name, x, words, error, lazy):
    call = caller(LAYERS[name](None if lazy else 5))
    call(X)
    # Of input and parameter that differ, the message may lay the blame on either.
    assert_refused([(*named("x"), *named("weight")), *words], call, x, error=error)
