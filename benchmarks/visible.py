"""Under torch.compile: our operator as it is, opaque, against its kernels shown to inductor one by one.

    python -m benchmarks.visible [--output FILE]

On a GPU. `SGPNormBlock`, forward + backward, float32 with TF32. Shown means what `torch.library.triton_op` does: where
AOTAutograd meets the operator it finds allocations and `torch.library.wrap_triton`, inductor launches the kernels
itself, plans their memory, and makes a reduction of the sums of partial gradients. Kernel time is the replay of a CUDA
graph over buffers that rotate past the cache, loop time that of calls without a wait in between; the two take turns.
Refuses to report if a gradient is wrong.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._library import simple_registry
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.library import wrap_triton

from benchmarks.environment import RESULTS, write
from benchmarks.timing import loop_milliseconds, peak_bytes, replay_milliseconds
from cliffnn import kernels
from cliffnn.kernels import launch
from cliffnn.kernels.prepared import Prepared
from cliffnn.layers import SGPNormBlock
from cliffnn.operation import operation

CASES = ("R3/256/32", "R3/4096/128", "R3/4096/512", "R3/65536/32", "R1,3/8192/128")
ROUNDS = 3


@contextmanager
def shown() -> Iterator[None]:
    """Within, inductor sees the kernels of the operator."""

    def rule(mode: Any, operator: Any, types: Any, args: tuple, kwargs: Any) -> Sequence[Tensor]:
        inputs, text, algebra, eps, _ = args
        with mode:
            return kernels.run(operation(text, algebra), [t.contiguous() for t in inputs], eps)

    def call(self: Prepared, grid: tuple[int, int, int], tensors: Sequence[Tensor], rows: int) -> None:
        warps = self._options["num_warps"]
        wrap_triton(self._function)[grid](*tensors, rows, **self._constants, num_warps=warps)

    def sums(partial: Tensor, starts: tuple[int, ...], results: Sequence[Tensor]) -> None:
        parts = partial[0].sum(0).split([result.numel() for result in results])
        for part, result in zip(parts, results, strict=True):
            result.copy_(part.view_as(result))

    # torch has no way to register another rule in place of one
    rules = simple_registry.singleton.find("cliffnn::geometric_op").torch_dispatch_rules._data
    before = Prepared.__call__, launch.sums, rules[FunctionalTensorMode]
    Prepared.__call__, launch.sums, rules[FunctionalTensorMode] = call, sums, rule  # type: ignore[method-assign]
    try:
        yield
    finally:
        Prepared.__call__, launch.sums, rules[FunctionalTensorMode] = before  # type: ignore[method-assign]


def compiled(forward: Callable, module: SGPNormBlock, buffers: Sequence[tuple]) -> tuple[Callable, float]:
    """Forward and backward, compiled for these buffers, and the seconds that this took."""
    run = torch.compile(forward, fullgraph=True, dynamic=False)
    parameters = list(module.parameters())

    def both(x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(run(x), [x, *parameters], grad)

    start = time.perf_counter()
    both(*buffers[0])
    torch.cuda.synchronize()
    return both, time.perf_counter() - start


def measure(case: str) -> dict[str, Any]:
    algebra, rows, channels = case.split("/")
    module = SGPNormBlock(int(channels), algebra, device="cuda")
    shape = int(rows), len(module.algebra), int(channels)
    buffers = [tuple(torch.randn(shape, device="cuda") for _ in range(2)) for _ in range(3)]
    for x, _ in buffers:
        x.requires_grad_()
    x, grad = buffers[0]
    wanted = torch.autograd.grad(module(x), [x, *module.parameters()], grad)
    runs, result = {}, {"case": case}
    torch.compiler.reset()
    # what is compiled is kept with a function's code, so they must not be the same
    for name, forward, rule in (
        ("opaque", lambda x: module(x), nullcontext),
        ("shown", lambda x: module(x), shown),
    ):
        with rule():
            run, seconds = compiled(forward, module, buffers)
        got = run(*buffers[0])
        error = max(float((a - b).norm() / b.norm()) for a, b in zip(got, wanted, strict=True))
        if not error < 1e-2:
            raise SystemExit(f"{case}, {name}: differs from eager by {error:.1e}; nothing is reported")
        del got
        runs[name] = run
        result[name] = {"compile_seconds": round(seconds, 2), "loop_ms": [], "kernel_ms": []}
        result[name]["peak_MiB"] = round(peak_bytes(run, buffers[0]) / 2**20, 2)
    for _ in range(ROUNDS):
        for name, run in runs.items():
            result[name]["loop_ms"].append(round(loop_milliseconds(run, buffers), 5))
            result[name]["kernel_ms"].append(round(replay_milliseconds(run, buffers), 5))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "visible.json")
    parser.add_argument("--case", nargs="+", default=CASES, help="ALGEBRA/ROWS/CHANNELS")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: this benchmark measures kernels on one")
    torch.set_float32_matmul_precision("high")
    # a graph that was compiled for the one would be found for the other
    torch.compiler.config.force_disable_caches = True
    results = []
    for case in arguments.case:
        results.append(measure(case))
        print(results[-1], flush=True)
    write(arguments.output, results=results)


if __name__ == "__main__":
    main()
