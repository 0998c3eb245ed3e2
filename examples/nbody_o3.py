"""Where will five charged particles be? An O(3)-equivariant network of multivectors learns to tell.

From positions, velocities and charges at one moment, predict the positions a thousand time steps later: the charged
n-body experiment of the EGNN and Clifford group network papers (arXiv:2102.09844, arXiv:2305.11141). Turn, mirror or
move a system, and its prediction turns, mirrors or moves with it, whatever the weights are.

    python examples/nbody_o3.py                                         # two minutes on a CPU
    python examples/nbody_o3.py --model.channels 24                     # any key of the configuration
    python examples/nbody_o3.py --config configs/nbody_o3_paper.yaml    # as published

Everything a run makes goes to its own folder, ``runs/nbody_o3/version_<n>``.
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
import sys
import warnings
from pathlib import Path

import lightning as L
import torch
from jsonargparse.typing import Path_fr
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

# As a script, this file sees its own folder only; as a module, the repository as well.
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cliffnn import functional as F
from cliffnn.layers import MVLinear, SGPNormBlock
from cliffnn.testing import equivariance_error, random_versor
from examples.nbody import report
from examples.nbody.simulation import STEPS_PER_FRAME, TIME_STEP, Recipe, load_or_simulate

ALGEBRA = "R3"


def two_blocks(channels: int) -> nn.Sequential:
    """The multivectors' perceptron.

    The norm of the first block is how the network divides, and so comes to forces that fall off with distance. The
    second block has none: what it says may be weak or strong.
    """
    return nn.Sequential(SGPNormBlock(channels, ALGEBRA), SGPNormBlock(channels, ALGEBRA, normalize=False))


class Interaction(nn.Module):
    r"""Every particle hears from all the others, and changes its state accordingly.

    .. math:: m_{ij} = \phi(A h_i + B h_j + C e_{ij}), \qquad
        h_i \leftarrow h_i + \psi(D [h_i, \operatorname{mean}_{j \neq i} m_{ij}])

    Parameters
    ----------
    channels : int
        Multivectors in the state of a particle.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.receiver = MVLinear(channels, channels, ALGEBRA)
        self.sender = MVLinear(channels, channels, ALGEBRA)
        self.pair = MVLinear(1, channels, ALGEBRA)
        self.message = two_blocks(channels)
        self.update = nn.Sequential(MVLinear(2 * channels, channels, ALGEBRA), two_blocks(channels))

    def forward(self, nodes: Tensor, pairs: Tensor, receivers: Tensor, senders: Tensor) -> Tensor:
        """Shapes: nodes ``(systems, particles, 8, channels)``, pairs ``(systems, pairs, 8, 1)``."""
        hidden = self.receiver(nodes)[:, receivers] + self.sender(nodes)[:, senders] + self.pair(pairs)
        # Pairs come sorted by receiver, so those of one particle are neighbours.
        received = self.message(hidden).unflatten(1, (nodes.shape[1], -1)).mean(2)
        return nodes + self.update(torch.cat([nodes, received], -1))


class NBodyNetwork(nn.Module):
    """Predict positions from charges, positions and velocities.

    Parameters
    ----------
    channels : int
        Multivectors in the state of a particle.
    layers : int
        Interactions, one after the other.
    """

    def __init__(self, channels: int, layers: int):
        super().__init__()
        self.embedding = MVLinear(3, channels, ALGEBRA)
        self.interactions = nn.ModuleList(Interaction(channels) for _ in range(layers))
        self.readout = MVLinear(channels, 1, ALGEBRA)

    def forward(self, charges: Tensor, positions: Tensor, velocities: Tensor) -> Tensor:
        """Shapes: charges ``(systems, particles)``, all others ``(systems, particles, 3)``."""
        particles = charges.shape[1]
        # All ordered pairs, sorted by receiver. (What `nonzero` finds has no size that a compiler knows.)
        particle = torch.arange(particles, device=charges.device)
        receivers, others = particle.repeat_interleave(particles - 1), particle[1:].repeat(particles) - 1
        senders = others + (others >= receivers)

        # Charges are scalars; positions, seen from their mean, and velocities are vectors.
        centred = positions - positions.mean(1, keepdim=True)
        scalars = F.embed(charges[..., None, None], 0, ALGEBRA)
        vectors = F.embed(torch.stack([centred, velocities], -1), 1, ALGEBRA)
        products = charges[:, receivers] * charges[:, senders]
        pairs = F.embed(products[..., None, None], 0, ALGEBRA)

        nodes = self.embedding(torch.cat([scalars, vectors], -1))
        for interaction in self.interactions:
            nodes = interaction(nodes, pairs, receivers, senders)
        displacements = F.extract(self.readout(nodes), 1, ALGEBRA).squeeze(-1)
        return positions + displacements


class NBodyExperiment(L.LightningModule):
    """Train the network on the mean squared error of its predictions.

    Parameters
    ----------
    channels, layers : int
        Size of the network.
    learning_rate, weight_decay : float
        Of Adam.
    warmup, decay : float
        Parts of the training in which the learning rate rises and falls, each as half a cosine.
    """

    def __init__(
        self,
        channels: int = 12,
        layers: int = 3,
        learning_rate: float = 0.02,
        weight_decay: float = 1e-4,
        warmup: float = 0.05,
        decay: float = 0.95,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.network = NBodyNetwork(channels, layers)

    def forward(self, charges: Tensor, positions: Tensor, velocities: Tensor) -> Tensor:
        return self.network(charges, positions, velocities)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self._error("train", batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self._error("val", batch)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self._error("test", batch)

    def _error(self, split: str, batch: list[Tensor]) -> Tensor:
        *inputs, targets = batch
        error = nn.functional.mse_loss(self(*inputs), targets)
        self.log(f"{split}/mse", error, prog_bar=split != "test", batch_size=len(targets))
        return error

    def configure_optimizers(self) -> dict:
        hparams, steps = self.hparams, self.trainer.max_steps
        optimizer = torch.optim.Adam(
            self.parameters(), lr=hparams["learning_rate"], weight_decay=hparams["weight_decay"]
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, steps, hparams["warmup"], hparams["decay"])
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def learning_rate_factor(step: int, steps: int, warmup: float, decay: float) -> float:
    """Rise over the first part of all steps and fall over the last part, each as half a cosine."""
    rising = (step + 1) / max(1, warmup * steps)
    falling = (steps - step) / max(1, decay * steps)
    return (1 - math.cos(math.pi * min(1, rising, falling))) / 2


class NBodyData(L.LightningDataModule):
    """The simulated systems: charges, positions and velocities at frame 30; positions at frame 40 as targets.

    Parameters
    ----------
    folder : str
        Where simulated data is cached.
    recipe : Recipe
        What is simulated.
    batch_size : int
    """

    def __init__(self, folder: str = "data", recipe: Recipe = Recipe(), batch_size: int = 32):  # noqa: B008
        super().__init__()
        self.folder = Path(folder)
        self.recipe = recipe
        self.batch_size = batch_size
        self.arrays: dict[str, Tensor] = {}

    @property
    def horizon(self) -> float:
        """Time from the input frame to the target frame."""
        return (self.recipe.last_frame - self.recipe.first_frame) * STEPS_PER_FRAME * TIME_STEP

    def prepare_data(self) -> None:
        load_or_simulate(self.recipe, self.folder)

    def setup(self, stage: str) -> None:
        if not self.arrays:
            data = load_or_simulate(self.recipe, self.folder)
            self.arrays = {name: torch.from_numpy(array) for name, array in data.items()}

    def split(self, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Charges, positions, velocities and targets of `train`, `val` or `test`."""
        charges, paths, velocities = (self.arrays[f"{name}_{part}"] for part in ("charges", "positions", "velocities"))
        return charges, paths[:, 0], velocities[:, 0], paths[:, -1]

    def train_dataloader(self) -> DataLoader:
        # One epoch is the whole training, pass after pass through the data: one progress bar, counting steps.
        assert self.trainer is not None
        dataset = TensorDataset(*self.split("train"))
        sampler = RandomSampler(dataset, num_samples=self.trainer.max_steps * self.batch_size)
        return DataLoader(dataset, self.batch_size, sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(*self.split("val")), batch_size=500)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(*self.split("test")), batch_size=500)


def largest_equivariance_error(network: NBodyNetwork, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    """Relative error, in float64, by which predictions fail to follow rotations and reflections of the input."""
    network = copy.deepcopy(network).cpu().double()
    charges, positions, velocities = (x.cpu().double() for x in inputs)

    def predict(*vectors: Tensor) -> Tensor:
        x, v = (F.extract(vector, 1, ALGEBRA).squeeze(-1) for vector in vectors)
        return F.embed(network(charges, x, v)[..., None], 1, ALGEBRA)

    multivectors = [F.embed(x[..., None], 1, ALGEBRA) for x in (positions, velocities)]
    generator = torch.Generator().manual_seed(0)
    versors = [random_versor(ALGEBRA, odd, generator) for odd in (False, True) for _ in range(3)]
    with torch.no_grad():
        return max(max(equivariance_error(predict, ALGEBRA, *multivectors, versor=v)) for v in versors)


class NBodyCLI(LightningCLI):
    """One YAML is one run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--threads", type=int | None, default=None, help="CPU threads of torch; null: its choice")
        parser.add_argument("--resume", type=Path_fr | None, default=None, help="checkpoint to go on from")

    def before_instantiate_classes(self) -> None:
        if self.config["threads"] is not None:
            torch.set_num_threads(self.config["threads"])


def build(args: list[str]) -> NBodyCLI:
    """Make trainer, experiment and data from a configuration, the small one unless another is named."""
    if not any(arg in ("-c", "--config") or arg.startswith("--config=") for arg in args):
        args = ["--config", str(ROOT / "configs" / "nbody_o3.yaml"), *args]
    # What Lightning says about itself would bury what the example has to say.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # the data are in memory
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # they are the command line
    warnings.filterwarnings("ignore", message="The dirpath has changed")  # a resumed run has a folder of its own
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that")  # and shuffles anew
    try:
        cli = NBodyCLI(NBodyExperiment, NBodyData, args=args, run=False, parser_kwargs={"exit_on_error": False})
        if cli.trainer.max_steps < 1:
            raise ValueError(f"trainer.max_steps: got {cli.trainer.max_steps}, wanted at least 1")
    except (argparse.ArgumentError, ValueError) as error:
        sys.exit("nbody_o3: " + " ".join(str(error).split()))
    return cli


def main(args: list[str] | None = None) -> dict[str, float]:
    """Simulate, train, test, report. Returns the test errors and the equivariance error."""
    cli = build(sys.argv[1:] if args is None else args)
    trainer, experiment, data = cli.trainer, cli.model, cli.datamodule

    untrained = trainer.test(experiment, data, verbose=False)[0]["test/mse"]
    trainer.fit(experiment, data, ckpt_path=cli.config["resume"])
    trained = trainer.test(experiment, data, ckpt_path="best", verbose=False)[0]["test/mse"]

    charges, positions, velocities, targets = data.split("test")
    with torch.no_grad():
        predictions = experiment.cpu()(charges, positions, velocities)
    straight = positions + data.horizon * velocities
    sample = charges[:100], positions[:100], velocities[:100]
    results = {
        "constant velocity": nn.functional.mse_loss(straight, targets).item(),
        "untrained": untrained,
        "trained": trained,
        "equivariance": largest_equivariance_error(experiment.network, sample),
    }
    folder = Path(trainer.log_dir or ".")
    paths = data.arrays["test_positions"]
    report.plot_trajectories(folder / "trajectories.png", charges, paths, predictions, straight)
    report.plot_learning_curve(folder / "learning_curve.png", folder / "metrics.csv", results)
    report.print_table(results, folder)
    return results


if __name__ == "__main__":
    main()
