"""The picture of the n-body experiment."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

POSITIVE, NEGATIVE, NEUTRAL = "#c0392b", "#2166ac", "#888888"


def plot_trajectories(charges: Tensor, paths: Tensor, predictions: Tensor, straight: Tensor) -> Figure:
    """Draw true paths, predictions and constant velocity for a few test systems.

    Parameters
    ----------
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
    return figure


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
