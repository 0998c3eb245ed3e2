"""One contender at one case: is it right, how long does it take, how much memory."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import SUBJECTS, Case, Subject
from benchmarks.contenders import Builder, Built
from benchmarks.timing import cache_bytes, loops_milliseconds, peak_bytes, replay_milliseconds
from cliffnn import Algebra

MODES = ("forward", "forward_backward")
# Rows whose results are checked, and how many sets of buffers at most are rotated.
_CHECKED, _MOST_BUFFERS = 64, 24


@dataclass
class Prepared:
    """A contender built for a case on a device, and the case's inputs."""

    case: Case
    device: torch.device
    parameters: list[Tensor]
    built: Built

    @property
    def subject(self) -> Subject:
        return SUBJECTS[self.case.subject]

    def forward(self, *factors: Tensor) -> Tensor:
        with torch.no_grad():
            return self.built.run(*factors)

    def forward_backward(self, *tensors: Tensor) -> Sequence[Tensor]:
        *factors, grad = tensors
        return torch.autograd.grad(self.built.run(*factors), [*factors, *self.built.parameters], grad)

    def factors(self) -> list[Tensor]:
        return [self.random().requires_grad_() for _ in range(self.subject.factors)]

    def random(self) -> Tensor:
        """In the contender's own layout."""
        return self.built.swapped(torch.randn(self.case.shape, device=self.device))


def prepare(case: Case, builder: Builder, device: torch.device) -> Prepared:
    torch.set_float32_matmul_precision("high" if SUBJECTS[case.subject].tf32 else "highest")
    torch.manual_seed(0)
    parameters = SUBJECTS[case.subject].parameters(Algebra(case.algebra), case.channels)
    parameters = [parameter.to(device).requires_grad_() for parameter in parameters]
    return Prepared(case, device, parameters, builder(case, parameters))


def touch(case: Case, builder: Builder, device: torch.device) -> None:
    """Run all that is timed once, so that it is compiled and its result kept on disk."""
    prepared = prepare(case, builder, device)
    factors = prepared.factors()
    prepared.forward(*factors)
    prepared.forward_backward(*factors, prepared.random())


def relative_error(prepared: Prepared) -> float:
    """The largest of result and gradients, on some rows, against plain torch in float64.

    The gradient of the result is zero on the other rows, so what these should add to gradients of parameters is known
    too: nothing.
    """
    case, built = prepared.case, prepared.built
    rows = torch.linspace(0, case.rows - 1, min(case.rows, _CHECKED), device=prepared.device).round().long()
    factors = [torch.randn(case.shape, device=prepared.device) for _ in range(prepared.subject.factors)]
    grad = torch.zeros(case.shape, device=prepared.device)
    grad[rows] = torch.randn(len(rows), *case.shape[1:], device=prepared.device)
    own = [built.swapped(factor).requires_grad_() for factor in factors]
    out = built.run(*own)
    gradients = torch.autograd.grad(out, [*own, *built.parameters], built.swapped(grad))
    got: list[Tensor | None] = [built.swapped(t)[rows] for t in (out.detach(), *gradients[: len(own)])]
    got += built.restored(gradients[len(own) :])

    exact = [t.detach().double().requires_grad_() for t in (*(f[rows] for f in factors), *prepared.parameters)]
    truth = prepared.subject.plain(Algebra(case.algebra))(*exact)
    wanted = [truth.detach(), *torch.autograd.grad(truth, exact, grad[rows].double())]
    errors = [float((a.double() - b).norm() / b.norm()) for a, b in zip(got, wanted, strict=True) if a is not None]
    return max(error if math.isfinite(error) else math.inf for error in errors)


def measure(prepared: Prepared, results: dict[str, Any]) -> None:
    """Add to results, for each mode, bytes and milliseconds, one by one: what was measured before a failure stays."""
    for mode in MODES:
        run, buffers = _calls(prepared, mode)
        times = results[mode] = {}
        if prepared.device.type == "cuda":
            times["peak_bytes"] = peak_bytes(run, buffers[0])
            times["kernel_ms"] = round(replay_milliseconds(run, buffers), 5)


def measure_loops(prepared: dict[str, Prepared], results: dict[str, dict[str, Any]]) -> None:
    """Add, for each mode, milliseconds of calls in a loop, in which all take turns."""
    for mode in MODES:
        found = loops_milliseconds({name: _calls(one, mode) for name, one in prepared.items()})
        for name, milliseconds in found.items():
            results[name].setdefault(mode, {})["loop_ms"] = round(milliseconds, 5)


def _calls(prepared: Prepared, mode: str) -> tuple[Callable[..., Any], list[tuple]]:
    """What a mode runs, and the buffers that it goes through."""
    sets = range(_buffers(prepared))
    if mode == "forward":
        return prepared.forward, [tuple(prepared.factors()) for _ in sets]
    return prepared.forward_backward, [(*prepared.factors(), prepared.random()) for _ in sets]


def _buffers(prepared: Prepared) -> int:
    """So many sets that they are twice as large as the cache, if the case is not too small for that."""
    size = prepared.case.bytes * (prepared.subject.factors + 1)
    return min(_MOST_BUFFERS, max(2, math.ceil(2 * cache_bytes(prepared.device) / size)))


def release(device: torch.device, freeze: bool = True) -> None:
    """Give memory back before the next contender comes; ``freeze`` only while none is alive."""
    gc.collect()
    if freeze:
        # what stays is the compilers' own, and walking over it takes half a second each time
        gc.freeze()
    if device.type == "cuda":
        torch.cuda.empty_cache()
