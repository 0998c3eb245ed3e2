"""Pictures of results: heatmaps of ratios over rows and channels, scaling curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from benchmarks.contenders import OURS
from benchmarks.measure import MODES
from benchmarks.summary import milliseconds, ratio

# Quantities and what they are called; on a CPU there are only times of calls.
_QUANTITIES = {
    "kernel_speedup": "speed-up (device's time)",
    "loop_speedup": "speed-up (with the host's time)",
    "memory_ratio": "peak memory of the other by ours",
}
_MODES = {"forward": "forward", "forward_backward": "forward + backward"}
# Of a curve, what grows along it.
_SIZES = {
    "rows": lambda case: case["rows"],
    "channels": lambda case: case["channels"],
    "blades": lambda case: case["tensor_bytes"] // (4 * case["rows"] * case["channels"]),
}


def draw(folder: Path) -> list[Path]:
    """Draw what the JSON files of a folder hold, beside them."""
    parts = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    parts = {name: content for name, content in parts.items() if "results" in content and "part" in content}
    if not parts:
        raise SystemExit(f"--plot: {folder} holds no results, wanted the folder of --output")
    drawn = []
    for part in ("grid", "small"):
        if part in parts:
            drawn += _heatmaps(parts[part], folder, part)
    if "scaling" in parts:
        drawn.append(_curves(parts["scaling"], folder / "scaling.png"))
    return drawn


def _heatmaps(content: Mapping[str, Any], folder: Path, part: str) -> list[Path]:
    """A picture for each other contender and each quantity that was measured: algebras by modes."""
    cases = content["results"]
    names = dict.fromkeys(name for case in cases for name in case["contenders"] if name != OURS)
    drawn = []
    for name in names:
        for quantity, title in _QUANTITIES.items():
            if not any(ratio(case, name, mode, quantity) for case in cases for mode in MODES):
                continue
            algebras = list(dict.fromkeys(case["algebra"] for case in cases))
            figure, axes = plt.subplots(len(algebras), 2, figsize=(9, 3.4 * len(algebras)), squeeze=False)
            for row, algebra in zip(axes, algebras, strict=True):
                for panel, mode in zip(row, MODES, strict=True):
                    of_algebra = [case for case in cases if case["algebra"] == algebra]
                    _heatmap(panel, of_algebra, name, mode, quantity)
                    panel.set_title(f"{algebra}, {_MODES[mode]}")
            figure.suptitle(f"{OURS} and {name}: {title}\n{content['device']}, float32", fontsize=11)
            drawn.append(_saved(figure, folder / f"{part}-{quantity.replace('_', '-')}-{name}.png"))
    return drawn


def _heatmap(axes: Axes, cases: list[Mapping[str, Any]], name: str, mode: str, quantity: str) -> None:
    rows, channels = (sorted({case[what] for case in cases}) for what in ("rows", "channels"))
    ratios = [[float("nan")] * len(channels) for _ in rows]
    for case in cases:
        i, j = rows.index(case["rows"]), channels.index(case["channels"])
        value = ratio(case, name, mode, quantity)
        other = case["contenders"].get(name, {})
        if value is not None:
            ratios[i][j] = value
        text = f"{value:.1f}x" if value is not None else "wrong" if other.get("wrong") else "-"
        axes.text(j, i, text, ha="center", va="center")
    # one has the middle colour, ten times better or worse the last
    axes.imshow(ratios, cmap="RdYlGn", norm=LogNorm(0.1, 10), aspect="auto", alpha=0.8)
    axes.set_xticks(range(len(channels)), [str(n) for n in channels])
    axes.set_yticks(range(len(rows)), [str(n) for n in rows])
    axes.set_xlabel("channels")
    axes.set_ylabel("rows")


def _curves(content: Mapping[str, Any], path: Path) -> Path:
    """Time by size, on logarithmic axes: what grows linearly runs along the floor."""
    cases = content["results"]
    names = list(dict.fromkeys(case["curve"] for case in cases))
    figure, axes = plt.subplots(2, len(names), figsize=(4.2 * len(names), 7), squeeze=False)
    for column, curve in enumerate(names):
        points = sorted((case for case in cases if case["curve"] == curve), key=_SIZES[curve])
        for row, mode in enumerate(MODES):
            panel = axes[row, column]
            for name in dict.fromkeys(name for case in points for name in case["contenders"]):
                found = [
                    (_SIZES[curve](case), ms)
                    for case in points
                    if (ms := milliseconds(case["contenders"].get(name, {}), mode)) is not None
                    and not case["contenders"][name].get("wrong")
                ]
                if found:
                    panel.plot(*zip(*found, strict=True), marker="o", markersize=4, label=name, zorder=name == OURS)
            floor = [(_SIZES[curve](case), case["floor_ms"][mode]) for case in points]
            panel.plot(*zip(*floor, strict=True), color="grey", linestyle="--", label="bytes / copy bandwidth")
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xlabel(curve)
            panel.set_ylabel("ms")
            panel.set_title(f"{_MODES[mode]}, {_fixed(points, curve)}", fontsize=10)
            panel.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8, loc="upper left")
    figure.suptitle(f"fused operator, {content['device']}, float32", fontsize=11)
    return _saved(figure, path)


def _fixed(points: list[Mapping[str, Any]], curve: str) -> str:
    """The sizes that stay along a curve."""
    case = points[0]
    sizes = {"blades": case["algebra"], "rows": f"{case['rows']} rows", "channels": f"{case['channels']} channels"}
    return ", ".join(text for what, text in sizes.items() if what != curve)


def _saved(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
