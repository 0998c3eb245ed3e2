"""What a run has to show: figures, pictures, and a page with both, beside its checkpoints."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from lightning import Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.environment import environment, save
from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.testing import equivariance_error, random_versor
from examples.common.data import ExperimentData
from examples.common.logs import read_curve
from examples.common.training import Training

OURS, BASELINES, NEUTRAL = "#2166ac", ("#c0392b", "#e08214", "#7b3294"), "#888888"


class Report:
    """Figures and pictures of a run, collected and then written as Markdown.

    Attributes
    ----------
    figures : dict of float
        By name; what the command returns.
    """

    def __init__(self, name: str, trainer: Trainer, model: Training, data: ExperimentData):
        self.name, self.trainer, self.model, self.data = name, trainer, model, data
        self.figures: dict[str, float] = {}
        self.parts: list[str] = []
        self.lines: list[str] = []

    def before(self) -> None:
        """Measure the untrained network."""
        self.data.prepare_data()
        self.attach()
        self.untrained = self.model.errors("test")[""]

    def after(self, folder: Path) -> None:
        """Take the best state of each network from the run's folder, and measure it on the test set."""
        self.folder = folder
        for name, net in self.model.networks():
            load_best(self.folder / "checkpoints", name, net)
        self.attach()
        self.figures["untrained"] = self.untrained
        for name, error in self.model.errors("test").items():
            self.figures[name or "trained"] = error

    def attach(self) -> None:
        """Outside of Lightning's loops too, the model is on the trainer's device, and knows its trainer and data."""
        self.trainer.datamodule = self.data  # type: ignore[attr-defined]
        self.model.trainer = self.trainer
        self.trainer.precision_plugin.convert_module(self.model)
        self.model.to(self.trainer.strategy.root_device)

    def networks(self) -> Iterator[tuple[str, nn.Module]]:
        """The trained network and the baselines, by the names that their figures have."""
        return ((name or "trained", net) for name, net in self.model.networks())

    def predictions(self) -> dict[str, Tensor]:
        """What each network, at its best, says about the test set."""
        *inputs, _ = self.data.on(self.model.device, self.model.dtype, "test")
        return {name: self.model.predict(net, *inputs).cpu() for name, net in self.networks()}

    def say(self, text: str) -> None:
        """Add a paragraph, which is printed as well."""
        self.parts.append(text)
        self.lines += [text, ""]

    def table(self, head: list[str], rows: list[list[str]]) -> None:
        """Add a table, which is printed as well."""
        lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
        self.parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
        widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
        for row in [head, *rows]:
            cells = [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
            self.lines.append("    ".join(cells).rstrip())
        self.lines.append("")

    def errors_table(self, reference: str) -> None:
        """Add the table of all figures, each beside how many times smaller it is than that of a reference."""
        rows = [
            [name, f"{error:.4g}", f"{self.figures[reference] / error:.1f}x"] for name, error in self.figures.items()
        ]
        self.table(["", f"test {self.model.loss.upper()}", f"{reference} / this"], rows)

    def picture(self, figure: Figure, name: str, caption: str) -> None:
        """Add a picture, saved in the run's folder."""
        figure.savefig(self.folder / f"{name}.png", dpi=130)
        plt.close(figure)
        self.show(f"{name}.png", caption)

    def show(self, file: str, caption: str) -> None:
        """Add a picture that lies in the run's folder."""
        self.parts.append(f"![{caption}]({file})\n\n*{caption}*")

    def equivariance(
        self, algebra: str, grades: tuple[int, ...], out: int, part: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Add how far predictions are from following versors, even and odd, in float64: the largest relative error.

        Parameters
        ----------
        algebra : str
        grades : tuple of int
            Of each of the network's inputs: components last, but for scalars and pseudoscalars.
        out : int
            Grade of the prediction.
        part : callable, optional
            Takes from a prediction what is of that grade.
        """
        algebra_ = Algebra(algebra)
        network = copy.deepcopy(self.model.net).cpu().double().eval()
        *inputs, _ = (x[:100].cpu() for x in self.data.tensors("test"))

        def to(x: Tensor, grade: int) -> Tensor:
            return F.embed(x[..., None, None] if algebra_.grade_sizes[grade] == 1 else x[..., None], grade, algebra_)

        def back(x: Tensor, grade: int) -> Tensor:
            x = F.extract(x, grade, algebra_).squeeze(-1)
            return x.squeeze(-1) if algebra_.grade_sizes[grade] == 1 else x

        def predict(*x: Tensor) -> Tensor:
            prediction = network(*map(back, x, grades))
            return to(prediction if part is None else part(prediction), out)

        multivectors = [to(x.double(), grade) for x, grade in zip(inputs, grades, strict=True)]
        generator = torch.Generator().manual_seed(0)
        versors = [random_versor(algebra, odd, generator) for odd in (False, True) for _ in range(3)]
        with torch.no_grad():
            errors = [equivariance_error(predict, algebra, *multivectors, versor=versor) for versor in versors]
        self.figures["equivariance"] = max(map(max, errors))
        self.say(f"equivariance error {self.figures['equivariance']:.1e} (relative, float64, even and odd versors)")

    def learning_curves(self, **levels: float) -> None:
        """Add training and validation error of each network against steps, and horizontal lines at some levels."""
        figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
        log = self.folder / "metrics.csv"
        for (name, _), colour in zip(self.model.networks(), (OURS, *BASELINES), strict=False):
            axis.plot(*read_curve(log, self.model.metric("train", name)), color=colour, linewidth=1, alpha=0.4)
            steps, errors = read_curve(log, self.model.metric("val", name))
            axis.plot(steps, errors, color=colour, marker=".", label=f"{name or 'this network'}, validation")
        for (label, level), style in zip(levels.items(), (":", "--", "-."), strict=False):
            axis.axhline(level, color=NEUTRAL, linestyle=style, label=label.replace("_", " "))
        axis.set(xlabel="step", ylabel=f"{self.model.loss.upper()}", yscale="log")
        axis.legend(frameon=False, fontsize=8)
        self.picture(figure, "learning_curve", "Error against steps; faint: training.")

    def record(self, arguments: list[str]) -> dict[str, Any]:
        """The figures, and what they came from: seconds are those of training, CPU seconds those of the process."""
        return {
            **environment(gpu=self.trainer.strategy.root_device.type == "cuda"),
            "command": f"python -m examples.{self.name} {' '.join(arguments)}",
            "steps": self.trainer.global_step,
            "batch": self.data.batch_size,
            "parameters": sum(p.numel() for p in self.model.net.parameters()),
            "seconds": round(self.model.seconds, 1),
            "cpu_seconds": round(time.process_time(), 1),
            "figures": self.figures,
        }

    def write(self, arguments: list[str]) -> None:
        """Print the tables, write the page and the record."""
        record = self.record(arguments)
        facts = (
            f"{record['steps']} steps of {record['batch']} samples in {record['seconds']:.0f} s on {record['device']}, "
            f"torch {torch.__version__}; {record['parameters']:,} parameters."
        )
        page = [f"# {self.name}", f"    {record['command']}", facts, *self.parts]
        (self.folder / "report.md").write_text("\n\n".join(page) + "\n")
        save(self.folder / "figures.json", record)
        print("\n" + "\n".join(self.lines) + facts)
        print(f"report, pictures, checkpoints, logs and configuration in {os.path.relpath(self.folder)}")


def load_best(folder: Path, name: str, net: nn.Module) -> None:
    """Take the best state of one network from its checkpoint."""
    path = folder / (f"best_{name}.ckpt" if name else "best.ckpt")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    prefix = f"baselines.{name}." if name else "net."
    net.load_state_dict({key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)})
