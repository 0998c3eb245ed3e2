"""What a user waits for before the first result: import, generation of code, and the first step of the fused operator.

    python -m benchmarks.startup [--output FILE] [--repeats N]

Each figure is the median of several fresh processes, beyond ``import torch``. Import and generation, a CPU's work, are
timed where there is no GPU; generation with and without the import of kingdon, which happens once in a process. A first
step, forward and backward, is timed from the call to its
result, on a GPU if there is one: with empty folders of its own for generated code and for Triton's kernels (cold; also
what `cliffnn.warmup` takes there), and again with what is in them then (warm), each time in a process that has done
nothing but import and make its inputs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import RESULTS, write

IMPORT = """
import time
import torch
start = time.perf_counter()
import cliffnn, cliffnn.functional, cliffnn.layers, cliffnn.testing
print(time.perf_counter() - start)
"""
GENERATE = """
import os, tempfile, time
os.environ["CLIFFNN_CACHE_DIR"] = tempfile.mkdtemp()
import torch, cliffnn.functional
from cliffnn.buffered import buffered_function
from cliffnn.operation import operation
start = time.perf_counter()
import kingdon
imported = time.perf_counter()
forward = operation("gelu_weighted_geometric_product.norm", {algebra!r})
buffered_function(forward)
buffered_function(forward.vjp(["out"], ["x", "y", "w"]))
print(time.perf_counter() - imported, imported - start)
"""
# Its step is short, so what is timed is what comes before it.
ROWS = 64
STEP = """
import contextlib, time
import torch
with contextlib.suppress(ImportError):
    import triton
import cliffnn, cliffnn.functional as F
algebra, device = cliffnn.Algebra({algebra!r}), {device!r}
finish = torch.cuda.synchronize if device == "cuda" else lambda: None
x, y = torch.randn(2, {rows}, len(algebra), {channels}, device=device)
weight = torch.randn(len(algebra.paths), {channels}, device=device, requires_grad=True)
x.requires_grad_(), y.requires_grad_(), finish()
start = time.perf_counter()
if {ahead}:
    cliffnn.warmup(F.gelu_sgp_norm, x, y, weight, algebra)
    finish()
warmed = time.perf_counter()
out = F.gelu_sgp_norm(x, y, weight, algebra)
finish()
forward = time.perf_counter()
# not torch.autograd.grad with a gradient, which imports sympy
out.sum().backward()
finish()
backward = time.perf_counter()
print(warmed - start, forward - warmed, backward - forward, backward - start)
"""
FIGURES = ("warmup", "forward", "backward", "total")
CASES = (("R2", 128), ("R3", 128), ("R3", 1024), ("R1,3", 128), ("R3,0,1", 128), ("R5", 32))


def run(script: str, **environment: str) -> list[float]:
    """What a script prints, in a fresh process."""
    output = subprocess.check_output([sys.executable, "-c", script], text=True, env={**os.environ, **environment})
    return [float(word) for word in output.split()]


def medians(runs: list[list[float]]) -> list[float]:
    return [round(statistics.median(column), 4) for column in zip(*runs, strict=True)]


def measure(script: str, repeats: int) -> list[float]:
    """Medians of what a script prints, over fresh processes; the first fills the disk's cache."""
    return medians([run(script) for _ in range(repeats + 1)][1:])


def measure_step(algebra: str, channels: int, device: str, repeats: int) -> dict[str, dict[str, float]]:
    """A first step with empty folders, with and without `cliffnn.warmup`, and with folders that are filled."""
    runs: dict[str, list[list[float]]] = {"cold": [], "cold_with_warmup": [], "warm": []}
    for _ in range(repeats):
        for ahead in (True, False):
            script = STEP.format(algebra=algebra, channels=channels, device=device, rows=ROWS, ahead=ahead)
            with tempfile.TemporaryDirectory(prefix="cliffnn-") as folder:
                folders = {name: os.path.join(folder, name) for name in ("CLIFFNN_CACHE_DIR", "TRITON_CACHE_DIR")}
                runs["cold_with_warmup" if ahead else "cold"].append(run(script, **folders))
                if not ahead:
                    runs["warm"].append(run(script, **folders))
    return {name: dict(zip(FIGURES, medians(of_name), strict=True)) for name, of_name in runs.items()}


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / f"startup-{device}.json")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", metavar="ALGEBRA", help="one algebra")
    arguments = parser.parse_args()
    facts: dict[str, Any] = {"repeats": arguments.repeats}
    if device == "cpu":
        (facts["import_seconds"],) = measure(IMPORT, arguments.repeats)
        print(f"import cliffnn beyond torch: {facts['import_seconds']:.3f} s")
        facts["generation_forward_backward"] = {}
        for algebra in ("R2", "R3", "R1,3", "R3,0,1", "R5", "R6"):
            if arguments.only in ("", algebra):
                seconds, kingdon = measure(GENERATE.format(algebra=algebra), arguments.repeats)
                figures = {"seconds": seconds, "import_kingdon_seconds": kingdon}
                facts["generation_forward_backward"][algebra] = figures
                print(f"generate {algebra}, forward and backward: {seconds:.3f} s (import kingdon: {kingdon:.3f} s)")
    steps = {}
    for algebra, channels in CASES:
        if arguments.only in ("", algebra):
            figures = measure_step(algebra, channels, device, arguments.repeats)
            steps[f"{algebra}, {channels} channels"] = figures
            totals = ", ".join(f"{name} {of_name['total']:.2f} s" for name, of_name in figures.items())
            print(f"first step on {device}, {algebra}, {channels} channels: {totals}", flush=True)
    write(arguments.output, **facts, first_step_seconds=steps)


if __name__ == "__main__":
    main()
