"""Operations as torch code on whole tensors, each step visible to compilers, which fuse it.

The same function, with the same arguments, as `cliffnn.generated` runs block by block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

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


def run_as_region(operation: Operation, inputs: Sequence[Tensor], eps: float) -> list[Tensor]:
    """The same as a region, which compilers trace and compile once for all layers that call it on tensors alike.

    Layer by layer, the steps of a deep network take them minutes.
    """
    from torch._higher_order_ops import invoke_subgraph
    from torch.fx.experimental.symbolic_shapes import free_symbols, free_unbacked_symbols

    layouts = [(tensor.dtype, *tensor.shape, *tensor.stride()) for tensor in inputs]
    dynamic = [size for layout in layouts for size in layout if isinstance(size, torch.SymInt)]
    # sizes that only the data know are results of a step, which torch loses on the way into a region
    if free_unbacked_symbols(dynamic):
        return run(operation, inputs, eps)
    # from a size of 5 n inductor does not find n, which has to be an argument too
    symbols = sorted(free_symbols(dynamic), key=str)
    sizes = [dynamic[0].node.shape_env.create_symintnode(symbol, hint=None) for symbol in symbols]
    # by this name they know it again, with the same of its inputs one tensor
    same = [next(n for n, other in enumerate(inputs) if other is tensor) for tensor in inputs]
    name = f"cliffnn {operation.text} {operation.algebra.name} {eps} {layouts} {same}"
    return list(invoke_subgraph(cast(Any, _region(operation, eps)), name, *sizes, *inputs))


@functools.cache
def _region(operation: Operation, eps: float) -> Callable[..., tuple[Tensor, ...]]:
    def region(*arguments):
        return tuple(run(operation, arguments[-len(operation.inputs) :], eps))

    return region


def _unbound(group: Group, tensor: Tensor) -> Sequence[Tensor]:
    """The numbers of a group as tensors that broadcast to ``(rows, channels)``."""
    if group.kind == "scalars":
        return tensor.split(1, -1)
    return tensor.unbind(0 if group.kind == "shared" else 1)
