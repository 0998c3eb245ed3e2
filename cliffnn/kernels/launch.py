"""The kernels of an operation: found, compiled on first use, and launched."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

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

# Of a program, where there are more tiles than multiprocessors.
_TILES = 8
# Of more numbers each output has a kernel of its own: one for all would keep in registers what several need.
_INPUTS = 256


class Launch:
    """A kernel on tiles of rows of so many channels.

    Parameters
    ----------
    kernel : Kernel
    tiling : Tiling
    channels : int
    dtype : torch.dtype
        Of the rows.
    device : torch.device
    eps : float
        What a norm adds inside its root.
    """

    def __init__(
        self, kernel: Kernel, tiling: Tiling, channels: int, dtype: torch.dtype, device: torch.device, eps: float
    ):
        module = cache.load(kernel.name, lambda: kernel_source(kernel))
        self.tiling = tiling
        self.tensors: tuple[str, ...] = module.TENSORS
        self.means: tuple[int, ...] = module.MEANS
        # how many numbers of each lane its parts hand to each other
        self.handed: int = module.HANDED
        self._multiprocessors = multiprocessors(device)
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

    def programs(self, rows: int) -> int:
        """How many programs share the rows; each writes sums of its own, so not more than are of use."""
        tiles = -(-rows // self.tiling.rows)
        if self.tiling.resident is None:
            return tiles
        blocks = self.tiling.blocks
        fitting = max(1, self._multiprocessors * self.tiling.resident // blocks)
        return min(tiles, fitting, max(-(-self._multiprocessors // blocks), -(-tiles // _TILES)))

    def __call__(self, tensors: Mapping[str, Tensor], rows: int) -> None:
        arguments = [tensors[name] for name in self.tensors]
        self._run((self.programs(rows), self.tiling.blocks, 1), arguments, rows)


class Launches:
    """The kernels of an operation, for so many channels on a device.

    Attributes
    ----------
    sums : list of Launch
        Those that sum over channels for the others, by depth.
    outputs : list of Launch
        The others.
    compiled : bool
        Whether they have been compiled, side by side.
    """

    def __init__(self, operation: Operation, channels: int, dtype: torch.dtype, device: torch.device, eps: float):
        self.operation = operation
        self.compiled = False
        blades = _blades(operation)
        arguments = channels, dtype, device, eps
        shared, normalize = shared_memory(device), operation.normalize
        order, whole = operation.order, len(operation.algebra)
        tiling = plan.tiling(blades, channels, dtype.itemsize, shared, order, normalize, whole)
        kernels = [
            Kernel(
                operation,
                group,
                whole_rows=tiling.whole_rows,
                recompute=tiling.recompute and bool(operation.saved),
                loop=tiling.resident is not None,
                apart=tiling.apart,
            )
            for group in _groups(operation, blades)
        ]
        self.outputs = [Launch(kernel, tiling, *arguments) for kernel in kernels]
        self.sums: list[Launch] = []
        if not tiling.whole_rows:
            tiling = plan.sums_tiling(blades, channels, operation.order)
            for depth in range(len(self.outputs[0].means)):
                kernel = Kernel(operation, depth=depth, whole_rows=tiling.whole_rows, loop=False)
                self.sums.append(Launch(kernel, tiling, *arguments))

    def __call__(self, inputs: Sequence[Tensor], outputs: Mapping[str, Tensor], like: Tensor) -> None:
        operation, rows = self.operation, len(like)
        tensors = {**dict(zip(operation.inputs, inputs, strict=True)), **outputs}
        for depth, launch in enumerate(self.sums):
            compute = compute_dtype(like.dtype)
            table = like.new_empty((launch.tiling.blocks, rows, launch.means[depth]), dtype=compute)
            launch({**tensors, "sums": table}, rows)
            tensors[f"means{depth}"] = table[0] if launch.tiling.whole_rows else table.sum(0)
        if totals := operation.totals:
            # each program writes its share
            shape = 1, self.outputs[-1].programs(rows), sum(totals.values()) * like.shape[-1]
            tensors["totals"] = like.new_empty(shape, dtype=compute_dtype(like.dtype))
        for launch in self.outputs:
            if launch.handed:
                # each program has one tile
                shape = launch.programs(rows) * launch.tiling.rows, launch.handed, like.shape[-1]
                tensors["handed"] = like.new_empty(shape, dtype=compute_dtype(like.dtype))
            launch(tensors, rows)
        if totals:
            sums(tensors["totals"], (0, 1), [outputs[name] for name in totals])


# for each operation, width, dtype, device and eps
_launches = functools.cache(Launches)


def run(
    operation: Operation, inputs: Sequence[Tensor], eps: float, into: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """See `cliffnn.generated.run`."""
    like = inputs[operation.row]
    rows, _, channels = like.shape
    outputs = allocate(operation, like) if into is None else dict(zip(operation.outputs, into, strict=True))
    if rows:
        launches = _launches(operation, channels, like.dtype, like.device, eps)
        if not launches.compiled:
            with ahead.compiled_together():
                launches(inputs, outputs, like)
            launches.compiled = True
        launches(inputs, outputs, like)
    else:
        for name in operation.totals:
            outputs[name].zero_()
    return [*outputs.values()]


def _blades(operation: Operation) -> int:
    """What a multivector has, if all that go in and out, as many as in the product or its gradient, had as many."""
    groups = [group for name, group in operation.inputs.items() if name not in operation.saved]
    sizes = [group.size for group in (*groups, *operation.outputs.values()) if group.kind == "rows"]
    return plan.power_of_two(-(-sum(sizes) // (5 if operation.order else 3)))


def _groups(operation: Operation, blades: int) -> list[tuple[str, ...]]:
    """Which outputs are computed by one kernel: all, or what the registers hold."""
    inputs = sum(group.size for group in operation.inputs.values())
    if (operation.order > 1 and blades > 32) or (inputs > _INPUTS and not operation.totals):
        return [(name,) for name in operation.outputs]
    return [tuple(operation.outputs)]
