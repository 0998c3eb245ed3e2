"""Operations as torch code on whole tensors, each step visible to compilers, which fuse it.

The same function, with the same arguments, as `cliffnn.generated` runs block by block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cliffnn.codegen import torch_function
from cliffnn.operation import Group, Operation
from cliffnn.precision import compute_dtype, sign_tolerance


def run(operation: Operation, inputs: Sequence[Tensor], eps: float) -> list[Tensor]:
    """See `cliffnn.generated.run`."""
    like = inputs[operation.row]
    rows, _, channels = like.shape
    dtype = compute_dtype(like.dtype)
    function, names = torch_function(operation)
    given = dict(zip(operation.inputs, inputs, strict=True))
    arguments = [_unbound(operation.inputs[name], given[name].to(dtype)) for name in names]
    values = iter(function(*arguments, eps, sign_tolerance(like.dtype)))
    results = []
    for group in operation.outputs.values():
        of_group = [next(values) for _ in group.indices]
        if group.kind == "scalars":
            results.append(torch.cat(of_group, -1) if of_group else like.new_empty(rows, 0, dtype=dtype))
            continue
        # what depends on shared inputs alone is the same in all rows
        of_group = [value.expand(rows, channels) for value in of_group]
        if group.kind == "rows":
            results.append(torch.stack(of_group, 1).to(like.dtype))
        else:
            # summed one by one: their terms are never in memory
            results.append(torch.stack([value.sum(0) for value in of_group]).to(like.dtype))
    return results


def _unbound(group: Group, tensor: Tensor) -> Sequence[Tensor]:
    """The numbers of a group as tensors that broadcast to ``(rows, channels)``."""
    if group.kind == "scalars":
        return tensor.split(1, -1)
    return tensor.unbind(0 if group.kind == "shared" else 1)
