"""Every kind of kernel, at sizes that are no multiple of a tile's: for NVIDIA's compute-sanitizer to watch.

    compute-sanitizer --tool memcheck --error-exitcode 1 python -m benchmarks.sanitize
    compute-sanitizer --tool initcheck --error-exitcode 1 python -m benchmarks.sanitize
    compute-sanitizer --tool racecheck --error-exitcode 1 python -m benchmarks.sanitize R3/3/33/float32

Forward, backward and double backward of the fused operator, the linear map and, where channels are few, the fully
connected operator. Memory is not kept between tensors, so that what lies beyond one belongs to no other.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from benchmarks.environment import write
from cliffnn import Algebra
from cliffnn import functional as F

# Whole rows, rows whose backward goes over blocks of channels, and rows whose forward does too.
CASES = (
    "R2/3/33/float32",
    "R2/127/1000/bfloat16",
    "R3/3/33/float32",
    "R3/3/33/float64",
    "R3/127/1000/float32",
    "R3/3/2100/float16",
    "R1,3/127/33/float32",
    "R1,3/127/33/bfloat16",
    "R1,3/3/1100/float32",
    "R5/3/33/float32",
)
# The fully connected product's work grows with the square of the channels, and a tool that watches every access takes
# long for it.
WIDEST = 100


def run(case: str) -> None:
    name, rows, channels, dtype_name = case.split("/")
    algebra, width, kind = Algebra(name), int(channels), {"device": "cuda", "dtype": getattr(torch, dtype_name)}
    x, y = (torch.randn(int(rows), len(algebra), width, **kind, requires_grad=True) for _ in range(2))

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, **kind).div_(shape[-1] ** 0.5).requires_grad_()

    paths = len(algebra.paths)
    matrices, bias = weight(len(algebra.grades), width, width), weight(width)
    calls = {
        "product": ([x, y, weight(paths, width)], lambda *inputs: F.gelu_sgp_norm(*inputs, algebra)),
        "linear": ([x, matrices, bias], lambda *inputs: F.linear(*inputs, algebra)),
    }
    if width <= WIDEST:
        full = weight(paths, width, width)
        calls["fully connected"] = ([x, y, full], lambda *inputs: F.gelu_fcgp_norm(*inputs, algebra))
    for what, (inputs, function) in calls.items():
        out = function(*inputs)
        first = torch.autograd.grad(out, inputs, torch.randn_like(out), create_graph=True)
        second = torch.autograd.grad(first, inputs, [torch.randn_like(tensor) for tensor in first], allow_unused=True)
        torch.cuda.synchronize()
        if not all(tensor.isfinite().all() for tensor in (out, *first, *second) if tensor is not None):
            raise SystemExit(f"{case}, {what}: not finite")
    print(case, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", default=CASES, help="ALGEBRA/ROWS/CHANNELS/DTYPE")
    parser.add_argument("--output", type=Path, help="a record, written if nothing stopped it")
    arguments = parser.parse_args()
    # read when the first tensor is allocated
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: compute-sanitizer watches kernels on one")
    for case in arguments.case:
        run(case)
    if arguments.output:
        write(arguments.output, cases=arguments.case)


if __name__ == "__main__":
    main()
