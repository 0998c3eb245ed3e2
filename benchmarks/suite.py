"""A part of the suite: ours is checked at all sizes, then all contenders are measured at each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch

from benchmarks.cases import SUBJECTS, Case
from benchmarks.contenders import OURS, Builder, Contenders
from benchmarks.measure import MODES, Prepared, measure, measure_loops, prepare, relative_error, release
from benchmarks.summary import milliseconds
from benchmarks.warm import Task, one_line


def check_ours(cases: list[Case], contenders: Contenders, device: torch.device) -> None:
    """Exit if a result or a gradient of ours is wrong: then nothing is measured."""
    for case in cases:
        prepared = prepare(case, contenders[OURS][case.subject], device)
        error = relative_error(prepared)
        del prepared
        release(device)
        if not error < SUBJECTS[case.subject].tolerance:
            raise SystemExit(f"{case}: relative error {error:.1e}; nothing is measured where a result is wrong")
    print(f"{OURS} is right in {len(cases)} cases", flush=True)


def run(
    cases: list[Case],
    contenders: Contenders,
    device: torch.device,
    bandwidth: float,
    left_out: set[Task],
) -> Iterator[dict[str, Any]]:
    """Results, case by case."""
    start = time.perf_counter()
    for number, case in enumerate(cases, 1):
        result: dict[str, Any] = {**asdict(case), "tensor_bytes": case.bytes, "contenders": {}}
        passes = zip(MODES, SUBJECTS[case.subject].passes, strict=True)
        result["floor_ms"] = {mode: round(count * case.bytes / bandwidth * 1e3, 6) for mode, count in passes}
        ready: dict[str, Prepared] = {}
        for name, builders in contenders.items():
            if name != OURS and (replace(case, curve=""), name) in left_out:
                result["contenders"][name] = {"fails": "left out: not compiled in the time given"}
            elif case.subject in builders:
                result["contenders"][name], prepared = _one(case, name, builders[case.subject], device)
                if prepared is not None:
                    ready[name] = prepared
        _loops(ready, result["contenders"])
        prepared, ready = None, {}
        release(device)
        clock = time.perf_counter() - start
        print(f"[{clock:4.0f} s] {number}/{len(cases)} {case}: {_line(result['contenders'])}", flush=True)
        yield result


def _one(case: Case, name: str, builder: Builder, device: torch.device) -> tuple[dict[str, Any], Prepared | None]:
    """What was measured of a contender, and the contender, if it did not fail."""
    result: dict[str, Any] = {}
    prepared = None
    try:
        prepared = prepare(case, builder, device)
        result["relative_error"] = error = relative_error(prepared)
        result["wrong"] = not error < SUBJECTS[case.subject].tolerance
        if result["wrong"] and name == OURS:
            raise SystemExit(f"{case}: relative error {error:.1e}; nothing is reported on a wrong result")
        measure(prepared, result)
    except Exception as failure:
        if name == OURS:
            raise
        result["fails"] = one_line(failure)
    release(device, freeze=False)
    # one that can't be captured in a graph can be called in a loop
    return result, prepared if "wrong" in result else None


def _loops(ready: dict[str, Prepared], results: dict[str, dict[str, Any]]) -> None:
    """Measure loops; if that fails, of each contender alone, so that who fails is found."""
    try:
        measure_loops(ready, results)
    except Exception:
        for name, prepared in ready.items():
            try:
                measure_loops({name: prepared}, results)
            except Exception as failure:
                if name == OURS:
                    raise
                results[name].setdefault("fails", one_line(failure))


def _line(contenders: dict[str, dict[str, Any]]) -> str:
    def told(result: dict[str, Any]) -> str:
        times: list[float | None] = [milliseconds(result, mode) for mode in MODES]
        text = "/".join("-" if t is None else f"{t:.4g}" for t in times) + " ms"
        return text + (" WRONG" if result.get("wrong") else "") + (f" ({result['fails']})" if "fails" in result else "")

    return ", ".join(f"{name} {told(result)}" for name, result in contenders.items())
