"""Logs and progress that count optimiser steps, also those before a checkpoint."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import CSVLogger
from tqdm import tqdm


class ContinuedCSVLogger(CSVLogger):
    """Lightning's log as CSV, which keeps the rows of the run that goes on, up to where it goes on.

    The logger of Lightning empties a folder that it finds in use.
    """

    def __init__(self, save_dir: str | Path, name: str, version: str | None = None):
        super().__init__(save_dir, name, version, flush_logs_every_n_steps=1)
        self.earlier = read_rows(Path(self.log_dir) / "metrics.csv") if version is not None else []

    def keep(self, last_step: int) -> None:
        """Write the earlier rows again, those after a step excepted: these steps are done anew."""
        earlier, self.earlier = self.earlier, []
        for row in earlier:
            if row["step"] <= last_step:
                values = {name: value for name, value in row.items() if name != "step"}
                self.log_metrics(values, step=int(row["step"]))

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        # Lightning's writer removes the old file and says so; its rows are read already.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Experiment logs directory .* exists")
            return super().experiment


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a CSV log, without what is empty in them."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def read_curve(path: Path, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one quantity in a CSV log."""
    rows = [row for row in read_rows(path) if name in row]
    return [int(row["step"]) for row in rows], [row[name] for row in rows]


class StepBar(ProgressBar):
    """One bar for the whole training."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self.bar: tqdm | None = None

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.enabled:
            self.bar = tqdm(
                total=trainer.max_steps, initial=trainer.global_step, desc="Training", unit=" steps", leave=True
            )

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.bar is not None:
            latest = getattr(pl_module, "latest", {})
            self.bar.set_postfix({name: f"{value:.3g}" for name, value in latest.items()}, refresh=False)
            self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar is not None:
            self.bar.close()
