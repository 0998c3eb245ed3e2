"""The fused operator against its floor: the bytes it must move, at the copy bandwidth measured in the same run.

    python -m benchmarks.fused_op [--output FILE] [--case R3/4096/512/float32 ...]

On a GPU. Kernel time is the replay of a CUDA graph over buffers that rotate past the cache; the floor is 3 passes over
a tensor forward (read x, y; write out) and 5 backward (read x, y, grad; write grad_x, grad_y). Refuses to report on a
case whose result or gradient is wrong.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.environment import RESULTS, write
from benchmarks.timing import copy_bandwidth, eager_milliseconds, replay_milliseconds
from cliffnn import Algebra, generated, kernels
from cliffnn.operation import Operation, operation

CASES = (
    "R2/8192/512/float32",
    "R2/262144/32/float32",
    "R3/4096/512/float32",
    "R3/8192/256/float32",
    "R3/32768/128/float32",
    "R3/131072/32/float32",
    "R3/262144/8/float32",
    "R3/4096/1024/float32",
    "R3/4096/512/bfloat16",
    "R1,3/8192/128/float32",
    "R1,3/65536/32/float32",
    "R3,0,1/8192/256/float32",
    "R5/32768/32/float32",
)


def operations(algebra: Algebra) -> tuple[Operation, Operation]:
    forward = operation("gelu_weighted_geometric_product.norm", algebra.name)
    return forward, forward.vjp(["out"], ["x", "y", "w"])


def check(algebra: Algebra, x: Tensor, y: Tensor, weight: Tensor, grad: Tensor) -> float:
    """The largest relative error of result and gradients on some rows, against generated torch code in float64."""
    rows = [t[:64] for t in (x, y)]
    forward, backward = operations(algebra)
    inputs, exact = [*rows, weight], [t.double() for t in (*rows, weight)]
    out, scales = kernels.run(forward, inputs, 1e-6)
    got = kernels.run(backward, [*inputs, out, scales, grad[:64]], 1e-6)
    out64, scales64 = generated.run(forward, exact, 1e-6)
    wanted = generated.run(backward, [*exact, out64, scales64, grad[:64].double()], 1e-6)
    return max(float((a.double() - b).norm() / b.norm()) for a, b in zip([out, *got], [out64, *wanted], strict=True))


def measure(case: str, bandwidth: float) -> dict[str, Any]:
    name, rows, channels, dtype_name = case.split("/")
    algebra, dtype = Algebra(name), getattr(torch, dtype_name)
    shape = (int(rows), len(algebra), int(channels))
    size = shape[0] * shape[1] * shape[2] * dtype.itemsize
    weight = torch.randn(len(algebra.paths), shape[-1], device="cuda", dtype=dtype)

    first, second = operations(algebra)

    def forward(x, y, *_):
        return kernels.run(first, [x, y, weight], 1e-6)

    def backward(x, y, grad, out, scales):
        return kernels.run(second, [x, y, weight, out, scales, grad], 1e-6)

    buffers = []
    for _ in range(3 if size < 2**28 else 2):
        x, y, grad = (torch.randn(shape, device="cuda", dtype=dtype) for _ in range(3))
        buffers.append((x, y, grad, *forward(x, y)))
    error = check(algebra, *buffers[0][:2], weight, buffers[0][2])
    if not error < (3e-2 if dtype.itemsize == 2 else 1e-4):
        raise SystemExit(f"{case}: relative error {error:.1e}; nothing is reported on a wrong result")
    result: dict[str, Any] = {"case": case, "relative_error": error}
    for what, run, passes in (("forward", forward, 3), ("backward", backward, 5)):
        milliseconds = replay_milliseconds(run, buffers)
        result[what] = {
            "kernel_ms": round(milliseconds, 5),
            "floor_ms": round(passes * size / bandwidth * 1e3, 5),
            "share_of_floor": round(passes * size / bandwidth * 1e3 / milliseconds, 3),
            "eager_ms": round(eager_milliseconds(run, buffers), 5),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "fused_op.json")
    parser.add_argument("--case", nargs="+", default=CASES, help="ALGEBRA/ROWS/CHANNELS/DTYPE")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: this benchmark measures kernels on one")
    bandwidth = copy_bandwidth()
    print(f"copy bandwidth {bandwidth / 1e12:.2f} TB/s")
    results = []
    for case in arguments.case:
        result = measure(case, bandwidth)
        shares = [f"{what} {result[what]['share_of_floor']:.0%}" for what in ("forward", "backward")]
        print(f"{case:26} share of the floor: {', '.join(shares)}", flush=True)
        results.append(result)
        torch.cuda.empty_cache()
    write(arguments.output, "python -m benchmarks.fused_op", copy_bandwidth=bandwidth, results=results)


if __name__ == "__main__":
    main()
