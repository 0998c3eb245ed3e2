"""The kernels' second derivatives, in the interpreter, against the generated code's in float64."""

import pytest
import reference
import torch

from cliffnn import generated
from cliffnn.operation import operation

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="no interpreter where there is a GPU")


def second(text, algebra):
    """An operation and its second derivative: of all gradients, with respect to all that is not saved."""
    forward = operation(text, algebra)
    chosen = forward
    for _ in range(2):
        of = [name for name in chosen.outputs if name != "scales"]
        chosen = chosen.vjp(of, [name for name in chosen.inputs if name not in chosen.saved])
    return forward, chosen


def random_inputs(forward, chosen, rows, channels):
    shapes = {"rows": lambda g: (rows, g.size, channels), "shared": lambda g: (g.size, channels)}
    inputs = {
        name: torch.randn(shapes[group.kind](group), dtype=torch.float64)
        for name, group in chosen.inputs.items()
        if name not in chosen.saved
    }
    if chosen.saved:
        # what was saved is a function of the inputs
        results = generated.run(forward, [inputs[name] for name in forward.inputs], 1e-6)
        inputs |= dict(zip(forward.outputs, results, strict=True))
    return [inputs[name] for name in chosen.inputs]


@pytest.mark.parametrize("algebra", ["R2", "R1,1", "R2,0,1", "R3"])
@pytest.mark.parametrize(
    "text",
    [
        "identity.norm",
        "gelu",
        "gelu_weighted_geometric_product.norm",
        "weighted_geometric_product[y=!].norm",
        "silu",
        "normalize[x=0+1,out=0+1]",
        "layer_norm",
        "steerable_geometric_product",
    ],
)
def test_second_derivatives(text, algebra):
    assert_equal(text, algebra, 3, 5)


@pytest.mark.parametrize("text", ["identity.norm", "gelu_weighted_geometric_product.norm"])
def test_second_derivatives_of_rows_that_no_tile_holds(text):
    assert_equal(text, "R2", 1, 4100)


def test_second_derivatives_in_parts():
    """With 16 blades, each output is computed from what it loads itself; programs go over many tiles."""
    _, chosen = assert_equal("gelu_weighted_geometric_product.norm", "R1,3", 3, 3)
    (launch,) = launches(chosen, 3).outputs
    assert launch.handed == 16
    assert {"handed", "totals"} < {*launch.tensors}


def test_second_derivatives_in_parts_of_rows_that_no_tile_holds():
    """Means come from a kernel before."""
    _, chosen = assert_equal("weighted_geometric_product.norm", "R1,3", 1, 70)
    assert launches(chosen, 70).sums


def test_second_derivatives_in_parts_of_wide_rows():
    """Rows that fill the registers of a multiprocessor need no kernel before, but parts."""
    _, chosen = assert_equal("weighted_geometric_product.norm", "R3", 2, 130)
    found = launches(chosen, 130)
    assert not found.sums
    assert found.outputs[0].handed == 8


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gelu_weighted_geometric_product.norm", ["grad_out", "x", "y w"]),
        ("weighted_geometric_product[y=!].norm", ["grad_out", "x", "y", "w"]),
        ("geometric_product", ["grad_out", "x", "y"]),
        ("silu", ["grad_out", "x", "a", "b"]),
    ],
)
def test_gradients_that_share_sums_are_one_part(text, parts):
    from cliffnn.kernels.source import Kernel

    _, chosen = second(text, "R2")
    found = Kernel(chosen, tuple(chosen.outputs), apart=True).parts
    names = [[name for name in part.outputs if name in chosen.outputs] for part in found]
    assert [" ".join(name.removeprefix("grad2_") for name in each) for each in names] == parts


def test_second_derivatives_in_parts_that_hand_nothing_over():
    """Without a norm there is nothing that all parts need."""
    _, chosen = assert_equal("weighted_geometric_product", "R1,3", 1, 3)
    (launch,) = launches(chosen, 3).outputs
    assert launch.handed == 0


def launches(chosen, channels):
    from cliffnn.kernels import launch

    return launch._launches(chosen, channels, torch.float64, torch.device("cpu"), 1e-6)


def assert_equal(text, algebra, rows, channels):
    kernels = pytest.importorskip("cliffnn.kernels")
    forward, chosen = second(text, algebra)
    inputs = random_inputs(forward, chosen, rows, channels)
    results = (module.run(chosen, inputs, 1e-6) for module in (kernels, generated))
    for name, got, wanted in zip(chosen.outputs, *results, strict=True):
        assert reference.relative_error(got, wanted) < 1e-12, name
    return forward, chosen
