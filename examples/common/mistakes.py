"""What can be wrong with the arguments of an experiment, and how it is said: in one line, with exit code 2."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from lightning import LightningModule
from lightning.fabric.utilities.exceptions import MisconfigurationException

# What parsers, Lightning, torch (RuntimeError) and constructors raise on what they can't use.
MISTAKES = (
    argparse.ArgumentError,
    MisconfigurationException,
    ImportError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
# Where a batch of Lightning's loop is a block of steps, its options for batches and epochs have no meaning; and the
# report needs log and checkpoints.
TRAINER_OPTIONS: dict[str, tuple[Any, ...]] = {
    "accumulate_grad_batches": (1,),
    "barebones": (False,),
    "check_val_every_n_epoch": (1,),
    "enable_checkpointing": (None, True),
    "fast_dev_run": (False,),
    "gradient_clip_val": (None,),
    "limit_train_batches": (None,),
    "limit_val_batches": (None,),
    "max_epochs": (-1,),
    "overfit_batches": (0,),
    "val_check_interval": (None,),
}


@contextmanager
def in_one_line(name: str) -> Iterator[None]:
    """Within, where nothing is computed yet, errors are mistakes in the arguments."""
    try:
        yield
    except MISTAKES as error:
        text = " ".join(str(error).split())
        # without jsonargparse's list of all types that a value might have had
        end(name, re.sub(r"Does not validate against any of the Union subtypes.* Given value: ", "cannot be ", text))


def end(name: str, text: str) -> NoReturn:
    """Leave the program, saying why."""
    print(f"{name}: {text}", file=sys.stderr)
    sys.exit(2)


def check_trainer_options(config: Mapping[str, Any]) -> None:
    """Complain about what experiments don't do."""
    for name, allowed in TRAINER_OPTIONS.items():
        if config[name] not in allowed:
            hint = ", and model.clip" if "clip" in name else ""
            raise ValueError(f"trainer.{name}: got {config[name]}, wanted {json.dumps(allowed[0])}{hint}")
    if config["logger"] is False:
        raise ValueError("trainer.logger: got False, wanted null or loggers")


def check_checkpoint(path: str, model: LightningModule, whole: bool) -> None:
    """Complain about a file that is no checkpoint, one of another model, or weights where the whole is wanted."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state = checkpoint["state_dict"]
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError):
        raise ValueError(f"ckpt_path: {path} is no checkpoint of an experiment") from None
    wanted = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    got = {name: tuple(x.shape) for name, x in state.items()}
    for name in sorted(wanted.keys() | got.keys()):
        if wanted.get(name) != got.get(name):
            raise ValueError(
                f"ckpt_path: {path} is of another model: {name} has shape {got.get(name, 'none')} there, "
                f"{wanted.get(name, 'none')} here"
            )
    if whole and "optimizer_states" not in checkpoint:
        raise ValueError(f"ckpt_path: {path} holds weights alone, training goes on from a last.ckpt")
