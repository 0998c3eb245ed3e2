"""Layers as good torch modules: states, copies, files, dtypes, devices, and torch's own tools for modules."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations, skip_init

from cliffnn import layers

BLADES, CHANNELS = 8, 5

# Each exported layer in its kinds; those with parameters take a device and a dtype, those with channels may be lazy.
LAYERS = {
    "MVLinear": lambda channels=CHANNELS, **k: layers.MVLinear(channels, 6, "R3", **k),
    "MVLinear without bias": lambda channels=CHANNELS, **k: layers.MVLinear(channels, 6, "R3", bias=False, **k),
    "MVRMSNorm with a gain": lambda channels=CHANNELS, **k: layers.MVRMSNorm(
        channels, "R3", elementwise_affine=True, **k
    ),
    "SGP": lambda channels=CHANNELS, **k: layers.SGP(channels, "R3", **k),
    "SGPNormBlock": lambda channels=CHANNELS, **k: layers.SGPNormBlock(channels, "R3", **k),
    "SGPNormBlock without norm": lambda channels=CHANNELS, **k: layers.SGPNormBlock(
        channels, "R3", normalize=False, bias=False, **k
    ),
    "FCGP": lambda channels=CHANNELS, **k: layers.FCGP(channels, 6, "R3", **k),
    "FCGPNormBlock": lambda channels=CHANNELS, **k: layers.FCGPNormBlock(channels, 6, "R3", **k),
    "MVSiLU": lambda channels=CHANNELS, **k: layers.MVSiLU(channels, "R3", **k),
    "MVLayerNorm": lambda channels=CHANNELS, **k: layers.MVLayerNorm(channels, "R3", **k),
    "NormalizationLayer": lambda channels=CHANNELS, **k: layers.NormalizationLayer(channels, "R3", **k),
    "SteerableGP": lambda channels=CHANNELS, **k: layers.SteerableGP(channels, "R3", **k),
    "FullyConnectedSteerableGP": lambda channels=CHANNELS, **k: layers.FullyConnectedSteerableGP(
        channels, 6, "R3", **k
    ),
    "VersorLinear": lambda channels=CHANNELS, **k: layers.VersorLinear(channels, 6, "R3", **k),
    "VersorLinear odd": lambda channels=CHANNELS, **k: layers.VersorLinear(channels, 6, "R3", odd=True, **k),
    "MSiLU": lambda channels=CHANNELS, **k: layers.MSiLU(channels, "R3", **k),
    "CliffordMessagePassing": lambda channels=CHANNELS, **k: layers.CliffordMessagePassing(channels, 6, "R3", **k),
}
EDGES = torch.tensor([[0, 1], [1, 0]])
PLAIN = {
    "MVGELU": lambda: layers.MVGELU("R3"),
    "MVGate": lambda: layers.MVGate("silu", "R3"),
    "MVRMSNorm": lambda: layers.MVRMSNorm(algebra="R3"),
    "MVDropout": lambda: layers.MVDropout(0.3, "R3"),
    "MVDropout by grade": lambda: layers.MVDropout(0.3, "R3", by_grade=True),
    "MVPool": lambda: layers.MVPool("mean", "R3"),
    "MVPool max": lambda: layers.MVPool("max", "R3", by_grade=True),
    "Invariants": lambda: layers.Invariants(CHANNELS, "R3"),
    "Invariants with inner products": lambda: layers.Invariants(algebra="R3", inner_products=True),
    "MVEmbed": lambda: layers.MVEmbed("R3"),
}

with_parameters = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
# The map of messages has several weights, each of a layer that is here.
OF_ONE_WEIGHT = {name: make for name, make in LAYERS.items() if name != "CliffordMessagePassing"}
weighted = pytest.mark.parametrize("make", OF_ONE_WEIGHT.values(), ids=OF_ONE_WEIGHT)
every = pytest.mark.parametrize("make", {**LAYERS, **PLAIN}.values(), ids={**LAYERS, **PLAIN})
kinds = pytest.mark.parametrize("lazy", [False, True], ids=["", "lazy"])


def call(layer, x, seed=0):
    """The layer's output, with the same numbers dropped each time."""
    torch.manual_seed(seed)
    if isinstance(layer, (layers.SGP, layers.FCGP)):
        return layer(x, x + 1)
    if isinstance(layer, layers.MVEmbed):
        return layer(scalars=x[..., 0, :], vectors=x[..., 1:4, :], pseudoscalars=x[..., 7, :])
    if isinstance(layer, layers.CliffordMessagePassing):
        return layer(x.reshape(-1, BLADES, CHANNELS), EDGES.to(x.device))
    return layer(x)


def inputs(**kwargs):
    return torch.randn(2, 3, BLADES, CHANNELS, **kwargs)


def randomized(layer):
    """Initial values are alike in many layers; these are not."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def test_every_layer_is_here():
    assert {name.split()[0] for name in (*LAYERS, *PLAIN)} == set(layers.__all__)


@every
def test_states(make):
    layer, x = randomized(make()), inputs()
    expected = call(layer, x)
    for assign in (False, True):
        twin = make()
        assert list(twin.state_dict()) == list(layer.state_dict())
        twin.load_state_dict(copy.deepcopy(layer.state_dict()), assign=assign)
        assert torch.equal(call(twin, x), expected)
    assert {*layer.state_dict()} == {name for name, _ in layer.named_parameters()}


@with_parameters
def test_states_of_and_for_layers_without_channels(make):
    x = inputs()
    known, lazy = randomized(make()), make(None)
    lazy.load_state_dict(known.state_dict())
    assert torch.equal(call(lazy, x), call(known, x))
    lazy = make(None)
    call(lazy, x)
    known.load_state_dict(lazy.state_dict())
    assert torch.equal(call(known, x), call(lazy, x))
    # before the first input too
    waiting = make(None)
    waiting.load_state_dict(make(None).state_dict())
    assert call(waiting, x).shape == call(known, x).shape


@every
def test_copies_and_files(make):
    layer, x = randomized(make()), inputs()
    expected = call(layer, x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)):
        assert torch.equal(call(twin, x), expected)
        assert repr(twin) == repr(layer)
        assert {id(p) for p in twin.parameters()}.isdisjoint(id(p) for p in layer.parameters())
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    twin = make()
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(call(twin, x), expected)


@with_parameters
def test_copies_and_files_of_layers_without_channels(make):
    layer = make(None)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)):
        assert any(is_lazy(p) for p in twin.parameters())
        call(twin, inputs())
        assert not any(is_lazy(p) for p in twin.parameters())
    assert any(is_lazy(p) for p in layer.parameters())


@every
@pytest.mark.parametrize(
    "convert",
    [
        lambda layer: layer.to(torch.float64),
        lambda layer: layer.double(),
        lambda layer: layer.half(),
        lambda layer: layer.bfloat16(),
        lambda layer: layer.to(torch.bfloat16),
    ],
    ids=["to float64", "double", "half", "bfloat16", "to bfloat16"],
)
def test_dtypes(make, convert):
    layer = convert(randomized(make()))
    dtype = convert(torch.ones(())).dtype
    out = call(layer, inputs(dtype=dtype))
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert all(p.dtype == dtype for p in layer.parameters())


@with_parameters
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes_of_layers_without_channels(make, dtype):
    for layer in (make(None).to(dtype), make(None, dtype=dtype)):
        assert call(layer, inputs(dtype=dtype)).dtype == dtype
        assert all(p.dtype == dtype for p in layer.parameters())


@with_parameters
@pytest.mark.parametrize("by_argument", [False, True], ids=["context", "argument"])
def test_built_without_memory(make, by_argument):
    """The fixture `poison` makes what nobody initialises NaN."""
    if by_argument:
        layer = make(device="meta")
    else:
        with torch.device("meta"):
            layer = make()
    assert all(p.is_meta for p in layer.parameters())
    layer.to_empty(device="cpu")
    assert all(p.isnan().all() for p in layer.parameters())
    layer.reset_parameters()
    out = call(layer, inputs())
    assert out.isfinite().all()
    assert out.any()


@with_parameters
def test_built_without_memory_and_loaded(make):
    known, x = randomized(make()), inputs()
    layer = make(device="meta")
    layer.load_state_dict(known.state_dict(), assign=True)
    assert torch.equal(call(layer, x), call(known, x))


@every
def test_shapes_without_memory(make):
    expected = call(make(), inputs())
    with torch.device("meta"):
        layer = make()
    out = call(layer, inputs(device="meta"))
    assert (out.shape, out.device.type) == (expected.shape, "meta")


@with_parameters
def test_without_channels_on_another_device(make):
    layer = make(None, device="meta")
    out = call(layer, inputs(device="meta"))
    assert out.is_meta
    assert all(p.is_meta and not is_lazy(p) for p in layer.parameters())


@pytest.mark.parametrize(
    ("layer", "arguments"),
    [
        (getattr(layers, name), (5, *outs, "R3"))
        for name, *outs in (
            ("MVLinear", 6),
            ("FCGP", 6),
            ("FCGPNormBlock", 6),
            ("FullyConnectedSteerableGP", 6),
            ("SGP",),
            ("SGPNormBlock",),
            ("SteerableGP",),
            ("MVSiLU",),
            ("MVLayerNorm",),
            ("NormalizationLayer",),
            ("CliffordMessagePassing", 6),
        )
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_skip_init(layer, arguments):
    skipped = skip_init(layer, *arguments)
    assert all(p.device.type == "cpu" and p.isnan().all() for p in skipped.parameters())
    twin = layer(*arguments)
    skipped.load_state_dict(twin.state_dict())
    assert torch.equal(call(skipped, inputs := torch.randn(2, BLADES, 5)), call(twin, inputs))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo asks inputs that are results
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # dynamo makes instances of autograd.Function
@every
def test_module_compile(make):
    # in float64: the compiler adds in another order
    layer, x = randomized(make()).double(), inputs(dtype=torch.float64, requires_grad=True)
    expected = call(layer, x)
    wanted = [x, *layer.parameters()]
    gradients = torch.autograd.grad(expected.square().sum(), wanted)
    torch.compiler.reset()
    layer.compile(fullgraph=True, backend="aot_eager")
    out = call(layer, x)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), wanted), gradients)
    torch.compiler.reset()


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
@weighted
@kinds
def test_parametrizations(make, norm, lazy):
    layer, x = make(None if lazy else CHANNELS), inputs()
    call(layer, x)
    randomized(layer)
    plain = copy.deepcopy(layer)
    getattr(parametrizations, norm)(layer)
    out = call(layer, x)
    plain.load_state_dict({**plain.state_dict(), "weight": layer.eval().weight})
    torch.testing.assert_close(call(layer, x), call(plain, x))
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    twin = pickle.loads(pickle.dumps(layer.state_dict()))
    layer.load_state_dict(twin)
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    torch.testing.assert_close(call(layer, x), call(plain, x))


@every
def test_functional_call(make):
    layer, other, x = randomized(make()), randomized(make()), inputs()
    before = call(layer, x)
    torch.manual_seed(0)
    values = dict(other.named_parameters())
    function = nn.Module()
    function.layer, function.forward = layer, lambda x: call(layer, x)
    out = torch.func.functional_call(function, {f"layer.{name}": value for name, value in values.items()}, (x,))
    assert torch.equal(out, call(other, x))
    assert torch.equal(call(layer, x), before)


def replica_of(module):
    """What `nn.DataParallel` calls on each GPU."""
    replica = module._replicate_for_data_parallel()
    for name, child in module.named_children():
        setattr(replica, name, replica_of(child))
    for name, parameter in module._parameters.items():
        setattr(replica, name, None if parameter is None else parameter.clone())
    return replica


@every
def test_replicas(make):
    layer, x = randomized(make()), inputs()
    assert torch.equal(call(replica_of(layer), x), call(layer, x))


@with_parameters
def test_replicas_of_layers_without_channels(make):
    layer, x = make(None), inputs()
    with pytest.raises(RuntimeError, match="uninitialized parameters can't be used with `DataParallel`"):
        replica_of(layer)
    expected = call(layer, x)
    assert torch.equal(call(replica_of(layer), x), expected)


@every
def test_train_and_eval(make):
    layer, x = randomized(make()), inputs()
    in_training = call(layer, x)
    assert layer.training
    layer.eval()
    assert not any(part.training for part in layer.modules())
    in_evaluation = call(layer, x)
    if isinstance(layer, layers.MVDropout):
        assert torch.equal(in_evaluation, x)
        assert not torch.equal(in_training, x)
    else:
        assert torch.equal(in_evaluation, in_training)
    assert torch.equal(call(layer.train(), x), in_training)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every
def test_states_between_devices(make):
    """Moved there and back, and by states either way."""
    layer, x = randomized(make()).double(), inputs(dtype=torch.float64)
    if "Dropout" in type(layer).__name__:
        layer.eval()  # devices draw other numbers
    expected = call(layer, x)
    there = copy.deepcopy(layer).cuda()
    torch.testing.assert_close(call(there, x.cuda()).cpu(), expected)
    for state, device in ((layer.state_dict(), "cuda"), (there.state_dict(), "cpu")):
        twin = make().double().to(device).train(layer.training)
        twin.load_state_dict(state)
        torch.testing.assert_close(call(twin, x.to(device)).cpu(), expected)
    assert torch.equal(call(there.cpu(), x), expected)


@with_parameters
def test_frozen(make):
    layer = make().requires_grad_(False)
    assert not call(layer, inputs()).requires_grad
    x = inputs(requires_grad=True)
    call(layer, x).sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad is None for p in layer.parameters())


@every
def test_nothing_but_parameters_is_kept_and_no_warning(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = make()
        call(layer, inputs())
    assert not list(layer.buffers())
    assert "R3" in repr(layer)
