"""Layers and the example's model by every way that torch runs a module: one test body, many modes."""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import reference
import torch
from torch import nn

from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.layers import MVGELU, SGP, MSiLU, MVLinear, MVRMSNorm, SGPNormBlock, VersorLinear
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


CASES = {
    "MVLinear": layer(lambda: MVLinear(6, 5, "R3"), "R3"),
    "MVGELU": layer(lambda: MVGELU("R3"), "R3"),
    "MVRMSNorm": layer(lambda: MVRMSNorm(6, "R3,0,1", elementwise_affine=True), "R3,0,1"),
    "SGP": layer(lambda: SGP(6, "R2,0,1"), "R2,0,1", count=2),
    "SGPNormBlock": layer(lambda: SGPNormBlock(6, "R3"), "R3"),
    "SGPNormBlock-R2": layer(lambda: SGPNormBlock(6, "R2", normalize=False), "R2"),
    "SGPNormBlock-R1,1": layer(lambda: SGPNormBlock(6, "R1,1"), "R1,1"),
    "VersorLinear": layer(lambda: VersorLinear(6, 5, "R3"), "R3"),
    "MSiLU": layer(lambda: MSiLU(6, "R3"), "R3"),
    "NBodyNetwork": Case(network, systems),
}


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


# Where plain torch in half precision is no yardstick.
NO_YARDSTICK = {
    ("autocast-float16", "NBodyNetwork"),
    ("autocast-float16", "SGPNormBlock-R1,1"),
    ("autocast-bfloat16", "SGPNormBlock-R1,1"),
}


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
        pytest.skip("plain torch overflows, or rounding errors choose the sign of a norm")
    return CASES[request.param]


@pytest.fixture
def plain_torch(monkeypatch):
    """Makes layers compute by the slow truth, in the dtype of their inputs."""

    def signature(algebra):
        return Algebra(algebra).p, Algebra(algebra).q, Algebra(algebra).r

    def linear(x, weight, bias, algebra, grades=None):
        assert grades is None
        out = torch.stack([x[..., b, :] @ weight[k].T for b, k in enumerate(Algebra(algebra).grade_of_blades)], -2)
        return out if bias is None else torch.cat([out[..., :1, :] + bias, out[..., 1:, :]], -2)

    def substitute(function):
        def run(*arguments):
            """Tensors, the algebra, and grades, which are all."""
            tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
            algebra, *grades = arguments[len(tensors) :]
            assert not any(grades)
            return function(*tensors, signature(algebra))

        return run

    def block(x, y, weight, algebra, normalize, eps, *grades):
        assert not any(grades)
        return reference.gelu_sgp_norm(x, y, weight, signature(algebra), normalize, eps)

    def norm(x, algebra, eps, grades=None):
        assert grades is None
        return reference.rms_norm(x, signature(algebra), eps)

    def versor_linear(x, versor, weight, algebra, odd, grades):
        assert grades is None
        return reference.versor_linear(x, versor, weight, signature(algebra), odd)

    def use():
        monkeypatch.setattr(F, "linear", linear)
        monkeypatch.setattr(F, "gelu_sgp_norm", block)
        monkeypatch.setattr(F, "rms_norm", norm)
        monkeypatch.setattr(F, "versor_linear", versor_linear)
        for name in ("gelu", "msilu", "weighted_geometric_product"):
            monkeypatch.setattr(F, name, substitute(getattr(reference, name)))

    return use


def results(run, module, inputs, grad):
    """The output, and the gradients of ``(grad * output).sum()``."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = run(*leaves)
    named = dict(module.named_parameters())
    gradients = torch.autograd.grad(out, [*leaves, *named.values()], grad.to(out))
    names = ["output", *(f"gradient of input {n}" for n in range(len(leaves))), *named]
    return dict(zip(names, (out.detach(), *gradients), strict=True))


def test_results_and_gradients(mode, case, device, plain_torch):
    """Against float64; batches of another size than the module was exported for, too."""
    prepare, dtype = MODES[mode]
    module = case.module()
    randomize_parameters(module)
    module.to(device)
    # what is compiled for each new size is counted elsewhere
    sizes = (50,) if mode == "compiled" else (50, 30, 80)
    batches = [tuple(x.to(device) for x in case.inputs(rows)) for rows in sizes]
    run = prepare(module, batches[0])
    grads = [torch.randn_like(module(*inputs)) for inputs in batches]
    got = [results(run, module, *batch) for batch in zip(batches, grads, strict=True)]
    plain_torch()
    for inputs, grad, ours in zip(batches, grads, got, strict=True):
        truths = []
        for kind in (torch.float64, dtype):
            twin = copy.deepcopy(module).to(kind)
            truths.append(results(twin, twin, [x.to(kind) for x in inputs], grad))
        exact, rounded = truths
        errors = {name: reference.relative_error(result, exact[name]) for name, result in ours.items()}
        unavoidable = {name: reference.relative_error(rounded[name], exact[name]) for name in ours}
        if dtype.itemsize == 2 and type(module).__name__ == "NBodyNetwork":
            # through many layers the error of a single parameter is a matter of luck, here and in plain torch
            errors, unavoidable = ({"all results": root_mean_square(e)} for e in (errors, unavoidable))
        for name, error in errors.items():
            reference.assert_small(error, unavoidable[name], name, dtype)


def root_mean_square(errors):
    return math.sqrt(sum(error**2 for error in errors.values()) / len(errors))
