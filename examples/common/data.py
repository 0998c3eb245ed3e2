"""Data that lie on the device as a whole, and which of them make the batch of a step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from torch import Tensor

from examples.common.cache import Arrays, load_or_make
from examples.common.checks import within

SPLITS = ("train", "val", "test")


class ExperimentData(L.LightningDataModule):
    """Made once, cached in a file, kept on the device.

    A subclass says what the data depend on (`recipe`), how they are made (`generate`), and what of them the networks
    get (`tensors`).

    Parameters
    ----------
    folder : str
        Where the data are cached. It is created if the folder that holds it is there.
    batch_size : int
        Samples in one step, of each process.
    validate_every : int
        Steps between two validations; checkpoints are written after each.
    block : int
        Steps in one call of `training_step`: Lightning's loop costs its time once a block.
    limit : int, optional
        Train on the first so many samples alone.
    seed : int
        Of the order of the samples.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1  # to raise whenever a change of the code changes the numbers

    def __init__(
        self,
        folder: str = "data",
        batch_size: int = 32,
        validate_every: int = 100,
        block: int = 32,
        limit: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        counts = {"batch_size": batch_size, "validate_every": validate_every, "block": block, "limit": limit}
        for argument, value in counts.items():
            within(f"data.{argument}", value, 1)
        within("data.seed", seed, 0)
        self.folder = Path(folder)
        if not self.folder.absolute().parent.is_dir():
            raise ValueError(f"data.folder: got {folder}, but there is no folder {self.folder.parent} to create it in")
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"data.folder: got {folder}, which is no folder")
        self.batch_size = batch_size
        self.validate_every = validate_every
        self.block = block
        self.limit = limit
        self.seed = seed
        self.arrays: Arrays = {}
        self._placed: dict[Any, tuple[Tensor, ...]] = {}

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the numbers."""
        raise NotImplementedError

    def generate(self) -> Arrays:
        """Make the data, which are cached."""
        raise NotImplementedError

    def tensors(self, split: str) -> tuple[Tensor, ...]:
        """Inputs and, last, targets of `train`, `val` or `test`, along their first dimension the samples."""
        raise NotImplementedError

    def training_size(self) -> int:
        """How many samples are trained on."""
        size = len(self.tensors("train")[-1])
        return size if self.limit is None else min(size, self.limit)

    @property
    def loss_unit(self) -> float:
        """The loss of raw targets, as a multiple of that of the targets that the networks see."""
        return 1.0

    def prepare_data(self) -> None:
        text = json.dumps([self.name, self.version, self.recipe()], sort_keys=True)
        fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
        if not self.arrays:
            path = self.folder / f"{self.name}-{fingerprint}.npz"
            self.arrays = load_or_make(path, fingerprint, self.generate)

    def setup(self, stage: str) -> None:
        self.prepare_data()

    def on(self, device: torch.device, dtype: torch.dtype, split: str) -> tuple[Tensor, ...]:
        """The tensors of a split, on a device; floating ones in a dtype."""
        key = device, dtype, split
        if key not in self._placed:
            size = self.training_size() if split == "train" else None
            self._placed[key] = tuple(
                x[:size].to(device, dtype if x.is_floating_point() else None) for x in self.tensors(split)
            )
        return self._placed[key]

    def train_dataloader(self) -> Blocks:
        assert self.trainer is not None
        return Blocks(min(self.validate_every, self.trainer.max_steps), self.block)

    def val_dataloader(self) -> Blocks:
        return Blocks(1, 1)  # the whole split at once

    def test_dataloader(self) -> Blocks:
        return Blocks(1, 1)


class SampledData(ExperimentData):
    """Independent samples of a distribution; a smaller set is a part of a larger.

    Parameters
    ----------
    train, val, test : int
        Samples.
    data_seed : int
        Of the generator that draws them.
    **options
        As of every experiment's data.
    """

    def __init__(self, train: int = 1024, val: int = 512, test: int = 512, data_seed: int = 0, **options: Any):
        super().__init__(**options)
        self.counts = dict(zip(SPLITS, (train, val, test), strict=True))
        for split, count in self.counts.items():
            within(f"data.{split}", count, 1)
        within("data.data_seed", data_seed, 0)
        self.data_seed = data_seed

    def recipe(self) -> dict[str, Any]:
        return {"counts": self.counts, "seed": self.data_seed}

    def draw(self, rng: np.random.Generator, count: int) -> Arrays:
        """Draw so many samples: inputs and, last, targets, by name."""
        raise NotImplementedError

    def generate(self) -> Arrays:
        arrays = {}
        for number, (split, count) in enumerate(self.counts.items()):
            drawn = self.draw(np.random.default_rng([self.data_seed, number]), count)
            arrays |= {f"{split}_{part}": array for part, array in drawn.items()}
        return arrays

    def tensors(self, split: str) -> tuple[Tensor, ...]:
        arrays = [array for name, array in self.arrays.items() if name.startswith(f"{split}_")]
        return tuple(torch.from_numpy(array).float() for array in arrays)


class Blocks:
    """What Lightning's loop goes through instead of batches: numbers of steps."""

    def __init__(self, steps: int, block: int):
        self.sizes = [block] * (steps // block) + [steps % block] * (steps % block > 0)

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[int]:
        return iter(self.sizes)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: which samples come next, the number of steps done says."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Tells Lightning that a run can go on from here."""


class Shuffle:
    """Pass after pass through the samples, each in another order.

    The batch of a step depends on seed and step alone, so a run that goes on from a checkpoint sees what it would
    have seen.

    Parameters
    ----------
    size : int
        Number of samples.
    batch_size : int
        Samples in a step of one process.
    seed : int
    rank, world_size : int
        Of several processes, each gets its part of the step's samples.

    Examples
    --------
    >>> import torch
    >>> from examples.common.data import Shuffle
    >>> shuffle = Shuffle(size=6, batch_size=2, seed=0)
    >>> sorted(shuffle(step=3, count=3, device=torch.device("cpu")).flatten().tolist())
    [0, 1, 2, 3, 4, 5]
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self._orders: dict[int, Tensor] = {}

    def __call__(self, step: int, count: int, device: torch.device) -> Tensor:
        """Indices of the samples of so many steps from this one on, ``(count, batch_size)``."""
        whole = self.batch_size * self.world_size
        start, end = step * whole, (step + count) * whole
        passes = range(start // self.size, (end - 1) // self.size + 1)
        self._orders = {k: self._orders[k] if k in self._orders else self._order(k).to(device) for k in passes}
        order = torch.cat([self._orders[k] for k in passes])
        offset = start - passes[0] * self.size
        taken = order[offset : offset + end - start].reshape(count, self.world_size, self.batch_size)
        return taken[:, self.rank]

    def _order(self, number: int) -> Tensor:
        # torch's generator looks at the low half of a seed only
        (state,) = np.random.SeedSequence([self.seed, number]).generate_state(1)
        generator = torch.Generator().manual_seed(int(state))
        return torch.randperm(self.size, generator=generator)


class Schedule:
    """Samples and learning rates of a block of steps, on the device, and which of the steps is next.

    A step so takes nothing from the host, and its CUDA graph always reads the same memory.

    Parameters
    ----------
    block : int
        Most steps in a block.
    orders : int
        Batches in a step.
    batch_size : int
        Samples in a batch.
    device : device

    Attributes
    ----------
    rate : Tensor
        Learning rate of the step that was advanced to.
    """

    def __init__(self, block: int, orders: int, batch_size: int, device: torch.device):
        self.samples = torch.zeros(block, orders, batch_size, dtype=torch.int64, device=device)
        self.rates = torch.zeros(block, device=device)
        self.rate = torch.zeros((), device=device)
        self.next = torch.zeros(1, dtype=torch.int64, device=device)

    def begin(self, samples: Tensor, rates: Tensor) -> None:
        """Take the samples ``(steps, orders, batch_size)`` and rates ``(steps,)`` of the steps to come."""
        self.samples[: len(samples)].copy_(samples)
        self.rates[: len(rates)].copy_(rates)
        self.next.zero_()

    def advance(self) -> Tensor:
        """Go to the next step; its samples, ``(orders, batch_size)``."""
        samples, rate = (x.index_select(0, self.next)[0] for x in (self.samples, self.rates))
        self.rate.copy_(rate)
        self.next += 1
        return samples
