"""Training that costs Lightning's loop once a block of steps, and goes on from a checkpoint exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from examples.common.capture import Replayed, Streams
from examples.common.checks import within
from examples.common.data import ExperimentData, Schedule, Shuffle
from examples.common.logs import ContinuedCSVLogger


def energy_and_forces(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of forces plus, ten times, that of energies per atom; both ``(samples, 1 + 3 atoms)``."""
    errors = (prediction - target).square()
    atoms = (errors.shape[1] - 1) / 3
    return errors[:, 1:].mean() + 10 / atoms**2 * errors[:, 0].mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": nn.functional.mse_loss,
    "bce": nn.functional.binary_cross_entropy_with_logits,
    "energy_and_forces": energy_and_forces,
}


class Training(L.LightningModule):
    """Train a network, and beside it baselines on the same batches.

    Each network has its own loss and its own clipping, and Adam treats each parameter for itself: all of them train
    as they would alone.

    Parameters
    ----------
    net : Module
        From the inputs that the data give to a prediction of the targets.
    baselines : dict of Module, optional
        By name.
    loss : {"mse", "bce", "energy_and_forces"}
        Mean squared error, binary cross entropy of logits, or `energy_and_forces`.
    learning_rate, weight_decay : float
        Of Adam.
    warmup, decay : float
        Parts of the training in which the learning rate rises and falls, each as half a cosine.
    clip : float, optional
        Largest norm of a network's gradient.
    compile : {"default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"}, optional
        A mode of `torch.compile` for networks and loss; null: eager.
    capture : bool
        Whether a whole step, from the choice of samples to Adam, is one CUDA graph, in which the networks work side by
        side; needs a single GPU.
    own_order : bool
        Whether each network sees the samples in an order of its own: that of the next seed.
    evaluation_batch : int
        Samples at once where no gradient is taken.
    """

    def __init__(
        self,
        net: nn.Module,
        baselines: dict[str, nn.Module] | None = None,
        loss: Literal["mse", "bce", "energy_and_forces"] = "mse",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        warmup: float = 0.0,
        decay: float = 0.0,
        clip: float | None = None,
        compile: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None = None,
        capture: bool = False,
        own_order: bool = False,
        evaluation_batch: int = 2048,
    ):
        super().__init__()
        for name, value in {"learning_rate": learning_rate, "weight_decay": weight_decay, "clip": clip}.items():
            within(f"model.{name}", value, 0)
        for name, value in {"warmup": warmup, "decay": decay}.items():
            within(f"model.{name}", value, 0, 1)
        within("model.evaluation_batch", evaluation_batch, 1)
        self.automatic_optimization = False
        self.net = net
        self.baselines = nn.ModuleDict(baselines or {})
        self.loss = loss
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.decay = decay
        self.clip = clip
        if capture and compile not in (None, "default", "max-autotune-no-cudagraphs"):
            raise ValueError(f"model.compile: got {compile}, wanted default with model.capture")
        self.capture = capture
        self.own_order = own_order
        self.evaluation_batch = evaluation_batch
        self.seconds = 0.0
        self._error: Callable[..., Tensor] = self._eager_error
        if compile is not None:
            self._error = torch.compile(self._eager_error, mode=compile)
        self._compiled = compile is not None
        self._side_by_side = Streams()

    def check(self, trainer: L.Trainer) -> None:
        """Complain about a trainer that can't do what is asked for."""
        device = trainer.strategy.root_device
        if self.capture and (device.type != "cuda" or trainer.world_size > 1):
            raise ValueError(f"model.capture: got {trainer.world_size} x {device.type}, wanted a single GPU")
        if self.capture and getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError(f"model.capture: got precision {trainer.precision}, wanted one that scales no gradients")

    @property
    def data(self) -> ExperimentData:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ExperimentData)
        return data

    def networks(self) -> Iterator[tuple[str, nn.Module]]:
        """The network, named "", and the baselines."""
        yield "", self.net
        yield from self.baselines.items()

    def metric(self, split: str, name: str = "") -> str:
        """What the loss of a network is logged as."""
        return "/".join([split, self.loss] + [name] * (name != ""))

    def on_fit_start(self) -> None:
        data, trainer = self.data, self.trainer
        orders = 1 + len(self.baselines) * self.own_order
        self.shuffles = [
            Shuffle(data.training_size(), data.batch_size, data.seed + k, trainer.global_rank, trainer.world_size)
            for k in range(orders)
        ]

    def training_step(self, steps: int, batch_idx: int) -> None:
        start, first = time.perf_counter(), self.global_step
        count = min(steps, self.trainer.max_steps - first)
        samples = torch.stack([shuffle(first, count, self.device) for shuffle in self.shuffles], 1)
        factors = [
            learning_rate_factor(step, self.trainer.max_steps, self.warmup, self.decay)
            for step in range(first, first + count)
        ]
        self.schedule.begin(samples, self.learning_rate * torch.tensor(factors))
        self.totals.zero_()
        if self.capture:
            self.replayed(count)
            # Lightning counts the steps of its own optimizer, which a graph does not call.
            self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.increment_by(count)
        else:
            for _ in range(count):
                self.step(self.optimizers())
        totals = self.trainer.strategy.reduce(self.totals, reduce_op="mean")  # over processes
        # The one moment of a block in which the host waits for the device.
        means = (totals * (self.data.loss_unit / count)).tolist()
        self.seconds += time.perf_counter() - start
        self._record({self.metric("train", name): m for (name, _), m in zip(self.networks(), means, strict=True)})

    def step(self, optimizer: torch.optim.Optimizer | LightningOptimizer) -> None:
        """One step of training, whatever number it is: the schedule, on the device, knows."""
        if self._compiled:
            torch.compiler.cudagraph_mark_step_begin()
        samples = self.schedule.advance()
        tensors = self.data.on(self.device, self.dtype, "train")
        errors = self._errors([[x[chosen] for x in tensors] for chosen in samples])
        optimizer.zero_grad()
        self.manual_backward(errors.sum())
        if self.clip is not None:
            for _, net in self.networks():
                nn.utils.clip_grad_norm_(net.parameters(), self.clip)
        optimizer.step()
        self.totals += errors.detach()

    def validation_step(self, whole: int, batch_idx: int) -> None:
        errors = {self.metric("val", name): error for name, error in self.errors("val").items()}
        self.log_dict(errors, logger=False, batch_size=1)  # for checkpoints and early stopping
        self._record(errors)

    def test_step(self, whole: int, batch_idx: int) -> None:
        errors = {self.metric("test", name): error for name, error in self.errors("test").items()}
        self.log_dict(errors, logger=False, batch_size=1)

    def errors(self, split: str) -> dict[str, float]:
        """The loss of each network on a whole split, in raw units."""
        tensors = self.data.on(self.device, self.dtype, split)
        return {name: self.error_of(net, tensors) for name, net in self.networks()}

    def error_of(self, net: nn.Module, tensors: tuple[Tensor, ...]) -> float:
        """The loss of a network on inputs and, last, targets, in raw units."""
        *inputs, targets = tensors
        return self.data.loss_unit * LOSSES[self.loss](self.predict(net, *inputs), targets).item()

    @torch.no_grad()
    def predict(self, net: nn.Module, *inputs: Tensor) -> Tensor:
        """What a network says, so many samples at a time."""
        net.eval()
        parts = zip(*(x.split(self.evaluation_batch) for x in inputs), strict=True)
        with self.trainer.precision_plugin.forward_context():
            prediction = torch.cat([net(*part) for part in parts])
        net.train()
        return prediction.to(inputs[0].dtype)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.learning_rate, weight_decay=self.weight_decay, fused=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["seconds"] = self.seconds
        checkpoint["random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            checkpoint["random_cuda"] = torch.cuda.get_rng_state(self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seconds = checkpoint["seconds"]
        self._random = {name: checkpoint[name].cpu() for name in ("random", "random_cuda") if name in checkpoint}

    def on_train_start(self) -> None:
        self.schedule = Schedule(self.data.block, len(self.shuffles), self.data.batch_size, self.device)
        self.totals = torch.zeros(1 + len(self.baselines), device=self.device)
        optimizer = self.optimizers(use_pl_optimizer=False)
        for group in optimizer.param_groups:
            # one number in one place, also where a checkpoint brought another
            group |= {"lr": self.schedule.rate, "fused": True, "capturable": self.capture}
        if self.capture:
            self.replayed = Replayed(partial(self.step, optimizer))
        for logger in self.loggers:
            if isinstance(logger, ContinuedCSVLogger):
                logger.keep(self.global_step)
        # Last of all that happens before the first step, so that dropout, say, goes on as it would have.
        random = getattr(self, "_random", {})
        if "random" in random:
            torch.set_rng_state(random["random"])
        if "random_cuda" in random and self.device.type == "cuda":
            torch.cuda.set_rng_state(random["random_cuda"], self.device)

    def _errors(self, batches: list[list[Tensor]]) -> Tensor:
        """The loss of each network, on the one batch or on its own."""
        networks = [net for _, net in self.networks()]
        batches = batches * (len(networks) // len(batches))
        errors = [partial(self._error, net, *batch) for net, batch in zip(networks, batches, strict=True)]
        if self.capture and len(errors) > 1:
            return torch.stack(self._side_by_side(errors))
        return torch.stack([error() for error in errors])

    def _eager_error(self, net: nn.Module, *batch: Tensor) -> Tensor:
        *inputs, targets = batch
        return LOSSES[self.loss](net(*inputs), targets)

    def _record(self, metrics: dict[str, float]) -> None:
        # Past Lightning's own log, which counts blocks as steps and takes its time.
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.global_step)
        self.latest = {**getattr(self, "latest", {}), **metrics}


def learning_rate_factor(step: int, steps: int, warmup: float, decay: float) -> float:
    """Rise over the first part of all steps and fall over the last part, each as half a cosine."""
    rising = (step + 1) / max(1, warmup * steps)
    falling = (steps - step) / max(1, decay * steps)
    return (1 - math.cos(math.pi * min(1, rising, falling))) / 2
