"""Where will four vortices be? In the plane, their vorticity is a pseudoscalar: in a mirror it changes its sign.

Each point vortex is carried along by the flow that the others make, round and round. Positions and velocities are
vectors; vorticity is no scalar, although it is one number: seen in a mirror, a vortex turns the other way. A network
of multivectors is told so by embedding vorticity in grade 2, and then needs no examples of mirrored flows. Beside it
here: the same network with vorticity as a scalar, and a perceptron without any symmetry. All are trained on vortices
that turn one way, as the storms of one hemisphere do, in systems that are longer from west to east than from north to
south; and tested on such systems, mirrored, and turned.

    python -m examples.vortices_o2 fit --config configs/vortices_o2_small.yaml    # two minutes on a CPU
    python -m examples.sweep vortices_o2 --config configs/vortices_o2_small.yaml --sizes 64 256 1024
"""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from examples.common.cli import Experiment
from examples.common.data import SampledData
from examples.common.networks import ParticleNetwork
from examples.common.report import BASELINES, OURS, Report

ALGEBRA = "R2"
VORTICES = 4
# Systems in the animation, and the moments of their paths.
SHOWN, MOMENTS = 3, 121


class VortexNetwork(ParticleNetwork):
    """Predict positions from vorticities, positions and velocities.

    Parameters
    ----------
    channels, layers : int
        As of `ParticleNetwork`.
    vorticity_grade : int
        2: a pseudoscalar, as it should be. 0: a scalar.
    """

    def __init__(self, channels: int, layers: int, vorticity_grade: int = 2):
        super().__init__(ALGEBRA, vorticity_grade, channels, layers)


def velocities_of(vorticities: np.ndarray, positions: np.ndarray) -> np.ndarray:
    r"""Velocity of each vortex in the flow of the others.

    .. math:: v_i = \sum_{j \neq i} \gamma_j \frac{J (x_i - x_j)}{|x_i - x_j|^2}

    with J a quarter turn to the left, and :math:`\gamma` the circulation over :math:`2 \pi`.

    Parameters
    ----------
    vorticities : ndarray, (..., vortices)
    positions : ndarray, (..., vortices, 2)
    """
    r = positions[..., :, None, :] - positions[..., None, :, :]
    square = (r * r).sum(-1)
    np.einsum("...ii->...i", square)[:] = np.inf  # nothing from itself
    turned = np.stack([-r[..., 1], r[..., 0]], -1)
    return (turned * (vorticities[..., None, :] / square)[..., None]).sum(-2)


def integrate(vorticities: np.ndarray, positions: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Positions of one system at some times, ``(times, vortices, 2)``."""

    def flow(_: float, x: np.ndarray) -> np.ndarray:
        return velocities_of(vorticities, x.reshape(-1, 2)).ravel()

    solution = solve_ivp(flow, (0, times[-1]), positions.ravel(), "DOP853", times, rtol=1e-10, atol=1e-10)
    return solution.y.T.reshape(len(times), -1, 2)


class VortexData(SampledData):
    """Systems of vortices, and where they are a time later.

    Parameters
    ----------
    horizon : float
        Time from input to target.
    **options
        As of all sampled data.
    """

    name = "vortices_o2"

    def __init__(self, horizon: float = 1.0, **options: Any):
        super().__init__(**options)
        if not horizon > 0:
            raise ValueError(f"data.horizon: got {horizon}, wanted a positive time")
        self.horizon = horizon

    def recipe(self) -> dict[str, Any]:
        return {**super().recipe(), "horizon": self.horizon}

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        systems = [draw_system(rng) for _ in range(count)]
        times = np.array([0.0, self.horizon])
        vorticities, starts = (np.stack(parts) for parts in zip(*systems, strict=True))
        ends = np.stack([integrate(*system, times)[-1] for system in systems])
        velocities = velocities_of(vorticities, starts)
        return {"vorticities": vorticities, "positions": starts, "velocities": velocities, "targets": ends}


def draw_system(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Vorticities of one sign, and positions of which no two are closer than 0.6."""
    vorticities = rng.uniform(0.5, 1.5, VORTICES)
    while True:
        positions = rng.normal(size=(VORTICES, 2)) * (1.6, 0.6)
        r = positions[:, None] - positions
        if (np.linalg.norm(r, axis=-1) + 10 * np.eye(VORTICES)).min() > 0.6:
            return vorticities, positions


def turned(tensors: tuple[Tensor, ...], angle: float, mirror: bool = False) -> tuple[Tensor, ...]:
    """The same systems turned by an angle, or first seen in a mirror."""
    vorticities, *vectors = tensors
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[cos, sin], [-sin, cos]], device=vorticities.device, dtype=vorticities.dtype)
    if mirror:
        vorticities = -vorticities
        matrix = matrix.new_tensor([[1.0, 0.0], [0.0, -1.0]]) @ matrix
    return vorticities, *(x @ matrix for x in vectors)


def describe(report: Report) -> None:
    """What this experiment has to show."""
    data, model = report.data, report.model
    test = data.on(model.device, model.dtype, "test")
    straight = test[1] + data.horizon * test[2]
    report.figures = {"constant velocity": nn.functional.mse_loss(straight, test[-1]).item(), **report.figures}
    report.errors_table("constant velocity")

    angles = torch.linspace(0, math.pi, 13).tolist()
    names = {"trained": "this network"} | {name: name for name in model.baselines}
    curves = {name: [model.error_of(net, turned(test, a)) for a in angles] for name, net in report.networks()}
    mirrored = {name: model.error_of(net, turned(test, 0.0, mirror=True)) for name, net in report.networks()}
    rows = []
    for name, curve in curves.items():
        report.figures[f"{name}, mirrored"] = mirrored[name]
        report.figures[f"{name}, turned"] = curve[len(curve) // 2]
        rows.append([names[name], *(f"{x:.4g}" for x in (curve[0], mirrored[name], curve[len(curve) // 2]))])
    report.table(["test MSE", "as trained", "mirrored", "turned by 90°"], rows)
    report.equivariance(ALGEBRA, (2, 1, 1), 1)
    report.picture(
        plot_generalisation({names[name]: (mirrored[name], curve) for name, curve in curves.items()}, angles),
        "generalisation",
        "Test error on mirrored systems, and on systems turned out of the orientation of the training set.",
    )
    report.learning_curves(constant_velocity=report.figures["constant velocity"])
    animate(report)


def plot_generalisation(errors: dict[str, tuple[float, list[float]]], angles: list[float]) -> Figure:
    """Bars for the mirror, curves for the angles."""
    figure, (bars, curves) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for k, (colour, (name, (mirrored, curve))) in enumerate(zip((OURS, *BASELINES), errors.items(), strict=False)):
        bars.bar([k - 0.2, k + 0.2], [curve[0], mirrored], 0.36, color=colour, hatch=["", "//"], edgecolor="white")
        curves.plot([math.degrees(a) for a in angles], curve, color=colour, marker=".", label=name)
    bars.set(yscale="log", ylabel="test MSE", title="as trained, and (hatched) mirrored")
    bars.set_xticks(range(len(errors)), list(errors))
    curves.set(yscale="log", xlabel="turned by, degrees", title="turned")
    curves.legend(frameon=False, fontsize=8)
    return figure


def animate(report: Report) -> None:
    """Add an animation: true vortices, and what was forecast for the moment one horizon before."""
    data, model = report.data, report.model
    vorticities, starts = (data.arrays[f"test_{part}"][:SHOWN] for part in ("vorticities", "positions"))
    times = np.linspace(0, 4 * data.horizon, MOMENTS)
    paths = np.stack([integrate(*system, times) for system in zip(vorticities, starts, strict=True)])
    ahead = (MOMENTS - 1) // 4
    forecasts = []
    with torch.no_grad():
        for moment in range(MOMENTS - ahead):
            x = paths[:, moment]
            inputs = (vorticities, x, velocities_of(vorticities, x))
            tensors = [torch.from_numpy(array).to(model.device, model.dtype) for array in inputs]
            forecasts.append(model.net(*tensors).float().cpu().numpy())

    figure, axes = plt.subplots(1, SHOWN, figsize=(7.5, 2.7), layout="constrained")
    drawn = []
    for axis, path in zip(axes, paths, strict=True):
        reach = 1.1 * np.abs(path - path.mean((0, 1))).max()
        x, y = path.mean((0, 1))
        axis.set(xlim=(x - reach, x + reach), ylim=(y - reach, y + reach), aspect="equal", xticks=[], yticks=[])
        tails = [axis.plot([], [], color=OURS, linewidth=1, alpha=0.5)[0] for _ in range(VORTICES)]
        true = axis.plot([], [], "o", color=OURS, markersize=7)[0]
        forecast = axis.plot([], [], "x", color="black", markersize=7, markeredgewidth=1.5)[0]
        drawn.append((tails, true, forecast))
    figure.suptitle("vortices (blue) and forecasts made one horizon before (black)", fontsize=9)

    def frame(k: int) -> None:
        for (tails, true, forecast), path, predicted in zip(
            drawn, paths, np.swapaxes(np.stack(forecasts), 0, 1), strict=True
        ):
            for vortex, tail in enumerate(tails):
                tail.set_data(*path[max(0, k + ahead - 20) : k + ahead + 1, vortex].T)
            true.set_data(*path[k + ahead].T)
            forecast.set_data(*predicted[k].T)

    # Every second moment is enough to the eye, and half the bytes.
    animation = FuncAnimation(figure, frame, range(0, MOMENTS - ahead, 2))  # type: ignore[arg-type]
    animation.save(report.folder / "vortices.gif", PillowWriter(fps=12), dpi=60)
    plt.close(figure)
    report.show("vortices.gif", "Vortices of the test set, and where they were forecast to be.")


EXPERIMENT = Experiment(VortexData, describe)
main = EXPERIMENT.main

if __name__ == "__main__":
    main()
