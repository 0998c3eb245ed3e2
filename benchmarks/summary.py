"""What a part says in a few numbers: how much faster and smaller ours is than each other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.contenders import OURS
from benchmarks.measure import MODES

# Ratios, another's figure by ours: above one, ours is better.
RATIOS = {"kernel_speedup": "kernel_ms", "loop_speedup": "loop_ms", "memory_ratio": "peak_bytes"}


def ratio(case: Mapping[str, Any], name: str, mode: str, quantity: str) -> float | None:
    """Another's figure by ours, if both were measured and the other's result is right."""
    ours, other = (case["contenders"].get(who, {}) for who in (OURS, name))
    a, b = (result.get(mode, {}).get(RATIOS[quantity]) for result in (ours, other))
    return b / a if a and b and not other.get("wrong") else None


def summary(cases: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """By subject, contender, mode and quantity: median ratio, least ratio and where it is."""
    cases = list(cases)
    result: dict[str, Any] = {}
    for subject in dict.fromkeys(case["subject"] for case in cases):
        of_subject = [case for case in cases if case["subject"] == subject]
        names = dict.fromkeys(name for case in of_subject for name in case["contenders"] if name != OURS)
        result[subject] = {name: _against(of_subject, name) for name in names}
    return result


def _against(cases: list[Mapping[str, Any]], name: str) -> dict[str, Any]:
    others = [case["contenders"][name] for case in cases if name in case["contenders"]]
    result: dict[str, Any] = {
        "wrong": sum(bool(other.get("wrong")) for other in others),
        "fails": sum("fails" in other for other in others),
    }
    for mode in MODES:
        result[mode] = {}
        for quantity in RATIOS:
            ratios = {size(case): r for case in cases if (r := ratio(case, name, mode, quantity)) is not None}
            if ratios:
                least = min(ratios, key=lambda where: ratios[where])
                result[mode][quantity] = {
                    "median": round(statistics.median(ratios.values()), 2),
                    "least": round(ratios[least], 2),
                    "least_at": least,
                    "cases": len(ratios),
                }
    return result


def size(case: Mapping[str, Any]) -> str:
    return f"{case['algebra']} {case['rows']}x{case['channels']}"


def growth(cases: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Of each scaling curve and contender: the power of the size that time grows with, over its last two points."""
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for case in cases:
        if case["curve"]:
            curves.setdefault(case["curve"], []).append(case)
    return {
        curve: {mode: _powers(sorted(points, key=lambda case: case["tensor_bytes"]), mode) for mode in MODES}
        for curve, points in curves.items()
    }


def milliseconds(result: Mapping[str, Any], mode: str) -> float | None:
    """Of the device where it was timed by itself, else of a call."""
    times = result.get(mode, {})
    return times.get("kernel_ms") or times.get("loop_ms")


def _powers(points: list[Mapping[str, Any]], mode: str) -> dict[str, float]:
    powers = {}
    for name in points[-1]["contenders"]:
        known = [
            (case["tensor_bytes"], ms)
            for case in points
            if (ms := milliseconds(case["contenders"].get(name, {}), mode)) is not None
        ]
        if len(known) > 1:
            (a, s), (b, t) = known[-2:]
            powers[name] = round(math.log(t / s) / math.log(b / a), 2)
    return powers


def lines(summary: Mapping[str, Any]) -> list[str]:
    """The summary as a table to read."""
    result = []
    for subject, others in summary.items():
        for name, found in others.items():
            result.append(f"{subject}, {name}: wrong in {found['wrong']}, fails in {found['fails']}")
            for mode in MODES:
                for quantity, r in found[mode].items():
                    slower = "  OURS IS WORSE" if r["least"] < 1 else ""
                    result.append(
                        f"  {mode:16} {quantity:14} median {r['median']:.2f} of {r['cases']}, "
                        f"least {r['least']:.2f} at {r['least_at']}{slower}"
                    )
    return result
