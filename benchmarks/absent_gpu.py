"""A GPU that is not there: kernels are planned, compiled and launched for it as they are; the launches do nothing.

What a kernel needs is read from its binary: registers of a thread, bytes of its stack (where registers spill to) and
shared memory of a program.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget


class Device(NamedTuple):
    """What to compile for, and the bytes of shared memory that a program may have there."""

    target: GPUTarget
    shared: int


# NVIDIA: table "Technical Specifications per Compute Capability" of the CUDA programming guide; AMD: CDNA 3's LDS.
DEVICES = {
    "sm_80": Device(GPUTarget("cuda", 80, 32), 163 * 1024),
    "sm_90": Device(GPUTarget("cuda", 90, 32), 227 * 1024),
    "sm_100": Device(GPUTarget("cuda", 100, 32), 227 * 1024),
    "gfx942": Device(GPUTarget("hip", "gfx942", 64), 64 * 1024),
}

# Of a program, on all of them.
_THREADS = 1024


class _Driver:
    """What Triton asks of a driver; a launch tells the hash of its kernel and does nothing else."""

    def __init__(self, device: str, launched: Callable[[str], None]) -> None:
        self.device = device
        self.launched = launched
        self.utils = self
        self.asked = _cpu_seconds()

    def get_current_target(self) -> GPUTarget:
        return DEVICES[self.device].target

    def get_current_device(self) -> str:
        # Triton asks before it compiles, and keeps what it has compiled by device
        self.asked = _cpu_seconds()
        return self.device

    def get_current_stream(self, device: str) -> int:
        return 0

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        # a kernel stays compiled when the driver is another one, so it must not be this driver that is told
        return lambda *_: triton.runtime.driver.active.launched(metadata.hash)

    # Triton would refuse to launch what does not fit; here `Compiled.fits` tells, and the launch goes on
    def get_device_properties(self, device: str) -> dict[str, int]:
        return {"max_shared_mem": 2**31}

    def load_binary(self, *_: Any) -> tuple[None, None, int, int, int]:
        registers = spills = 0
        return None, None, registers, spills, 2**31


class Compiled(NamedTuple):
    """A kernel, the CPU seconds it took to compile (None: it was found on disk), and what it needs.

    ``fits`` says whether a program has no more threads and no more shared memory than the device allows.
    """

    name: str
    constants: dict[str, int]
    seconds: float | None
    registers: int
    stack: int
    shared: int
    fits: bool


@contextmanager
def absent(device: str) -> Iterator[tuple[list[str], dict[str, Compiled]]]:
    """Make Triton compile for a device of `DEVICES`; gives the hashes of the kernels launched, and those compiled.

    A process compiles a kernel once: launched again, it is in the first of the two only.
    """
    launched: list[str] = []
    compiled: dict[str, Compiled] = {}

    def listener(*, src: Any, metadata: dict, metadata_group: dict, times: Any, cache_hit: bool) -> None:
        seconds = None if cache_hit else round(_cpu_seconds() - driver.asked, 2)
        # a generated kernel has the name of its file, without the hash
        name = src.fn.__name__
        if name == "kernel":
            name = src.fn.__module__.rpartition(".")[2].rpartition("_")[0]
        values = {src.fn.arg_names[index]: value for (index,), value in src.constants.items()}
        constants = {key: value for key, value in values.items() if key.isupper() and isinstance(value, int)}
        constants["warps"] = metadata["num_warps"]
        threads = metadata["num_warps"] * DEVICES[device].target.warp_size
        fits = threads <= _THREADS and metadata["shared"] <= DEVICES[device].shared
        needs = *_registers_and_stack(metadata_group), metadata["shared"]
        compiled[metadata["hash"]] = Compiled(name, constants, seconds, *needs, fits)

    config = triton.runtime.driver
    # not `config.active`, which would look for a GPU
    before = config._active, knobs.compilation.listener
    driver = _Driver(device, launched.append)
    config._active, knobs.compilation.listener = driver, listener
    try:
        yield launched, compiled
    finally:
        config._active, knobs.compilation.listener = before


def _cpu_seconds() -> float:
    """Of this process and of those that it has waited for, as the assembler: on a busy machine the clock tells less."""
    return sum(os.times()[:4])


def _registers_and_stack(files: dict[str, str]) -> tuple[int, int]:
    by_ending = {Path(path).suffix: Path(path) for path in files.values()}
    if assembly := by_ending.get(".amdgcn"):
        numbers = dict(
            re.findall(r"^\s+\.(vgpr_count|private_segment_fixed_size):\s+(\d+)$", assembly.read_text(), re.M)
        )
        return int(numbers["vgpr_count"]), int(numbers["private_segment_fixed_size"])
    run = [str(_cuobjdump()), "--dump-resource-usage", str(by_ending[".cubin"])]
    report = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    ((registers, stack),) = re.findall(r"REG:(\d+) STACK:(\d+)", report)
    return int(registers), int(stack)


@functools.cache
def _cuobjdump() -> Path:
    """Triton comes with one."""
    import triton.backends.nvidia

    return Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
