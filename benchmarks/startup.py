"""What a user waits for before the first result: import, generation of code.

    python -m benchmarks.startup [--output FILE]

Each figure is the median of several fresh processes, beyond ``import torch``; generation with and without the import
of kingdon, which happens once in a process.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

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
from cliffnn.codegen import buffered_function
from cliffnn.operation import operation
start = time.perf_counter()
import kingdon
imported = time.perf_counter()
forward = operation("gelu_weighted_geometric_product.norm", {algebra!r})
buffered_function(forward)
buffered_function(forward.vjp(["out"], ["x", "y", "w"]))
print(time.perf_counter() - imported, imported - start)
"""


def measure(script: str, repeats: int) -> list[float]:
    """Medians of what a script prints, over fresh processes; the first fills the disk's cache."""
    runs = [
        [float(word) for word in subprocess.check_output([sys.executable, "-c", script], text=True).split()]
        for _ in range(repeats + 1)
    ]
    return [round(statistics.median(column), 4) for column in zip(*runs[1:], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "startup-cpu.json")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    (imported,) = measure(IMPORT, arguments.repeats)
    print(f"import cliffnn beyond torch: {imported:.3f} s")
    generation = {}
    for algebra in ("R2", "R3", "R1,3", "R3,0,1", "R5", "R6"):
        seconds, kingdon = measure(GENERATE.format(algebra=algebra), arguments.repeats)
        generation[algebra] = {"seconds": seconds, "import_kingdon_seconds": kingdon}
        print(f"generate {algebra}, forward and backward: {seconds:.3f} s (import kingdon: {kingdon:.3f} s)")
    write(
        arguments.output,
        "python -m benchmarks.startup",
        import_seconds=imported,
        generation_forward_backward=generation,
    )


if __name__ == "__main__":
    main()
