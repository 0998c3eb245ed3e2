"""Layers and the example's model by every way that torch runs a module: one test body, many modes."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import pytest
import reference
import test_clifford_layers as truth
import test_invariants
import torch
from torch import nn

from cliffnn import Algebra, layers
from cliffnn import functional as F
from cliffnn.layers import MVLinear, SGPNormBlock
from cliffnn.testing import randomize_parameters

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),  # inductor's own imports
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),  # torch.export's own use
    pytest.mark.filterwarnings("ignore:.*_pytree.*:FutureWarning"),
]
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


class Case(NamedTuple):
    """A module, and its inputs for a number of rows: enough that errors of rounding average."""

    module: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[torch.Tensor, ...]]


def layer(module, algebra, channels=6, count=1):
    return Case(module, lambda rows: tuple(torch.randn(count, rows, len(Algebra(algebra)), channels)))


def network():
    # Lightning is imported by whom it concerns
    from examples.nbody_o3 import NBodyNetwork

    return NBodyNetwork(channels=4, layers=1)


def systems(rows):
    return torch.randn(rows, 4), torch.randn(rows, 4, 3), torch.randn(rows, 4, 3)


class Embedded(nn.Module):
    """The parts of a multivector, embedded anew."""

    def __init__(self):
        super().__init__()
        self.embed = layers.MVEmbed("R3")

    def forward(self, x):
        return self.embed(scalars=x[..., 0, :], vectors=x[..., 1:4, :], pseudoscalars=x[..., 7, :])


class Messages(nn.Module):
    """From each node to the next two; as many edges for each node, so that a number of nodes tells theirs."""

    def __init__(self):
        super().__init__()
        self.layer = layers.CliffordMessagePassing(6, 4, "R2", SGPNormBlock(4, "R2"), MVLinear(10, 6, "R2"))

    def forward(self, x):
        nodes = torch.arange(x.shape[0], device=x.device)
        senders = torch.cat([nodes, nodes])
        receivers = torch.cat([nodes + 1, nodes + 2]) % x.shape[0]
        return self.layer(x, torch.stack([senders, receivers]))


CASES = {
    "MVLinear": layer(lambda: MVLinear(6, 5, "R3"), "R3"),
    "MVGELU": layer(lambda: layers.MVGELU("R3"), "R3"),
    "MVRMSNorm": layer(lambda: layers.MVRMSNorm(6, "R3,0,1", elementwise_affine=True), "R3,0,1"),
    "SGP": layer(lambda: layers.SGP(6, "R2,0,1"), "R2,0,1", count=2),
    "SGPNormBlock": layer(lambda: SGPNormBlock(6, "R3"), "R3"),
    "SGPNormBlock-R2": layer(lambda: SGPNormBlock(6, "R2", normalize=False), "R2"),
    "SGPNormBlock-R1,1": layer(lambda: SGPNormBlock(6, "R1,1"), "R1,1"),
    "FCGP": layer(lambda: layers.FCGP(6, 5, "R2"), "R2", count=2),
    "FCGPNormBlock": layer(lambda: layers.FCGPNormBlock(6, 5, "R2"), "R2"),
    "SteerableGP": layer(lambda: layers.SteerableGP(6, "R2"), "R2"),
    "FullyConnectedSteerableGP": layer(lambda: layers.FullyConnectedSteerableGP(6, 5, "R2"), "R2"),
    "MVSiLU": layer(lambda: layers.MVSiLU(6, "R3"), "R3"),
    "MVGate": layer(lambda: layers.MVGate("silu", "R3"), "R3"),
    "MVLayerNorm": layer(lambda: layers.MVLayerNorm(6, "R3"), "R3"),
    "NormalizationLayer": layer(lambda: layers.NormalizationLayer(6, "R3"), "R3"),
    "MVDropout": layer(lambda: layers.MVDropout(0.3, "R3").eval(), "R3"),
    "MVPool": layer(lambda: layers.MVPool("mean", "R3", dim=-3), "R3"),
    "Invariants": layer(lambda: layers.Invariants(6, "R3", inner_products=True), "R3"),
    "MVEmbed": layer(Embedded, "R3"),
    "CliffordMessagePassing": layer(Messages, "R2"),
    "VersorLinear": layer(lambda: layers.VersorLinear(6, 5, "R3"), "R3"),
    "MSiLU": layer(lambda: layers.MSiLU(6, "R3"), "R3"),
    "NBodyNetwork": Case(network, systems),
}


def test_every_layer_is_here():
    assert set(layers.__all__) <= set(CASES)


def eager(module, inputs):
    return module


def compiled(module, inputs):
    return torch.compile(module, fullgraph=True, backend="aot_eager")


def exported(module, inputs):
    batch = torch.export.Dim("batch")
    return torch.export.export(module, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs)).module()


def autocast(dtype):
    def mode(module, inputs):
        def run(*inputs):
            with torch.autocast(inputs[0].device.type, dtype):
                return module(*inputs)

        return run

    return mode


# How a module is run, and the dtype of its arithmetic.
MODES = {
    "eager": (eager, torch.float32),
    "compiled": (compiled, torch.float32),
    "exported": (exported, torch.float32),
    "autocast-bfloat16": (autocast(torch.bfloat16), torch.bfloat16),
    "autocast-float16": (autocast(torch.float16), torch.float16),
}


# What keeps a root from zero is zero in float16, so plain torch overflows there: bfloat16, which is coarser, tells how
# much these may err.
OVERFLOWING = (
    "NBodyNetwork",
    "SteerableGP",
    "FullyConnectedSteerableGP",
    "NormalizationLayer",
    "CliffordMessagePassing",
)
# Where rounding errors choose the sign of a norm, plain torch in half precision is no yardstick at all.
NO_YARDSTICK = {(f"autocast-{dtype}", "SGPNormBlock-R1,1") for dtype in ("float16", "bfloat16")}
# All layers are compiled in test_modules.py; these with all their gradients against float64.
COMPILED = ("MVLinear", "MVGELU", "MVRMSNorm", "SGP", "SGPNormBlock", "NBodyNetwork")


@pytest.fixture(params=MODES)
def mode(request):
    """The name of a way to run a module."""
    torch.compiler.reset()
    yield request.param
    torch.compiler.reset()


@pytest.fixture(params=CASES)
def case(request, mode):
    """A module, and its inputs."""
    if request.param == "NBodyNetwork":
        pytest.importorskip("lightning")
    if (mode, request.param) in NO_YARDSTICK:
        pytest.skip("rounding errors choose the sign of a norm")
    if mode == "compiled" and not request.param.startswith(COMPILED):
        pytest.skip("compiled in test_modules.py")
    return CASES[request.param]


@pytest.fixture
def dtype(mode, case):
    """In which plain torch says how much results may err."""
    dtype = MODES[mode][1]
    overflows = dtype == torch.float16 and any(case is CASES[name] for name in OVERFLOWING)
    return torch.bfloat16 if overflows else dtype


class InParts(torch.autograd.Function):
    """A matrix product of factors in two parts each, of eleven bits, without the product of the lesser parts."""

    @staticmethod
    def forward(ctx, x, matrix):
        ctx.save_for_backward(x, matrix)
        return InParts.product(x, matrix)

    @staticmethod
    def backward(ctx, grad):
        x, matrix = ctx.saved_tensors
        return InParts.product(grad, matrix.mT), InParts.product(x.flatten(0, -2).mT, grad.flatten(0, -2))

    @staticmethod
    def product(x, matrix):
        (first, rest), (major, minor) = InParts.parts(x), InParts.parts(matrix)
        return rest @ major + first @ minor + first @ major

    @staticmethod
    def parts(x):
        def truncated(x):
            return (x.contiguous().view(torch.int32) & -(2**13)).view(torch.float32)

        first = truncated(x)
        return first, truncated(x - first)


@pytest.fixture
def plain_torch(monkeypatch):
    """Makes layers compute by the slow truth, in the dtype of their inputs."""

    def signature(algebra):
        return Algebra(algebra).p, Algebra(algebra).q, Algebra(algebra).r

    def linear(x, weight, bias, algebra, grades=None):
        assert grades is None
        # on a GPU float32 factors come to tensor cores in parts, which errs more (docs/kernels.md)
        product = InParts.apply if x.is_cuda and x.dtype == torch.float32 else torch.matmul
        blades = enumerate(Algebra(algebra).grade_of_blades)
        out = torch.stack([product(x[..., b, :], weight[k].T) for b, k in blades], -2)
        return out if bias is None else torch.cat([out[..., :1, :] + bias, out[..., 1:, :]], -2)

    def substitute(function):
        def run(*arguments):
            """Tensors, the algebra, and options: what is added to norms is the reference's, grades are all."""
            tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
            algebra, *options = arguments[len(tensors) :]
            assert not any(options) or (options[0] == 1e-6 and not any(options[1:]))
            return function(*tensors, signature(algebra))

        return run

    def block(x, y, weight, algebra, normalize, eps, *grades):
        assert not any(grades)
        return reference.gelu_sgp_norm(x, y, weight, signature(algebra), normalize, eps)

    def norm(x, algebra, eps, grades=None):
        assert grades is None
        return reference.rms_norm(x, signature(algebra), eps)

    def fully_connected_block(x, y, weight, algebra, normalize, eps, *grades):
        assert not any(grades)
        gates = [reference.gelu(factor, signature(algebra)) for factor in (x, y)]
        out = truth.fully_connected(*gates, weight, signature(algebra))
        return reference.rms_norm(out, signature(algebra), eps) if normalize else out

    def versor_linear(x, versor, weight, algebra, odd, grades):
        assert grades is None
        return reference.versor_linear(x, versor, weight, signature(algebra), odd)

    def use():
        monkeypatch.setattr(F, "linear", linear)
        monkeypatch.setattr("cliffnn.layers.linear.linear_beside", lambda x, *rest: (linear(x, *rest), x))
        monkeypatch.setattr(F, "gelu_sgp_norm", block)
        monkeypatch.setattr(F, "gelu_fcgp_norm", fully_connected_block)
        monkeypatch.setattr(F, "rms_norm", norm)
        monkeypatch.setattr(F, "versor_linear", versor_linear)
        for name in ("gelu", "msilu", "silu", "layer_norm", "normalize"):
            monkeypatch.setattr(F, name, substitute(getattr(reference, name)))
        for name in ("weighted_geometric_product", "steerable_geometric_product"):
            monkeypatch.setattr(F, name, substitute(getattr(reference, name)))
        monkeypatch.setattr(F, "fully_connected_geometric_product", substitute(truth.fully_connected))
        monkeypatch.setattr(F, "gate", lambda x, name, *_: x * getattr(nn.functional, name)(x[..., :1, :]))
        monkeypatch.setattr(F, "invariants", lambda x, a, inner, *_: test_invariants.truth(a.name, inner)(x))
        monkeypatch.setattr(F, "pool", lambda x, algebra, reduce, batch, size, dim, *_: x.mean(dim))

    return use


def results(run, module, inputs, grad):
    """The output, and the gradients of ``(grad * output).sum()``."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = run(*leaves)
    named = dict(module.named_parameters())
    gradients = torch.autograd.grad(out, [*leaves, *named.values()], grad.to(out))
    names = ["output", *(f"gradient of input {n}" for n in range(len(leaves))), *named]
    return dict(zip(names, (out.detach(), *gradients), strict=True))


def turned(inputs, rotation):
    """Vectors of three coordinates, turned; they are the last dimension of what has three."""
    return tuple((x.double() @ rotation.T).to(x) if x.dim() == 3 else x for x in inputs)


def orientations(case, device):
    """Rotations after which a module computes the same with other rounding errors; for a layer one is enough.

    Through many layers, rounding errors of one step are amplified as the inputs have it, so one evaluation in some
    precision says little about another: of plain torch in float32, every seventh evaluation of the n-body network
    errs more than twice as much as the one before, when nothing but its orientation has changed.
    """
    identity = torch.eye(3, dtype=torch.float64, device=device)
    others = 4 if case is CASES["NBodyNetwork"] else 0
    return [identity, *(torch.linalg.qr(torch.randn_like(identity))[0] for _ in range(others))]


def test_results_and_gradients(mode, case, dtype, device, plain_torch):
    """Against float64; batches of another size than the module was exported for, too."""
    prepare, _ = MODES[mode]
    module = case.module()
    randomize_parameters(module)
    module.to(device)
    # what is compiled for each new size is counted elsewhere
    sizes = (50,) if mode == "compiled" else (50, 30, 80)
    batches = [tuple(x.to(device) for x in case.inputs(rows)) for rows in sizes]
    run = prepare(module, batches[0])
    grads = [torch.randn_like(module(*inputs)) for inputs in batches]
    got = [results(run, module, *batch) for batch in zip(batches, grads, strict=True)]
    rotations = orientations(case, device)
    plain_torch()
    for inputs, grad, ours in zip(batches, grads, got, strict=True):
        plain = []
        for rotation in rotations:
            # float64 sees what the other precision sees
            *rounded, rounded_grad = turned((*inputs, grad), rotation) if len(rotations) > 1 else (*inputs, grad)
            exact, result = (
                results(twin, twin, [x.to(kind) for x in rounded], rounded_grad)
                for kind in (torch.float64, dtype)
                for twin in [copy.deepcopy(module).to(kind)]
            )
            if rotation is rotations[0]:
                errors = {name: reference.relative_error(result, exact[name]) for name, result in ours.items()}
            plain.append({name: reference.relative_error(result[name], exact[name]) for name in ours})
        for name, error in errors.items():
            reference.assert_small(error, max(of_one[name] for of_one in plain), name, dtype)
