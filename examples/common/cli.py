"""One way to run every experiment: `python -m examples.<name> fit --config configs/<name>.yaml`."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from examples.common.checks import within
from examples.common.data import ExperimentData
from examples.common.logs import ContinuedCSVLogger, StepBar
from examples.common.mistakes import check_checkpoint, check_trainer_options, end, in_one_line
from examples.common.report import Report
from examples.common.training import Training

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("fit", "validate", "test")


@dataclass(frozen=True)
class Experiment:
    """What one experiment adds to what all share.

    Parameters
    ----------
    data : type of ExperimentData
        Its `name` is that of the experiment.
    describe : callable
        Adds to the report of a finished run what is this experiment's own.
    """

    data: type[ExperimentData]
    describe: Callable[[Report], None]

    def main(self, args: list[str] | None = None) -> dict[str, float]:
        """Run the command line; return the figures of the report.

        Without a command it is `fit`, without a configuration the small one.
        """
        cli = self.build(sys.argv[1:] if args is None else args)
        return cli.carry_out()

    def build(self, args: list[str]) -> ExperimentCLI:
        """Make trainer, model and data."""
        name = self.data.name
        if not args or args[0] not in COMMANDS:
            args = ["fit", *args]
        if not any(arg in ("-c", "--config", "-h", "--help") or arg.startswith("--config=") for arg in args):
            args = [args[0], "--config", os.path.relpath(ROOT / "configs" / f"{name}_small.yaml"), *args[1:]]
        quiet()
        with in_one_line(name):
            return ExperimentCLI(self, args)


class ExperimentCLI(LightningCLI):
    """Lightning's command line, with the loggers and callbacks that every run gets."""

    def __init__(self, experiment: Experiment, args: list[str]):
        self.experiment = experiment
        self.arguments = args
        super().__init__(
            Training,
            experiment.data,
            args=args,
            seed_everything_default=0,
            trainer_defaults={
                "max_epochs": -1,  # steps decide
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                "log_every_n_steps": 1,
            },
            parser_kwargs={"exit_on_error": False, **{command: {"exit_on_error": False} for command in COMMANDS}},
            save_config_kwargs={"overwrite": True},  # a run that goes on has a configuration already
            auto_configure_optimizers=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name in COMMANDS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--runs", type=str, default="runs", help="folder of the folders of runs")
        parser.add_argument("--run_name", type=str | None, default=None, help="null: the experiment's name")
        parser.add_argument("--threads", type=int | None, default=None, help="CPU threads of torch; null: its choice")
        parser.add_argument(
            "--patience", type=int | None, default=None, help="validations without improvement until training stops"
        )

    def _parse_ckpt_path(self) -> None:
        """Lightning would read hyperparameters from the checkpoint; here the configuration alone says them."""

    def before_instantiate_classes(self) -> None:
        threads = self._get(self.config, "threads")
        within("threads", threads, 1)
        within("patience", self._get(self.config, "patience"), 1)
        if threads is not None:
            torch.set_num_threads(threads)
        self.checkpoint = self._get(self.config, "ckpt_path")
        if self.checkpoint is not None and not Path(self.checkpoint).is_file():
            raise ValueError(f"ckpt_path: there is no file {self.checkpoint}")

    def after_instantiate_classes(self) -> None:
        steps, every = self.trainer.max_steps, self.datamodule.validate_every
        if self.subcommand == "fit" and (steps < 1 or (steps > every and steps % every)):
            raise ValueError(
                f"trainer.max_steps: got {steps}, wanted a positive multiple of data.validate_every, {every}"
            )
        if self.subcommand == "fit":
            self.model.check(self.trainer)
        if self.checkpoint is not None:
            check_checkpoint(self.checkpoint, self.model, whole=self.subcommand == "fit")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        model = self._get(self.config_init, "model")
        if self.subcommand != "fit":  # nothing is written
            self.save_config_callback = None
            return self._instantiate_trainer({**config, "logger": False, **kwargs}, [])
        check_trainer_options(config)
        if config["logger"] is None:
            kwargs["logger"] = self.loggers()
        callbacks: list[Callback] = [*checkpoints(model)]
        if config["enable_progress_bar"] is not False:
            callbacks.append(StepBar())
        patience = self._get(self.config, "patience")
        if patience is not None:
            callbacks.append(EarlyStopping(model.metric("val"), patience=patience, check_on_train_epoch_end=False))
        return self._instantiate_trainer({**config, **kwargs}, callbacks)

    def loggers(self) -> list[CSVLogger | TensorBoardLogger]:
        """CSV and TensorBoard in the run's folder; a run that goes on keeps its folder, if it has one."""
        folder = Path(self._get(self.config, "runs")).resolve()  # checkpoints remember it
        name = self._get(self.config, "run_name") or self.experiment.data.name
        version = None
        if self.checkpoint is not None:
            run = Path(self.checkpoint).resolve().parent.parent
            if (run / "config.yaml").is_file():
                folder, name, version = run.parent.parent, run.parent.name, run.name
        csv = ContinuedCSVLogger(folder, name, version)
        return [csv, TensorBoardLogger(folder, name, csv.version)]

    def fit(self, **kwargs: Any) -> None:
        """Lightning calls this as soon as everything is built; what happens then is no mistake in the arguments."""
        self.keywords = kwargs

    validate = test = fit

    def carry_out(self) -> dict[str, float]:
        """Do what the command says."""
        if self.subcommand != "fit":
            getattr(self.trainer, self.subcommand)(**{**self.keywords, "verbose": False})
            results = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
            for name, value in results.items():
                print(f"{name} {value:.6g}")
            return results
        report = Report(self.experiment.data.name, self.trainer, self.model, self.datamodule)
        with self.folder_of_the_run():
            report.before()
            self.trainer.fit(**self.keywords)
        folder = Path(self.trainer.log_dir or ".")  # all processes have to ask
        if not self.trainer.is_global_zero:
            return {}
        if not (folder / "checkpoints").is_dir():
            end(report.name, "training ended before its first validation: there is nothing to report")
        report.after(folder)
        self.experiment.describe(report)
        report.write(self.arguments)
        return report.figures

    @contextmanager
    def folder_of_the_run(self) -> Iterator[None]:
        """Make it; if within not one step is trained, leave nothing of it behind."""
        folder = Path(self.trainer.log_dir or ".")
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        if not missing or not self.trainer.is_global_zero:
            yield
            return
        try:
            try:
                folder.mkdir(parents=True)
            except OSError as error:
                end(self.experiment.data.name, f"runs: {folder} cannot be made: {error.strerror}")
            yield
        finally:
            if self.trainer.global_step == 0:
                shutil.rmtree(folder, ignore_errors=True)
                for parent in missing[1:]:
                    with suppress(OSError):  # another run has come into it
                        parent.rmdir()


def checkpoints(model: Training) -> list[ModelCheckpoint]:
    """Keep the best state of each network, and the last state of all, to go on from."""
    best = [
        ModelCheckpoint(
            monitor=model.metric("val", name),
            filename=f"best_{name}" if name else "best",
            save_weights_only=True,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        for name, _ in model.networks()
    ]
    # After the best ones, so that it knows their scores.
    last = ModelCheckpoint(filename="last", save_on_train_epoch_end=False, enable_version_counter=False)
    return [*best, last]


def quiet() -> None:
    """What Lightning says about itself would bury what the experiment has to say."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # they are the command line
    warnings.filterwarnings("ignore", message="GPU available but not used")  # as the configuration says
    # the steps that warm a CUDA graph up
    warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
    # every process measures the whole split
    warnings.filterwarnings("ignore", message="It is recommended to use .*sync_dist=True")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists")  # a run that goes on has one
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")  # Lightning's use of torch's pytrees
