"""What a run has to show: a table and two pictures."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor

POSITIVE, NEGATIVE, NEUTRAL = "#c0392b", "#2166ac", "#888888"


def print_table(results: dict[str, float], folder: Path) -> None:
    """Print test errors, each beside how many times smaller it is than that of constant velocity."""
    baseline = results["constant velocity"]
    print(f"\n{'':26}{'test MSE':>10}{'':4}{'improvement':>12}")
    for name in ("constant velocity", "untrained", "trained"):
        print(f"{name:26}{results[name]:10.4f}{'':4}{baseline / results[name]:11.1f}x")
    print(f"\nequivariance error {results['equivariance']:.1e} (relative, float64, rotations and reflections)")
    print(f"pictures, checkpoints, metrics and configuration in {folder}")


def plot_trajectories(path: Path, charges: Tensor, paths: Tensor, predictions: Tensor, straight: Tensor) -> None:
    """Draw true paths, predictions and constant velocity for a few test systems.

    Parameters
    ----------
    path : Path
        The picture.
    charges : Tensor
        ``(systems, particles)``.
    paths : Tensor
        ``(systems, frames, particles, 3)``, the last frame being the target.
    predictions, straight : Tensor
        ``(systems, particles, 3)``, of the model and of constant velocity.
    """
    q, true, model, line = (x.numpy() for x in (charges, paths, predictions, straight))
    # Systems that are easy, harder and hard for constant velocity; on the very hardest, particles collide.
    errors = ((line - true[:, -1]) ** 2).mean((1, 2))
    order = np.argsort(errors)
    chosen = [order[int(quantile * len(order))] for quantile in (0.5, 0.75, 0.9)]

    figure, axes = plt.subplots(1, 3, figsize=(12, 4.4), layout="constrained")
    for axis, system in zip(axes, chosen, strict=True):
        plane = widest_plane(true[system])
        for particle, charge in enumerate(q[system]):
            colour = POSITIVE if charge > 0 else NEGATIVE
            x, y = (true[system, :, particle] @ plane).T
            axis.plot(x, y, color=colour, linewidth=2)
            axis.plot(x[0], y[0], ".", color=colour, markersize=7)
            axis.plot(x[-1], y[-1], "o", color=colour, markersize=9)
            axis.plot(*(model[system, particle] @ plane), "x", color="black", markersize=8, markeredgewidth=2)
            straight_end = line[system, particle] @ plane
            axis.plot([x[0], straight_end[0]], [y[0], straight_end[1]], ":", color=NEUTRAL, linewidth=1)
            axis.plot(*straight_end, "o", color=NEUTRAL, markersize=7, fillstyle="none")
        error = ((model[system] - true[system, -1]) ** 2).mean()
        axis.set_title(f"MSE {error:.4f}, constant velocity {errors[system]:.4f}", fontsize=10)
        axis.set_aspect("equal", adjustable="datalim")
        axis.tick_params(labelsize=8)
    figure.legend(handles=trajectory_legend(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def widest_plane(positions: np.ndarray) -> np.ndarray:
    """Orthonormal basis, (3, 2), of the plane in which positions (..., 3) spread most."""
    points = positions.reshape(-1, 3)
    return np.linalg.svd(points - points.mean(0), full_matrices=False)[2][:2].T


def trajectory_legend() -> list[plt.Line2D]:
    """One entry for everything that is drawn."""

    def entry(label: str, **style: object) -> plt.Line2D:
        return plt.Line2D([], [], label=label, **style)  # type: ignore[arg-type]

    return [
        entry("true path, positive charge", color=POSITIVE, marker="o", linewidth=2),
        entry("negative charge", color=NEGATIVE, marker="o", linewidth=2),
        entry("prediction", color="black", marker="x", markeredgewidth=2, linestyle="none"),
        entry("constant velocity", color=NEUTRAL, marker="o", fillstyle="none", linestyle=":"),
    ]


def plot_learning_curve(path: Path, metrics: Path, results: dict[str, float]) -> None:
    """Draw training and validation error against steps, with the constant-velocity baseline.

    Parameters
    ----------
    path : Path
        The picture.
    metrics : Path
        The CSV log of the run.
    results : dict
        Test errors by name.
    """
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for split, style in (("train", {"color": NEUTRAL, "linewidth": 1}), ("val", {"color": NEGATIVE, "marker": "o"})):
        steps, errors = read_curve(metrics, f"{split}/mse")
        axis.plot(steps, errors, label={"train": "training", "val": "validation"}[split], **style)
    axis.axhline(results["constant velocity"], color=POSITIVE, linestyle=":", label="constant velocity (test)")
    axis.axhline(results["trained"], color="black", linestyle="--", linewidth=1, label="best checkpoint (test)")
    axis.set(xlabel="step", ylabel="mean squared error", yscale="log")
    axis.legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def read_curve(metrics: Path, name: str) -> tuple[list[int], list[float]]:
    """Read steps and values of one quantity from a CSV log; rows without it are those of others."""
    with metrics.open(newline="") as file:
        rows = [(int(row["step"]), float(row[name])) for row in csv.DictReader(file) if row.get(name)]
    return [step for step, _ in rows], [value for _, value in rows]
