"""Every kind of kernel once, at sizes that are no multiple of a tile's: for NVIDIA's compute-sanitizer to watch.

    compute-sanitizer --tool memcheck --error-exitcode 1 python -m benchmarks.sanitize
    compute-sanitizer --tool initcheck --error-exitcode 1 python -m benchmarks.sanitize
    compute-sanitizer --tool racecheck --error-exitcode 1 python -m benchmarks.sanitize R3/3/33/float32

Memory is not kept between tensors, so that what lies beyond one belongs to no other.
"""

from __future__ import annotations

import argparse
import os

import torch

from cliffnn import Algebra, kernels
from cliffnn.operation import operation

# Whole rows, rows whose backward goes over blocks of channels, and rows whose forward does too.
CASES = (
    "R2/3/33/float32",
    "R2/127/1000/bfloat16",
    "R3/3/33/float32",
    "R3/127/1000/float32",
    "R3/3/2100/float16",
    "R1,3/127/33/float32",
    "R1,3/3/1100/float32",
)


def run(case: str) -> None:
    name, rows, channels, dtype_name = case.split("/")
    algebra, kind = Algebra(name), {"device": "cuda", "dtype": getattr(torch, dtype_name)}
    x, y, grad = (torch.randn(int(rows), len(algebra), int(channels), **kind) for _ in range(3))
    weight = torch.randn(len(algebra.paths), int(channels), **kind)
    forward = operation("gelu_weighted_geometric_product.norm", name)
    backward = forward.vjp(["out"], ["x", "y", "w"])
    out, scales = kernels.run(forward, [x, y, weight], 1e-6)
    gradients = kernels.run(backward, [x, y, weight, out, scales, grad], 1e-6)
    torch.cuda.synchronize()
    if not all(tensor.isfinite().all() for tensor in (out, scales, *gradients)):
        raise SystemExit(f"{case}: not finite")
    print(case, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", default=CASES, help="ALGEBRA/ROWS/CHANNELS/DTYPE")
    arguments = parser.parse_args()
    # read when the first tensor is allocated
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: compute-sanitizer watches kernels on one")
    for case in arguments.case:
        run(case)


if __name__ == "__main__":
    main()
