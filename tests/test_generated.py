"""Generated code on a CPU: rows by blocks, in buffers that are used again."""

import pytest
import torch

from cliffnn import generated, traceable
from cliffnn.buffered import buffered_function
from cliffnn.operation import operation

TEXTS = ["gelu_weighted_geometric_product.norm", "steerable_geometric_product", "silu", "layer_norm", "normalize"]


def numbers(group, rows, channels):
    shape = {"rows": (rows, group.size, channels), "shared": (group.size, channels), "scalars": (rows, group.size)}
    return torch.randn(shape[group.kind], dtype=torch.float64)


def gradients(text, algebra):
    """An operation, and its vector-Jacobian product with respect to all inputs."""
    chosen = operation(text, algebra)
    return chosen, chosen.vjp(["out"], chosen.inputs)


def test_an_operation_within_another(monkeypatch):
    """As a signal's handler may begin one: it has memory of its own."""
    forward, _ = gradients("gelu_weighted_geometric_product.norm", "R2")
    inputs = [numbers(group, 37, 5) for group in forward.inputs.values()]
    function, *rest = buffered_function(forward)
    wanted, depth = generated.run(forward, inputs, 1e-6), []

    def interrupted(*arguments):
        if not depth:
            depth.append(1)
            # what it computed so far is in its buffers
            function(*arguments)
            generated.run(forward, [tensor + 1 for tensor in inputs], 1e-6)
            assert generated._kept.memory.data_ptr() != arguments[-4][0].data_ptr()
        function(*arguments)

    monkeypatch.setattr(generated, "buffered_function", lambda _: (interrupted, *rest))
    got = generated.run(forward, inputs, 1e-6)
    assert depth
    assert all(map(torch.equal, got, wanted))


@pytest.mark.parametrize("block", [1, 20, 64, 20480])
@pytest.mark.parametrize("rows", [0, 1, 37])
@pytest.mark.parametrize("text", TEXTS)
def test_blocks_of_any_size_give_the_same(text, rows, block, monkeypatch):
    """As many rows as fit, the last block fewer: the same as torch code on whole tensors; inputs are only read."""
    monkeypatch.setattr(generated, "_block", lambda: block)
    forward, vjp = gradients(text, "R2")
    inputs = [numbers(group, rows, 5) for group in forward.inputs.values()]
    saved = dict(zip(forward.outputs, traceable.run(forward, inputs, 1e-6), strict=True))
    known = {**dict(zip(forward.inputs, inputs, strict=True)), **{name: saved[name] for name in vjp.saved}}
    given = [known[name] if name in known else numbers(group, rows, 5) for name, group in vjp.inputs.items()]
    for chosen, arguments in ((forward, inputs), (vjp, given)):
        before = [argument.clone() for argument in arguments]
        with torch.inference_mode():
            # what an operation before has left
            generated._kept.take_back(torch.full((2**17,), torch.nan, dtype=torch.float64).view(torch.uint8))
        for got, wanted in zip(
            generated.run(chosen, arguments, 1e-6), traceable.run(chosen, arguments, 1e-6), strict=True
        ):
            torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-12)
        assert all(map(torch.equal, arguments, before))


@pytest.mark.parametrize(("text", "most"), [(TEXTS[0], (22, 56)), (TEXTS[1], (22, 58)), (TEXTS[2], (1, 11))])
def test_few_buffers_are_enough(text, most):
    """They are the memory that a block needs, which has to stay in the cache."""
    for chosen, limit in zip(gradients(text, "R3"), most, strict=True):
        assert buffered_function(chosen)[2] <= limit
