"""The kernels of an operation: found, compiled on first use, and launched."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from cliffnn import ahead, cache
from cliffnn.generated import allocate
from cliffnn.kernels import plan
from cliffnn.kernels.plan import Tiling
from cliffnn.kernels.prepared import Prepared, multiprocessors, shared_memory
from cliffnn.kernels.source import Kernel, kernel_source
from cliffnn.kernels.sums import sums
from cliffnn.operation import Operation
from cliffnn.precision import compute_dtype, sign_tolerance


class Launch:
    """A kernel on tiles of rows of so many channels.

    Parameters
    ----------
    kernel : Kernel
    tiling : Tiling
    channels : int
    dtype : torch.dtype
        Of the rows.
    eps : float
        What a norm adds inside its root.
    """

    def __init__(self, kernel: Kernel, tiling: Tiling, channels: int, dtype: torch.dtype, eps: float):
        module = cache.load(kernel.name, lambda: kernel_source(kernel))
        self.tiling = tiling
        self.tensors: tuple[str, ...] = module.TENSORS
        self.means: tuple[int, ...] = module.MEANS
        # how many numbers of each lane its parts hand to each other
        self.handed: int = module.HANDED
        rounded = compute_dtype(dtype) if kernel.recompute or not kernel.operation.saved else dtype
        constants = {"EPS": eps, "TOLERANCE": sign_tolerance(rounded)}
        self._run = Prepared(
            module.kernel,
            {
                "channels": channels,
                **{name: constants[name] for name in module.CONSTANTS},
                "ROWS": tiling.rows,
                "CHANNELS": tiling.channels,
                "VECTOR": tiling.vector,
                "STAGES": tiling.stages,
                "COMPUTE": tl.float64 if dtype == torch.float64 else tl.float32,
            },
            tiling.warps,
        )

    def programs(self, rows: int, device: torch.device) -> int:
        """How many programs share the rows."""
        tiles = max(1, -(-rows // self.tiling.rows))
        if self.tiling.resident is None:
            return tiles
        return max(1, min(tiles, multiprocessors(device) * self.tiling.resident // self.tiling.blocks))

    def __call__(self, tensors: Mapping[str, Tensor], rows: int) -> None:
        arguments = [tensors[name] for name in self.tensors]
        self._run((self.programs(rows, arguments[0].device), self.tiling.blocks, 1), arguments, rows)


class Launches(NamedTuple):
    """The kernels of an operation: those that sum over channels for the others, by depth, and the others.

    And the devices that they are compiled for.
    """

    sums: list[Launch]
    outputs: list[Launch]
    devices: set[torch.device]


def run(operation: Operation, inputs: Sequence[Tensor], eps: float) -> list[Tensor]:
    """See `cliffnn.generated.run`."""
    like = inputs[operation.row]
    count, _, channels = like.shape
    outputs = allocate(operation, like)
    if count == 0:
        for name in operation.totals:
            outputs[name].zero_()
        return list(outputs.values())
    launches = _launches(operation, channels, like.dtype, shared_memory(like.device), eps)
    if like.device not in launches.devices:
        with ahead.compiled_together():
            _launch(operation, launches, inputs, outputs, like)
        launches.devices.add(like.device)
    _launch(operation, launches, inputs, outputs, like)
    return list(outputs.values())


def _launch(
    operation: Operation, launches: Launches, inputs: Sequence[Tensor], outputs: Mapping[str, Tensor], like: Tensor
) -> None:
    count, compute = len(like), compute_dtype(like.dtype)
    tensors = {**dict(zip(operation.inputs, inputs, strict=True)), **outputs}
    for depth, launch in enumerate(launches.sums):
        table = like.new_empty(launch.tiling.blocks, count, launch.means[depth], dtype=compute)
        launch({**tensors, "sums": table}, count)
        tensors[f"means{depth}"] = table[0] if launch.tiling.whole_rows else table.sum(0)
    totals = operation.totals
    if totals:
        programs = launches.outputs[-1].programs(count, like.device)
        # each program writes its share
        tensors["totals"] = like.new_empty(1, programs, sum(totals.values()) * like.shape[-1], dtype=compute)
    for launch in launches.outputs:
        if launch.handed:
            # each program has one tile
            tile_rows = launch.programs(count, like.device) * launch.tiling.rows
            tensors["handed"] = like.new_empty(tile_rows, launch.handed, like.shape[-1], dtype=compute)
        launch(tensors, count)
    if totals:
        sums(tensors["totals"], (0, 1), [outputs[name] for name in totals])


@functools.cache
def _launches(operation: Operation, channels: int, dtype: torch.dtype, shared: int, eps: float) -> Launches:
    blades = _blades(operation)
    tiling = plan.tiling(blades, channels, dtype.itemsize, shared, operation.order)
    launches = Launches([], [], set())
    for group in _groups(operation, blades):
        kernel = Kernel(
            operation,
            group,
            whole_rows=tiling.whole_rows,
            recompute=tiling.recompute and bool(operation.saved),
            loop=tiling.resident is not None,
            apart=operation.order > 1 and blades > 16,
        )
        launches.outputs.append(Launch(kernel, tiling, channels, dtype, eps))
    if not tiling.whole_rows:
        tiling = plan.sums_tiling(blades, channels, operation.order)
        for depth in range(len(launches.outputs[0].means)):
            kernel = Kernel(operation, depth=depth, whole_rows=tiling.whole_rows, loop=False)
            launches.sums.append(Launch(kernel, tiling, channels, dtype, eps))
    return launches


def _blades(operation: Operation) -> int:
    """What a multivector has, if all that go in and out, as many as in the product or its gradient, had as many."""
    groups = [group for name, group in operation.inputs.items() if name not in operation.saved]
    sizes = [group.size for group in (*groups, *operation.outputs.values()) if group.kind == "rows"]
    return plan.power_of_two(-(-sum(sizes) // (5 if operation.order else 3)))


def _groups(operation: Operation, blades: int) -> list[tuple[str, ...]]:
    """Which outputs are computed by one kernel: all, or what the registers hold."""
    if blades <= 16 or (operation.order > 1 and blades <= 32):
        return [tuple(operation.outputs)]
    if operation.order > 1:
        return [(name,) for name in operation.outputs]
    kinds = {name: group.kind for name, group in operation.outputs.items()}
    # gradients with respect to a cotangent are by the way: what they are made of, all others need
    late = [name for name, kind in kinds.items() if kind == "shared" or name.startswith(f"grad{operation.order}_grad")]
    groups = [tuple(name for name in kinds if (name in late) == chosen) for chosen in (False, True)]
    return [group for group in groups if group]
