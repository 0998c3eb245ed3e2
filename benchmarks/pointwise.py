"""Expressions of one's own, made operators: against their floor, kingdon on torch's tensors, and torch.compile.

    python -m benchmarks.pointwise [--output FILE] [--case rotor/262144/32 ...]

A rotor's sandwich and a reflection in R3, a motor moving points in R3,0,1, float32. The floor is the bytes that must be
moved, each number once, at the copy bandwidth measured in the same run. On a GPU kernel time is the replay of a CUDA
graph over buffers that rotate past the cache; on a CPU it is the time of a call. Cold is what the first call, forward
and backward, takes in a new process with empty caches. Refuses to report on a case where ours is wrong.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import kingdon
import torch
from torch import Tensor

import cliffnn
from benchmarks.environment import RESULTS, write
from benchmarks.timing import cache_bytes, copy_bandwidth, loop_milliseconds, replay_milliseconds
from cliffnn import Algebra
from cliffnn.geometric import GeometricOp

OURS, KINGDON, COMPILED = "cliffnn", "kingdon", "torch.compile"
# How far a float32 result or gradient of ours may be from float64.
TOLERANCE = 1e-4
_CHECKED = 64
# Cores for each first call, of which several are measured at once: kernels compile side by side.
CORES = 4


@cliffnn.geometric_op("R3")
def rotor(r: even, x: vector):  # noqa: F821
    """A rotor turns a vector."""
    return r * x * ~r


@cliffnn.geometric_op("R3,0,1")
def motor(m: even, p: trivector) -> trivector:  # noqa: F821
    """A motor moves a point."""
    return (m * p * ~m).grade(3)


@cliffnn.geometric_op("R3")
def reflect(n: vector, x):  # noqa: F821
    """A vector reflects a multivector."""
    return -n * x / (n | n)


# As one would write multivectors in torch: a tensor for each blade that they have.
Blades: TypeAlias = dict[int, Tensor]


def product(algebra: Algebra, x: Blades, y: Blades) -> Blades:
    found: Blades = {}
    for a, b, c, sign in algebra.products:
        if a in x and b in y:
            term = x[a] * y[b]
            found[c] = found.get(c, 0) + (term if sign > 0 else -term)
    return found


def reverse(algebra: Algebra, x: Blades) -> Blades:
    return {b: value if algebra.grade_of_blades[b] % 4 in (0, 1) else -value for b, value in x.items()}


def plain_sandwich(algebra: Algebra, r: Blades, x: Blades) -> Blades:
    return product(algebra, product(algebra, r, x), reverse(algebra, r))


def plain_reflect(algebra: Algebra, n: Blades, x: Blades) -> Blades:
    square = sum(value * value for value in n.values())
    return {b: -value / square for b, value in product(algebra, n, x).items()}


PLAIN = {"rotor": plain_sandwich, "motor": plain_sandwich, "reflect": plain_reflect}


def plain(op: GeometricOp) -> Callable[..., Tensor]:
    """The expression in torch, blade by blade."""
    algebra, function = op.algebra, PLAIN[op.__name__]
    held = [algebra.blades_of(grades) for grades in op.grades.values()]
    out = algebra.blades_of(op.out_grades)
    # so that a compiler need not trace how it comes about
    algebra.products  # noqa: B018

    def run(*tensors: Tensor) -> Tensor:
        factors = [dict(zip(blades, x.unbind(-2), strict=True)) for blades, x in zip(held, tensors, strict=True)]
        result = function(algebra, *factors)
        return torch.stack([result[blade] for blade in out], -2)

    return run


def by_kingdon(op: GeometricOp) -> Callable[..., Tensor]:
    """The expression on kingdon's multivectors of tensors."""
    algebra = kingdon.Algebra(signature=list(op.algebra.signature), start_index=op.algebra.start_index)
    keys = list(algebra.canon2bin.values())
    held = [tuple(keys[b] for b in op.algebra.blades_of(grades)) for grades in op.grades.values()]
    out = [keys[b] for b in op.algebra.blades_of(op.out_grades)]

    def run(*tensors: Tensor) -> Tensor:
        factors = [
            kingdon.MultiVector.fromkeysvalues(algebra, of_input, list(x.unbind(-2)))
            for of_input, x in zip(held, tensors, strict=True)
        ]
        result = dict(op.__wrapped__(*factors).items())  # type: ignore[attr-defined]
        return torch.stack([result[key] for key in out], -2)

    return run


def compiled(op: GeometricOp) -> Callable[..., Tensor]:
    """Compiled for one size alone, which gives torch.compile its best chance."""
    torch._dynamo.reset()
    return torch.compile(plain(op), dynamic=False, fullgraph=True)


CONTENDERS: dict[str, Callable[[GeometricOp], Callable[..., Tensor]]] = {
    OURS: lambda op: op,
    KINGDON: by_kingdon,
    COMPILED: compiled,
}
EXPRESSIONS = {"rotor": rotor, "motor": motor, "reflect": reflect}
SIZES = {"cuda": ((2**18, 32), (2**14, 512), (2**23, 1)), "cpu": ((2**12, 8),)}


class Case(NamedTuple):
    """An expression on so many rows and channels."""

    name: str
    rows: int
    channels: int
    device: str

    def __str__(self) -> str:
        return f"{self.name}/{self.rows}/{self.channels}"

    @property
    def op(self) -> GeometricOp:
        return EXPRESSIONS[self.name]

    @property
    def passes(self) -> dict[str, int]:
        """How many numbers are moved for each row and channel."""
        inputs = sum(len(self.op.algebra.blades_of(grades)) for grades in self.op.grades.values())
        out = len(self.op.algebra.blades_of(self.op.out_grades))
        return {"forward": inputs + out, "backward": 2 * inputs + out}

    def tensors(self) -> list[Tensor]:
        """Random inputs."""
        sizes = [len(self.op.algebra.blades_of(grades)) for grades in self.op.grades.values()]
        return [torch.randn(self.rows, n, self.channels, device=self.device, requires_grad=True) for n in sizes]


def forward_backward(run: Callable[..., Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
    """The result, and the gradients of all inputs; the gradient of the result comes last."""
    *inputs, grad = tensors
    out = run(*inputs)
    return out.detach(), *torch.autograd.grad(out, inputs, grad)


def error(case: Case, run: Callable[..., Tensor], tensors: Sequence[Tensor]) -> float:
    """The largest relative error of result and gradients on some rows, against kingdon in float64."""
    exact = [x.detach()[:_CHECKED].double().requires_grad_() for x in tensors]
    wanted = forward_backward(by_kingdon(case.op), *exact)
    got = forward_backward(run, *tensors)
    errors = [float((a[:_CHECKED].double() - b).norm() / b.norm()) for a, b in zip(got, wanted, strict=True)]
    return max(e if math.isfinite(e) else math.inf for e in errors)


def measure(case: Case, contender: str, bandwidth: float) -> dict[str, Any]:
    """Milliseconds of a contender, ours as a share of the floor too."""
    run = CONTENDERS[contender](case.op)
    size = 4 * case.rows * case.channels * case.passes["backward"]
    buffers = []
    for _ in range(min(24, max(2, math.ceil(2 * cache_bytes(torch.device(case.device)) / size)))):
        inputs = case.tensors()
        buffers.append((*inputs, torch.randn_like(run(*inputs))))
    result: dict[str, Any] = {"relative_error": error(case, run, buffers[0])}
    if contender == OURS and not result["relative_error"] < TOLERANCE:
        raise SystemExit(
            f"{case}: relative error {result['relative_error']:.1e}; nothing is reported on a wrong result"
        )

    def forward(*tensors: Tensor) -> Tensor:
        with torch.no_grad():
            return run(*tensors[:-1])

    calls: dict[str, Callable[..., Any]] = {
        "forward": forward,
        "forward_backward": lambda *tensors: forward_backward(run, *tensors),
    }
    if contender == OURS:
        calls["backward"] = _backward(case)
    for mode, call in calls.items():
        times = {"loop_ms": round(loop_milliseconds(call, buffers), 5)}
        if case.device == "cuda":
            times["kernel_ms"] = round(replay_milliseconds(call, buffers), 5)
        if mode in case.passes:
            floor = 4 * case.rows * case.channels * case.passes[mode] / bandwidth * 1e3
            times["floor_ms"] = round(floor, 5)
            times["share_of_floor"] = round(floor / times.get("kernel_ms", times["loop_ms"]), 3)
        result[mode] = times
    return result


def _backward(case: Case) -> Callable[..., Any]:
    """Of ours the backward alone, as autograd calls it."""
    from cliffnn.geometric import _text
    from cliffnn.operation import operation
    from cliffnn.ops import evaluate

    forward = operation(_text(case.op._key, (False,) * len(case.op.grades))[0], case.op.algebra.name)
    backward = forward.vjp(forward.outputs, forward.inputs)

    def run(*tensors: Tensor) -> Any:
        with torch.no_grad():
            return evaluate(backward.text, case.op.algebra, tensors)

    return run


def cold(case: Case, contender: str) -> float:
    """Seconds of the first forward and backward in a process of its own, whose caches are empty."""
    with tempfile.TemporaryDirectory(prefix="cliffnn-") as folder:
        caches = {
            name: f"{folder}/{name}" for name in ("CLIFFNN_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
        }
        command = [sys.executable, "-m", "benchmarks.pointwise", "--cold", contender, "--device", case.device]
        small = case._replace(rows=min(case.rows, 2**12))
        printed = subprocess.check_output([*command, "--case", str(small)], text=True, env={**os.environ, **caches})
    return float(printed.splitlines()[-1])


def _cold(case: Case, contender: str) -> None:
    """What the process prints."""
    tensors = case.tensors()
    # what torch and the device themselves take at first, no contender is blamed for
    forward_backward(lambda *inputs: inputs[0] * 2, *tensors[:1], tensors[0].detach())
    start = time.perf_counter()
    run = CONTENDERS[contender](case.op)
    out = run(*tensors)
    torch.autograd.grad(out, tensors, torch.ones_like(out))
    if case.device == "cuda":
        torch.cuda.synchronize()
    print(round(time.perf_counter() - start, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "pointwise.json")
    parser.add_argument("--case", nargs="+", help="EXPRESSION/ROWS/CHANNELS")
    parser.add_argument("--contender", nargs="+", default=[*CONTENDERS], choices=CONTENDERS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=SIZES)
    parser.add_argument("--cold", choices=CONTENDERS, help="only print the seconds of a first call")
    arguments = parser.parse_args()
    sizes = SIZES[arguments.device]
    named = arguments.case or [f"{name}/{rows}/{channels}" for name in EXPRESSIONS for rows, channels in sizes]
    split = [name.split("/") for name in named]
    cases = [Case(name, int(rows), int(channels), arguments.device) for name, rows, channels in split]
    if arguments.cold:
        _cold(cases[0], arguments.cold)
        return
    # nothing else is timed meanwhile
    firsts = [(case, contender) for case in cases for contender in arguments.contender]
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // CORES)) as pool:
        seconds = dict(zip(firsts, pool.map(lambda first: cold(*first), firsts), strict=True))
    bandwidth = copy_bandwidth(arguments.device)
    print(f"copy bandwidth {bandwidth / 1e12:.3f} TB/s")
    results = []
    for case in cases:
        contenders = {
            name: measure(case, name, bandwidth) | {"cold_seconds": seconds[case, name]} for name in arguments.contender
        }
        results.append({"case": str(case), "contenders": contenders})
        for name, result in contenders.items():
            times = [result[mode].get("kernel_ms", result[mode]["loop_ms"]) for mode in ("forward", "forward_backward")]
            shares = [f"{result[mode]['share_of_floor']:.0%}" for mode in case.passes if mode in result]
            told = f"{times[0]:.4g} ms, with backward {times[1]:.4g}, first call {result['cold_seconds']} s"
            print(f"{case!s:20} {name:14} {told}, of the floor {', '.join(shares)}", flush=True)
        if arguments.device == "cuda":
            torch.cuda.empty_cache()
        # after each case, so that who is interrupted keeps the cases before
        write(arguments.output, copy_bandwidth=bandwidth, results=results)


if __name__ == "__main__":
    main()
