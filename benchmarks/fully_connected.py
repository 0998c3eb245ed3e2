"""The fully connected product and its block against what they must at least take, over tilings, and beside a peer.

    python -m benchmarks.fully_connected [--output FILE] [--case R3/4096/128 ...] [--precision high]
        [--forward 64/128/32/8 ...] [--factor ...] [--weight ...] [--flash-clifford PATH] [--processor N]

On a GPU, float32. A tiling is ROWS/OUTPUTS/INPUTS/WARPS, for the weight's gradient ROWS/OUTPUTS/INPUTS/WARPS/RESIDENT;
without any, what the library chooses; of the factors' gradients only where one kernel computes both. Kernel time is the
replay of a CUDA graph over buffers that rotate past the cache; of the block, beside a peer that no graph can hold, also
what the profiler tells. In loops contenders take turns, with ``--processor`` with all threads on one of the host's.
Floors: bytes that must be moved, at the copy bandwidth measured in the same run; and the matrix products of the
definition at 400 TFLOP/s. Refuses to report on a case whose result or gradient is wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.environment import RESULTS, write
from benchmarks.peers import import_from
from benchmarks.timing import copy_bandwidth, loops_milliseconds, peak_bytes, profile, replay_milliseconds, stay_on
from cliffnn import Algebra
from cliffnn import fully_connected as operators
from cliffnn.functional import rms_norm
from cliffnn.graded_product import GradedProduct
from cliffnn.kernels import fully_connected as kernels
from cliffnn.kernels.fully_connected import Tiles
from cliffnn.layers import FCGPNormBlock

CASES = ("R2/4096/128", "R2/65536/32", "R3/4096/128", "R3/65536/32", "R3/4096/256", "R3/4096/512", "R1,3/4096/64")
FLOPS = 400e12
GATE = True
# What TF32 may lose, and what float32 may.
TOLERANCE = {"high": 3e-3, "highest": 1e-5}


def check(algebra: Algebra, results: Sequence[Tensor], tensors: Sequence[Tensor], precision: str) -> float:
    """The largest relative error of the result and its gradients, against torch's own functions in float64."""
    x, y, weight, grad = (t.double() for t in tensors)
    wanted = [
        operators._forward(x, y, weight, algebra.name, GATE),
        *operators._factors(grad, x, y, weight, algebra.name, GATE),
        operators._weight(grad, x, y, algebra.name, GATE),
    ]
    error = max(float((a.double() - b).norm() / b.norm()) for a, b in zip(results, wanted, strict=True))
    if not error < TOLERANCE[precision]:
        raise SystemExit(f"relative error {error:.1e}; nothing is reported on a wrong result")
    return error


def runs(algebra: Algebra, kind: str, tiles: Tiles | None) -> Callable[..., Sequence[Tensor]]:
    """What is measured, of x, y, weight and the result's gradient."""
    if tiles is None:
        return {
            "forward": lambda x, y, weight, grad: [operators._forward(x, y, weight, algebra.name, GATE)],
            "factor": lambda x, y, weight, grad: operators._factors(grad, x, y, weight, algebra.name, GATE),
            "weight": lambda x, y, weight, grad: [operators._weight(grad, x, y, algebra.name, GATE)],
        }[kind]
    of = GradedProduct.of(algebra.name)
    if kind == "forward":
        return lambda x, y, weight, grad: [kernels.fully_connected(x, y, weight, of, GATE, tiles)]
    if kind == "weight":
        return lambda x, y, weight, grad: [kernels.fully_connected_weight(grad, x, y, of, GATE, tiles)]
    return lambda x, y, weight, grad: kernels.fully_connected_factors(grad, x, y, weight, of, GATE, tiles)


def floors(algebra: Algebra, rows: int, channels: int, kind: str, bandwidth: float) -> dict[str, float]:
    """Milliseconds that the bytes and the matrix products take; both factors' gradients share their products."""
    tensors = {"forward": 3, "factor": 5, "weight": 3}[kind]
    size = rows * len(algebra) * channels * 4
    products = sum(algebra.grade_sizes[k] for *_, k in algebra.paths)
    return {
        "memory_ms": round(tensors * size / bandwidth * 1e3, 5),
        "products_ms": round(2 * products * rows * channels**2 / FLOPS * 1e3, 5),
    }


def measure(case: str, tilings: dict[str, list[Tiles | None]], precision: str, bandwidth: float) -> dict[str, Any]:
    name, rows, channels = case.split("/")
    algebra = Algebra(name)
    shape = (int(rows), len(algebra), int(channels))
    weight = torch.randn(len(algebra.paths), shape[-1], shape[-1], device="cuda") / shape[-1] ** 0.5
    buffers = []
    for _ in range(3):
        x, y, grad = (torch.randn(shape, device="cuda") for _ in range(3))
        buffers.append((x, y, weight, grad))
    some = [t[:1000] for t in buffers[0]]
    some[2] = weight
    result: dict[str, Any] = {"case": case}
    for kind, choices in tilings.items():
        result[kind] = floors(algebra, shape[0], shape[-1], kind, bandwidth)
        result[kind]["tilings"] = []
        for tiles in choices:
            others = dict.fromkeys(tilings) | {kind: tiles}
            results = [tensor for other in tilings for tensor in runs(algebra, other, others[other])(*some)]
            error = check(algebra, results, some, precision)
            milliseconds = replay_milliseconds(runs(algebra, kind, tiles), buffers)
            row = {"tiles": str(tiles or "chosen"), "kernel_ms": round(milliseconds, 5), "relative_error": error}
            result[kind]["tilings"].append(row)
            least = max(result[kind]["memory_ms"], result[kind]["products_ms"])
            print(f"{case:16} {kind:8} {milliseconds:8.4f} ms, floor {least:.4f}  {tiles or 'chosen'}", flush=True)
    return result


def block(case: str, flash_clifford: Path | None) -> dict[str, Any]:
    """The block, and the peer's layer, forward and forward + backward."""
    name, rows, channels = case.split("/")
    algebra = Algebra(name)
    ours = FCGPNormBlock(int(channels), int(channels), algebra, device="cuda")
    x = torch.randn(int(rows), len(algebra), int(channels), device="cuda")
    contenders: dict[str, tuple[torch.nn.Module, bool]] = {"cliffnn": (ours, False)}
    if flash_clifford and name in ("R2", "R3"):
        contenders["flash-clifford"] = (_peer(flash_clifford, algebra, ours), True)
    result: dict[str, Any] = {}
    loops: dict[Hashable, tuple[Callable[..., Any], Sequence[tuple]]] = {}
    exact = _exact_block(ours, x[:200])
    for who, (module, blades_first) in contenders.items():
        own = x.transpose(0, 1).contiguous() if blades_first else x
        # a graph of autograd that is still alive would tie a capture to the stream that made it
        with torch.no_grad():
            got = module(own[:, :200].contiguous() if blades_first else own[:200])
        got = got.transpose(0, 1) if blades_first else got
        error = float((got.detach().double() - exact).norm() / exact.norm())
        if not error < 1e-2:
            raise SystemExit(
                f"{case}: {who} has a relative error of {error:.1e}; nothing is reported on a wrong result"
            )
        parameters = list(module.parameters())

        def forward(leaf, grad, module=module):
            with torch.no_grad():
                return module(leaf)

        def both(leaf, grad, module=module, parameters=parameters):
            return torch.autograd.grad(module(leaf), [leaf, *parameters], grad)

        buffers = [(torch.randn_like(own).requires_grad_(), torch.randn_like(own)) for _ in range(3)]
        loops |= {(who, "forward_loop_ms"): (forward, buffers), (who, "forward_backward_loop_ms"): (both, buffers)}
        result[who] = {
            "relative_error": error,
            "forward_kernels_ms": _kernels(forward, buffers),
            "forward_backward_kernels_ms": _kernels(both, buffers),
            "forward_backward_peak_MiB": round(peak_bytes(both, buffers[0]) / 2**20, 1),
        }
        if module is ours:
            # the peer's copies a table from the host in every call, which no graph can hold
            result[who]["forward_ms"] = round(replay_milliseconds(forward, buffers), 5)
            result[who]["forward_backward_ms"] = round(replay_milliseconds(both, buffers), 5)
    for (who, what), milliseconds in loops_milliseconds(loops).items():
        result[who][what] = round(milliseconds, 5)
    for who, figures in result.items():
        print(f"{case:16} {who:14} {figures}", flush=True)
    return result


def _kernels(call: Callable[..., Any], buffers: Sequence[tuple]) -> float:
    """Milliseconds that the kernels of a call take, as the profiler sees them."""
    found = profile(lambda: [call(*buffer) for buffer in buffers], "cuda")
    return round(found["milliseconds"] / len(buffers), 5)


def _exact_block(module: FCGPNormBlock, x: Tensor) -> Tensor:
    """In float64, by torch's own functions; the norm, which knows every metric, by the library's code for a CPU."""
    algebra, x = module.algebra, x.double()
    y = plain.linear(algebra)(x, module.linear.weight.detach().double())
    y[:, 0] += module.linear.bias.detach().double()
    out = operators._forward(x, y, module.weight.detach().double(), algebra.name, True)
    return rms_norm(out.cpu(), algebra).to(out.device)


def _peer(path: Path, algebra: Algebra, ours: FCGPNormBlock) -> torch.nn.Module:
    """flash-clifford's layer with our weights: its paths go by grade of x, result, y; its matrices are (in, out)."""
    _, layer = import_from(path, "ops", "modules.layer")
    module = layer.Layer(ours.weight.shape[-1], dims=algebra.dim, use_fc=True).cuda()
    order = sorted(range(len(algebra.paths)), key=lambda path: [algebra.paths[path][n] for n in (0, 2, 1)])
    with torch.no_grad():
        module.linear_weight.copy_(ours.linear.weight.mT)
        module.gp_weight.copy_(ours.weight[order].mT)
    return module


def _tiles(text: str) -> Tiles:
    return Tiles(*map(int, text.split("/")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "fully_connected.json")
    parser.add_argument("--case", nargs="+", default=CASES, help="ALGEBRA/ROWS/CHANNELS")
    for kind in ("forward", "factor", "weight"):
        parser.add_argument(f"--{kind}", nargs="+", type=_tiles, default=[None], metavar="TILING")
    parser.add_argument("--precision", choices=TOLERANCE, default="high")
    parser.add_argument("--flash-clifford", type=Path)
    parser.add_argument("--processor", type=int, metavar="N", help="for all threads")
    arguments = parser.parse_args()
    stay_on(arguments.processor)
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: this benchmark measures kernels on one")
    torch.set_float32_matmul_precision(arguments.precision)
    bandwidth = copy_bandwidth()
    print(f"copy bandwidth {bandwidth / 1e12:.2f} TB/s")
    tilings = {kind: getattr(arguments, kind) for kind in ("forward", "factor", "weight")}
    results = []
    for case in arguments.case:
        result = measure(case, tilings, arguments.precision, bandwidth)
        results.append(result | {"block": block(case, arguments.flash_clifford)})
        torch.cuda.empty_cache()
    write(arguments.output, copy_bandwidth=bandwidth, precision=arguments.precision, results=results)


if __name__ == "__main__":
    main()
