"""Kernels made ready for one kind of tensors: launching one again costs little more than the driver's work."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from math import gcd
from typing import Any

import torch
import triton
from torch import Tensor

from cliffnn import ahead


class Prepared:
    """A kernel with its constants, compiled for the tensors that come.

    Triton's own launch looks at every argument anew, which costs more than the launch. What it would find out depends
    only on what is looked up here: dtypes, alignment, the device, and whether the one integer fits 32 bits.

    Parameters
    ----------
    function : triton.JITFunction
        Takes tensors, the number of rows, and constants, in this order; not specialised on the number.
    constants : dict
        In the order in which the function takes them.
    warps : int
    **options
        Of the compiler.
    """

    def __init__(self, function: Any, constants: dict[str, Any], warps: int, **options: Any):
        self._function = function
        self._constants = constants
        self._values = tuple(constants.values())
        # Triton 3.9 warns if it is not told, and 3.10 will decide otherwise
        self._options = {"num_warps": warps, "enable_fp_fusion": True, **options}
        self._compiled: dict[tuple, Any] = {}

    def __call__(self, grid: tuple[int, int, int], tensors: Sequence[Tensor], rows: int) -> None:
        device = tensors[0].get_device()
        pointers = [tensor.data_ptr() for tensor in tensors]
        # where all are aligned, as nearly always, one number says so
        alignment = () if gcd(16, *pointers) == 16 else tuple(p % 16 for p in pointers)
        key = (device, rows > 0x7FFFFFFF, alignment, *[tensor.dtype for tensor in tensors])
        compiled = self._compiled.get(key)
        away = device >= 0 and device != torch._C._cuda_getDevice()
        if compiled is None or away or ahead.current() is not None or _hooked():
            self._slowly(key, grid, tensors, rows)
            return
        # numbers: of a tensor Triton asks the address once more, and the driver whether it is the device's
        stream = triton.runtime.driver.active.get_current_stream(device)
        metadata = compiled.packed_metadata, None, None, None
        compiled.run(*grid, stream, compiled.function, *metadata, *pointers, rows, *self._values)

    def _slowly(self, key: tuple, grid: tuple[int, int, int], tensors: Sequence[Tensor], rows: int) -> None:
        """Compile first, or on another device, or with somebody looking on."""
        device = tensors[0].get_device()
        with nullcontext() if device < 0 else torch.cuda.device(device):
            if (compilations := ahead.current()) is not None:
                if key not in self._compiled:
                    compilations.add((self, key), lambda: self._compile(key, grid, tensors, rows))
                return
            compiled = self._function[grid](*tensors, rows, **self._constants, **self._options)
            # the interpreter compiles nothing, and gives none
            if compiled is not None:
                self._compiled[key] = compiled

    def _compile(self, key: tuple, grid: tuple[int, int, int], tensors: Sequence[Tensor], rows: int) -> None:
        """Compile, and load what was compiled, in a thread of its own."""
        device = tensors[0].get_device()
        with nullcontext() if device < 0 else torch.cuda.device(device):
            compiled = self._function.warmup(*tensors, rows, grid=grid, **self._constants, **self._options)
            if compiled is not None:
                compiled[grid]
                self._compiled[key] = compiled


def _hooked() -> bool:
    """Whether somebody is told of launches: only then is there metadata to make."""
    runtime = triton.knobs.runtime
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many a device has; a CPU, under the interpreter, counts as one."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return 1


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes that a program may have; a CPU has what an H100 has."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return getattr(properties, "shared_memory_per_block_optin", 0) or properties.shared_memory_per_block
    return 227 * 1024
