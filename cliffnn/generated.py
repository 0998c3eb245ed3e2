"""Operations run as generated torch code, on a CPU: block by block, so that a block stays in the cache.

The same function, with the same arguments, as `cliffnn.kernels` runs on a GPU.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cliffnn.buffered import buffered_function
from cliffnn.operation import Group, Operation
from cliffnn.precision import compute_dtype, sign_tolerance

# Bytes that a thread keeps at most.
_KEPT = 2**27


def run(
    operation: Operation, inputs: Sequence[Tensor], eps: float, into: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Evaluate an operation row by row.

    Parameters
    ----------
    operation : Operation
    inputs : sequence of Tensor
        Contiguous, one for each of the operation's inputs; see `cliffnn.operation.Group` for their shapes.
    eps : float
        What a norm adds inside its root.
    into : sequence of Tensor or None
        Contiguous, for the results; None: new ones.

    Returns
    -------
    list of Tensor
        One for each of the operation's outputs. Of a shared one, what all rows give is summed.
    """
    like = inputs[operation.row]
    outputs = allocate(operation, like) if into is None else dict(zip(operation.outputs, into, strict=True))
    function, names, count = buffered_function(operation)
    given = dict(zip(operation.inputs, inputs, strict=True))
    dtype = compute_dtype(like.dtype)
    shape = count, *_block_shape(like)
    size = math.prod(shape) * dtype.itemsize
    # nothing here is differentiated: without what torch does to that end each call is a tenth faster
    with torch.inference_mode():
        lent = _kept.lend(size) if like.device.type == "cpu" else like.new_empty(size, dtype=torch.uint8)
        shared = {n: given[n].to(dtype)[:, None].unbind() for n in names if operation.inputs[n].kind == "shared"}
        blocks = list(_blocks(like, lent[:size].view(dtype).view(shape)))
        # gradients of what rows share are summed over blocks in the dtype of the arithmetic
        totals = {
            name: like.new_empty(len(blocks), group.size, like.shape[-1], dtype=dtype)
            for name, group in operation.outputs.items()
            if group.kind == "shared"
        }
        nothing = (like.new_zeros((), dtype=dtype),)
        for index, (block, buffers) in enumerate(blocks):
            arguments = [shared.get(n) or _numbers(operation.inputs[n], given[n][block].to(dtype)) for n in names]
            results = [
                totals[name][index].unbind() if group.kind == "shared" else _numbers(group, outputs[name][block])
                for name, group in operation.outputs.items()
            ]
            function(*arguments, *results, buffers, nothing, eps, sign_tolerance(like.dtype))
        for name, total in totals.items():
            outputs[name].copy_(total.sum(0))
    _kept.take_back(lent)
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


def _numbers(group: Group, tensor: Tensor) -> tuple[Tensor, ...]:
    """The numbers of a group, each as a tensor that broadcasts to ``(rows, channels)``."""
    return tensor.split(1, 1) if group.kind == "scalars" else tensor.unbind(1)


def _block() -> int:
    """Numbers of one blade in a block of rows, at most: enough to be worth a call of torch, few enough for the cache.

    Torch shares calls on more than 32,768 among threads.
    """
    return 20480 if torch.get_num_threads() == 1 else 65536


def _block_shape(like: Tensor) -> tuple[int, int]:
    """Rows by blocks of one size, but for the last, so that their intermediate results stay in a CPU's cache."""
    rows, _, channels = like.shape
    blocks = -(-rows * channels // _block())
    return -(-rows // max(1, blocks)), channels


def _blocks(like: Tensor, memory: Tensor) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
    """Slices of the rows, and the same memory for each of them, as tensors ``(rows, channels)``."""
    size = memory.shape[1]
    buffers = memory.unbind()
    for start in range(0, like.shape[0], max(1, size)):
        rows = min(size, like.shape[0] - start)
        yield slice(start, start + rows), buffers if rows == size else memory[:, :rows].unbind()


class _Kept(threading.local):
    """Memory that the operations of a thread compute in, one after the other: it is mapped already.

    It is lent: an operation that begins while another runs, as in a signal's handler, gets other memory.
    """

    memory: Tensor | None = None

    def lend(self, size: int) -> Tensor:
        """At least so many bytes, not written."""
        memory, self.memory = self.memory, None
        if memory is None or memory.numel() < size:
            return torch.empty(size, dtype=torch.uint8, device="cpu")
        return memory

    def take_back(self, memory: Tensor) -> None:
        if memory.device.type == "cpu" and memory.numel() <= _KEPT:
            self.memory = memory


_kept = _Kept()
