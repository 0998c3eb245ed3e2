"""Operations run as generated torch code, on a CPU: block by block, so that a block stays in the cache.

The same function, with the same arguments, as `cliffnn.kernels` runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from cliffnn.codegen import buffered_function
from cliffnn.operation import Group, Operation
from cliffnn.precision import compute_dtype, sign_tolerance

# Numbers of one blade in a block of rows: enough to be worth a call of torch, few enough for the cache.
_BLOCK = 16384


def run(operation: Operation, inputs: Sequence[Tensor], eps: float) -> list[Tensor]:
    """Evaluate an operation row by row.

    Parameters
    ----------
    operation : Operation
    inputs : sequence of Tensor
        Contiguous, one for each of the operation's inputs; see `cliffnn.operation.Group` for their shapes.
    eps : float
        What a norm adds inside its root.

    Returns
    -------
    list of Tensor
        One for each of the operation's outputs. Of a shared one, what all rows give is summed.
    """
    like = inputs[operation.row]
    outputs = allocate(operation, like)
    function, names, count = buffered_function(operation)
    given = dict(zip(operation.inputs, inputs, strict=True))
    groups = {name: operation.inputs[name] for name in names}
    copied = {name: group.size for name, group in groups.items() if group.kind == "rows"}
    written = {name: group.size for name, group in operation.outputs.items() if group.kind != "scalars"}
    # gradients of what rows share are summed over blocks in the dtype of the arithmetic
    dtype = compute_dtype(like.dtype)
    totals = {n: torch.zeros_like(outputs[n], dtype=dtype) for n, g in operation.outputs.items() if g.kind == "shared"}
    for block, scratch in _blocks(like, copied | written | {"buffers": count}, dtype):
        arguments = [_argument(group, given[name], block, scratch, name) for name, group in groups.items()]
        results = [
            outputs[name][block].T[..., None] if group.kind == "scalars" else scratch[name]
            for name, group in operation.outputs.items()
        ]
        function(*arguments, *results, scratch["buffers"], eps, sign_tolerance(like.dtype))
        for name, group in operation.outputs.items():
            if group.kind == "rows":
                outputs[name][block] = scratch[name].transpose(0, 1)
            elif group.kind == "shared":
                totals[name] += scratch[name].sum(1)
    for name, total in totals.items():
        outputs[name].copy_(total)
    return list(outputs.values())


def allocate(operation: Operation, like: Tensor) -> dict[str, Tensor]:
    """Tensors for the outputs, by name."""
    rows, _, channels = like.shape
    outputs = {}
    for name, (kind, indices) in operation.outputs.items():
        size = len(indices)
        if kind == "scalars":
            outputs[name] = like.new_empty((rows, size), dtype=compute_dtype(like.dtype))
        else:
            outputs[name] = like.new_empty((rows, size, channels) if kind == "rows" else (size, channels))
    return outputs


def _argument(group: Group, tensor: Tensor, block: slice, scratch: Mapping[str, Tensor], name: str) -> Tensor:
    """For each number of a group, along the first dimension, one contiguous tensor ``(rows, channels)``."""
    if group.kind == "scalars":
        return tensor[block].T[..., None]
    if group.kind == "shared":
        like = scratch["buffers"]
        return tensor.to(like.dtype)[:, None].expand(-1, *like.shape[1:])
    return scratch[name].copy_(tensor[block].transpose(0, 1))


def _blocks(x: Tensor, groups: Mapping[str, int], dtype: torch.dtype) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Rows by blocks whose intermediate results stay in a CPU's cache, and memory for them.

    It is the same memory for every block: ``groups`` says how many tensors ``(rows, channels)`` go by each name.
    """
    count = -(-x.shape[0] * x.shape[-1] // _BLOCK)
    size = -(-x.shape[0] // max(1, count))
    memory = x.new_empty(sum(groups.values()), size, x.shape[-1], dtype=dtype).split(list(groups.values()))
    for start in range(0, x.shape[0], max(1, size)):
        rows = min(size, x.shape[0] - start)
        yield slice(start, start + rows), {name: m[:, :rows] for name, m in zip(groups, memory, strict=True)}
