"""What every kernel costs to compile and to hold, on a machine without a GPU.

    python -m benchmarks.compile_report [--quick] [--only REGEX] [--jobs N] [--output FILE]

The executors run as they do on a GPU, with the tiles that `cliffnn.kernels.plan` chooses, but on a driver that launches
nothing (`benchmarks.absent_gpu`); the folder of compiled kernels is empty at the start. Gradients are those of all
inputs. Seconds are CPU time, longer on a busy machine; registers are those of a thread; stack, where registers spill
to, is its bytes, shared the bytes of a program. A kernel that does not fit its device can be compiled, not launched.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

from benchmarks.absent_gpu import Compiled, absent
from benchmarks.environment import RESULTS, write
from cliffnn import Algebra, ahead
from cliffnn.expressions import EXPRESSIONS
from cliffnn.graded_product import GradedProduct
from cliffnn.operation import Group, operation, text
from cliffnn.precision import compute_dtype

FUSED = "gelu_weighted_geometric_product"
LINEAR, FULLY_CONNECTED = "linear", "fully_connected"
ROWS = 16


class Case(NamedTuple):
    """A call of an operator, forward, backward, and as often again as ``order`` says.

    The operator is an expression, or a product with matrices, `LINEAR` or `FULLY_CONNECTED`, which also come in the
    dtype ``tf32``: float32 where torch's setting allows to round the factors.
    """

    device: str
    algebra: str
    channels: int
    dtype: str = "float32"
    expression: str = FUSED
    normalize: bool = True
    order: int = 1

    def __str__(self) -> str:
        norm = "norm" if self.normalize else "plain"
        return f"{self.device}/{self.algebra}/{self.channels}/{self.dtype}/{self.expression}/{norm}/{self.order}"


def cases() -> Iterator[Case]:
    """The fused operator at every width and dtype on one device, all operators at one width, other devices at four.

    Second derivatives of the fused operator at three widths on one device; products with matrices at three and two.
    """
    for algebra in ("R2", "R3", "R1,3", "R3,0,1"):
        for channels, dtype in itertools.product((8, 32, 128, 512, 1024), ("float32", "bfloat16")):
            yield Case("sm_90", algebra, channels, dtype)
        for channels in (32, 512):
            yield Case("sm_90", algebra, channels, "float64")
        for channels in (32, 128, 512):
            yield Case("sm_90", algebra, channels, order=2)
        for expression, normalize in itertools.product(EXPRESSIONS, (False, True)):
            if (expression, normalize) not in {("identity", False), (FUSED, True)}:
                yield Case("sm_90", algebra, 128, "float32", expression, normalize)
        for device in ("sm_80", "sm_100", "gfx942"):
            yield Case(device, algebra, 32)
            yield Case(device, algebra, 1024)
            yield Case(device, algebra, 128, "bfloat16")
            yield Case(device, algebra, 2048, "bfloat16")
    for algebra, dtype in itertools.product(("R2", "R3", "R1,3"), ("float32", "tf32", "bfloat16")):
        for channels in (32, 128):
            yield Case("sm_90", algebra, channels, dtype, LINEAR, False)
            yield Case("sm_90", algebra, channels, dtype, FULLY_CONNECTED, False)
        yield Case("sm_90", algebra, 512, dtype, LINEAR, False)
    for device, operator in itertools.product(("sm_80", "sm_100", "gfx942"), (LINEAR, FULLY_CONNECTED)):
        yield Case(device, "R3", 32, "float32", operator, False)
        yield Case(device, "R3", 128, "bfloat16", operator, False)
    yield from (Case("sm_90", "R5", channels) for channels in (8, 32))
    yield Case("sm_90", "R5", 32, "bfloat16")
    yield from (Case(device, "R5", 32) for device in ("sm_80", "sm_100", "gfx942"))


def quick_cases() -> Iterator[Case]:
    """What a test has the time for."""
    yield from (Case("sm_90", algebra, channels) for algebra in ("R2", "R3") for channels in (32, 512))
    yield Case("sm_90", "R1,3", 128)
    yield Case("gfx942", "R3", 32)


def compile_case(case: Case) -> tuple[list[str], dict[str, Compiled], str | None]:
    """The hashes of the kernels that a case launches, those that it was the first to compile, and what went wrong."""
    from cliffnn.kernels import launch, linear, sums
    from cliffnn.kernels.fully_connected import tiles, weight

    # what a process has prepared for one device, it would launch for the next
    of_products = linear._forward, linear._backward, tiles.prepared, weight._prepared_gates
    for prepared in (launch._launches, sums._prepared, *of_products):
        prepared.cache_clear()
    torch.set_num_threads(1)
    call = {LINEAR: _linear, FULLY_CONNECTED: _fully_connected}.get(case.expression, _operations)
    with absent(case.device) as (launched, compiled):
        try:
            call(case)
        # whatever the compiler raises, the other kernels are still of interest
        except Exception as error:
            return launched, compiled, f"{type(error).__name__}: {error}"
    return launched, compiled, None


def _operations(case: Case) -> None:
    from cliffnn import kernels

    last = operation(text(case.expression, normalize=case.normalize), case.algebra)
    for of in (["out"], *[None] * case.order):
        kernels.run(last, [_zeros(group, case) for group in last.inputs.values()], 1e-6)
        last = last.vjp(of or last.outputs, [name for name in last.inputs if name not in last.saved])


def _linear(case: Case) -> None:
    from cliffnn.kernels import linear

    sizes = Algebra(case.algebra).grade_sizes
    x, weight = _multivector(case), _matrices(case, len(sizes))
    with patch.object(linear, "dot_precision", lambda _: _precision(case)):
        out = linear.linear(x, weight, weight[0, 0], sizes)
        linear.linear_backward(out, x, weight, None, sizes, True)


def _fully_connected(case: Case) -> None:
    from cliffnn.kernels import fully_connected
    from cliffnn.kernels.fully_connected import factors, forward, mixed, weight

    product = GradedProduct.of(case.algebra)
    x, matrices = _multivector(case), _matrices(case, len(product.paths))
    with ExitStack() as stack:
        for module in (factors, forward, mixed, weight):
            stack.enter_context(patch.object(module, "dot_precision", lambda _: _precision(case)))
        out = fully_connected.fully_connected(x, x, matrices, product, True)
        if fully_connected.shares_products(product):
            fully_connected.fully_connected_factors(out, x, x, matrices, product, True)
        fully_connected.Mix(matrices, product, ROWS)(out)
        fully_connected.fully_connected_weight(out, x, x, product, True)


def _precision(case: Case) -> str:
    """As `cliffnn.kernels.linear.dot_precision` decides on the device."""
    exact = "ieee" if case.device.startswith("gfx") else "tf32x3"
    return exact if case.dtype == "float32" else "tf32"


def _multivector(case: Case) -> torch.Tensor:
    return torch.zeros(ROWS, len(Algebra(case.algebra)), case.channels, dtype=_dtype(case))


def _matrices(case: Case, count: int) -> torch.Tensor:
    return torch.zeros(count, case.channels, case.channels, dtype=_dtype(case))


def _dtype(case: Case) -> torch.dtype:
    return torch.float32 if case.dtype == "tf32" else getattr(torch, case.dtype)


def _zeros(group: Group, case: Case) -> torch.Tensor:
    rows = {"rows": (ROWS, group.size, case.channels), "shared": (group.size, case.channels)}
    dtype = _dtype(case)
    if group.kind == "scalars":
        return torch.zeros(ROWS, group.size, dtype=compute_dtype(dtype))
    return torch.zeros(rows[group.kind], dtype=dtype)


def report(chosen: list[Case], jobs: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row for each kernel, whichever cases launch it, and the errors by case."""
    uses: dict[str, list[Case]] = {}
    kernels: dict[str, Compiled] = {}
    errors: dict[str, str] = {}
    # a kernel is found again in memory, and by the other processes on disk
    with (
        tempfile.TemporaryDirectory(prefix="cliffnn-") as folder,
        ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _compile_to, (folder,)) as pool,
    ):
        for case, (launched, compiled, error) in zip(chosen, pool.map(compile_case, chosen), strict=True):
            print(case, *(f"{kernel.seconds} s" for kernel in compiled.values()), error or "", flush=True)
            for key in launched:
                uses.setdefault(key, []).append(case)
            kernels |= {k: new for k, new in compiled.items() if k not in kernels or kernels[k].seconds is None}
            if error:
                errors[str(case)] = error
    return [_row(kernels[key], uses[key]) for key in uses], errors


def _compile_to(folder: str) -> None:
    os.environ["TRITON_CACHE_DIR"] = folder
    # the CPU seconds of a process are those of one kernel
    ahead.THREADS = 1


def _row(kernel: Compiled, uses: list[Case]) -> dict[str, Any]:
    case = uses[0]
    return {
        "device": case.device,
        "algebra": case.algebra,
        "kernel": kernel.name,
        "dtype": case.dtype,
        "channels": ", ".join(str(channels) for channels in sorted({use.channels for use in uses})),
        "constants": ", ".join(f"{key.lower()} {value}" for key, value in kernel.constants.items()),
        "seconds": kernel.seconds,
        "registers": kernel.registers,
        "stack": kernel.stack,
        "shared": kernel.shared,
        "fits": kernel.fits,
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table."""
    cells = [[*row] for row in rows[:1]] + [[str(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "compile-offline.json")
    parser.add_argument("--quick", action="store_true", help="a few kernels, in a minute")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases such as sm_90/R3/128/float32, searched")
    parser.add_argument("--jobs", type=int, default=1, help="processes that compile")
    arguments = parser.parse_args()
    # the processes that compile need the compiler, whatever the tests around them use
    os.environ.pop("TRITON_INTERPRET", None)
    chosen = [case for case in (quick_cases if arguments.quick else cases)() if re.search(arguments.only, str(case))]
    if not chosen:
        raise SystemExit(f"no case matches {arguments.only!r}")
    rows, errors = report(chosen, arguments.jobs)
    show(rows)
    write(arguments.output, kernels=rows, errors=errors)
    raise SystemExit(1 if errors else 0)


if __name__ == "__main__":
    main()
