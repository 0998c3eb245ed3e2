"""The fused operator against its floor: the bytes it must move, at the copy bandwidth measured in the same run.

    python -m benchmarks.fused_op [--output FILE] [--case R3/4096/512/float32 ...]

On a GPU. Kernel time is the replay of a CUDA graph over buffers that rotate past the cache; the floor is 3 passes over
a tensor forward (read x, y; write out) and 5 backward (read x, y, grad; write grad_x, grad_y). An addition of two
tensors, which moves what a forward does, shows how near to it any kernel comes where they are small. Refuses to report
on a case whose result or gradient is wrong.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
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
    "R2/32768/128/float32",
    "R2/131072/64/float32",
    "R2/262144/32/float32",
    "R2/1048576/8/float32",
    "R3/4096/512/float32",
    "R3/8192/256/float32",
    "R3/32768/128/float32",
    "R3/65536/64/float32",
    "R3/131072/32/float32",
    "R3/262144/8/float32",
    "R3/4096/1024/float32",
    "R3/4096/2048/float32",
    "R3/4096/512/bfloat16",
    "R1,3/8192/128/float32",
    "R1,3/4096/256/float32",
    "R1,3/65536/32/float32",
    "R3,0,1/8192/256/float32",
    "R3,0,1/16384/128/float32",
    "R3,0,1/65536/32/float32",
    "R5/131072/8/float32",
    "R5/32768/32/float32",
    "R5/16384/64/float32",
    "R3,0,1/16384/128/bfloat16",
    "R5/32768/32/bfloat16",
)
# Whose double backward is measured as well.
TWICE = (
    "R2/262144/32/float32",
    "R3/4096/512/float32",
    "R3/32768/128/float32",
    "R3/131072/32/float32",
    "R1,3/8192/128/float32",
    "R1,3/65536/32/float32",
    "R3,0,1/65536/32/float32",
)


# What each moves, in tensors: read and written.
PASSES = {"forward": 3, "backward": 5, "double_backward": 8}
# Sizes of the tensors that are added.
MEBIBYTES = (2, 4, 8, 16, 32, 64, 128)


def operations(algebra: str, count: int) -> dict[str, Operation]:
    forward = operation("gelu_weighted_geometric_product.norm", algebra)
    backward = forward.vjp(["out"], ["x", "y", "w"])
    found = [forward, backward, backward.vjp(backward.outputs, ["x", "y", "w", "grad_out"])]
    return dict(zip(PASSES, found[:count], strict=False))


def named_inputs(op: Operation, rows: int, channels: int, **kind: Any) -> dict[str, Tensor]:
    """Random inputs; what was saved is as the forward gives it."""
    shapes = {"rows": (rows,), "shared": ()}
    inputs = {
        name: torch.randn(*shapes[group.kind], group.size, channels, **kind)
        for name, group in op.inputs.items()
        if name not in op.saved
    }
    forward = operation("gelu_weighted_geometric_product.norm", op.algebra.name)
    saved = dict(zip(op.saved, kernels.run(forward, [inputs[name] for name in forward.inputs], 1e-6), strict=False))
    return {name: {**inputs, **saved}[name] for name in op.inputs}


def check(op: Operation, inputs: dict[str, Tensor]) -> float:
    """The largest relative error of the results on some rows, against generated torch code in float64.

    What was saved comes as it is: then a scale is rounded as an input, not computed with another error.
    """
    few = [tensor if op.inputs[name].kind == "shared" else tensor[:64] for name, tensor in inputs.items()]
    got, wanted = kernels.run(op, few, 1e-6), generated.run(op, [tensor.double() for tensor in few], 1e-6)
    return max(float((a.double() - b).norm() / b.norm()) for a, b in zip(got, wanted, strict=True))


def warm(case: str) -> None:
    """Compile the kernels of a case, on a few rows: which ones does not depend on their number."""
    name, _, channels, dtype_name = case.split("/")
    for op in operations(name, 3 if case in TWICE else 2).values():
        inputs = named_inputs(op, 2, int(channels), device="cuda", dtype=getattr(torch, dtype_name))
        kernels.run(op, list(inputs.values()), 1e-6)


def measure(case: str, bandwidth: float) -> dict[str, Any]:
    name, rows, channels, dtype_name = case.split("/")
    dtype = getattr(torch, dtype_name)
    size = int(rows) * len(Algebra(name)) * int(channels) * dtype.itemsize
    result: dict[str, Any] = {"case": case}
    for what, op in operations(name, 3 if case in TWICE else 2).items():
        buffers = [
            tuple(named_inputs(op, int(rows), int(channels), device="cuda", dtype=dtype).values())
            for _ in range(3 if size < 2**28 else 2)
        ]
        error = check(op, dict(zip(op.inputs, buffers[0], strict=True)))
        if not error < (3e-2 if dtype.itemsize == 2 else 1e-4):
            raise SystemExit(f"{case}, {what}: relative error {error:.1e}; nothing is reported on a wrong result")

        def run(*inputs: Tensor, op: Operation = op) -> list[Tensor]:
            return kernels.run(op, inputs, 1e-6)

        milliseconds = replay_milliseconds(run, buffers)
        floor = PASSES[what] * size / bandwidth * 1e3
        result[what] = {
            "relative_error": error,
            "kernel_ms": round(milliseconds, 5),
            "floor_ms": round(floor, 5),
            "share_of_floor": round(floor / milliseconds, 3),
            "eager_ms": round(eager_milliseconds(run, buffers), 5),
        }
    return result


def addition(mebibytes: int, bandwidth: float) -> dict[str, float]:
    """Of two tensors: the bytes of a forward, and no arithmetic to speak of."""
    size = mebibytes * 2**20
    buffers = [tuple(torch.randn(2, size // 4, device="cuda")) for _ in range(max(3, 2**28 // size))]
    milliseconds, floor = replay_milliseconds(torch.add, buffers), PASSES["forward"] * size / bandwidth * 1e3
    return {
        "mebibytes": mebibytes,
        "kernel_ms": round(milliseconds, 5),
        "share_of_floor": round(floor / milliseconds, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "fused_op.json")
    parser.add_argument("--case", nargs="+", default=CASES, help="ALGEBRA/ROWS/CHANNELS/DTYPE")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: this benchmark measures kernels on one")
    with ThreadPoolExecutor() as pool:
        list(pool.map(warm, arguments.case))
    bandwidth = copy_bandwidth()
    print(f"copy bandwidth {bandwidth / 1e12:.2f} TB/s")
    additions = [addition(mebibytes, bandwidth) for mebibytes in MEBIBYTES]
    shares = [f"{of['mebibytes']} MiB {of['share_of_floor']:.0%}" for of in additions]
    print(f"{'addition':26} share of the floor: {', '.join(shares)}")
    results = []
    for case in arguments.case:
        result = measure(case, bandwidth)
        shares = [f"{what} {result[what]['share_of_floor']:.0%}" for what in PASSES if what in result]
        print(f"{case:26} share of the floor: {', '.join(shares)}", flush=True)
        results.append(result)
        torch.cuda.empty_cache()
    write(arguments.output, copy_bandwidth=bandwidth, additions=additions, results=results)


if __name__ == "__main__":
    main()
