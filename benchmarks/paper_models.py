"""The paper's experiments as benchmarks see them: our model and CGENN's own, the batches of both, their losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.cgenn import Peer, graph
from cliffnn import functional as F
from cliffnn import models
from cliffnn.interop import from_cgenn

PARTICLES = 5

Batch = tuple[Tensor, ...]
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class PaperModel:
    """One experiment: both models with as many parameters, a batch of noise, and the loss of ours.

    CGENN's models give their loss themselves, of batches as their loaders make them: ``theirs(batch, 0)[0]``.
    """

    ours: Callable[[], nn.Module]
    theirs: Callable[[Peer], nn.Module]
    batch: Callable[[int], Batch]
    loss: Callable[[nn.Module, Batch], Tensor]


def nbody_batch(size: int) -> Batch:
    positions, velocities, targets = (torch.randn(size, PARTICLES, 3) for _ in range(3))
    charges = torch.randint(0, 2, (size, PARTICLES)) * 2.0 - 1
    return loaded_nbody(charges, positions, velocities, targets)


def loaded_nbody(charges: Tensor, positions: Tensor, velocities: Tensor, targets: Tensor) -> Batch:
    """Positions, velocities, products of charges, charges, targets, edges: as CGENN's loader gives them."""
    positions, velocities, targets = (x.contiguous() for x in (positions, velocities, targets))
    edges = graph(PARTICLES, PARTICLES).to(charges.device)
    products = charges[:, edges[0], None] * charges[:, edges[1], None]
    return positions, velocities, products, charges[..., None], targets, edges.expand(len(charges), 2, -1).contiguous()


def loaded_regression(vectors: Tensor, targets: Tensor) -> Batch:
    """CGENN's loader gives the targets as a column."""
    return vectors, targets[:, None]


def nbody_loss(model: nn.Module, batch: Batch) -> Tensor:
    positions, velocities, products, charges, targets, edges = batch
    centred = positions - positions.mean(1, keepdim=True)
    starts = PARTICLES * torch.arange(len(edges), device=edges.device)
    edge_index = (edges + starts[:, None, None]).transpose(0, 1).flatten(1)
    vectors = torch.stack([centred, velocities], -1).flatten(0, 1)
    x = torch.cat([F.embed(charges.flatten(0, 1)[..., None], 0, "R3"), F.embed(vectors, 1, "R3")], -1)
    out = model(x, edge_index, F.embed(products.flatten(0, 1)[..., None], 0, "R3"))
    return nn.functional.mse_loss(positions + F.extract(out, 1, "R3").view_as(positions), targets)


def scalar_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Of a model that predicts one number for each sample."""
    inputs, targets = batch
    return nn.functional.mse_loss(model(inputs), targets.view(len(inputs)))


MODELS = {
    "nbody": PaperModel(models.CGENN, lambda peer: peer.nbody.NBodyCGGNN(), nbody_batch, nbody_loss),
    "volume": PaperModel(
        models.O3SignedVolume,
        lambda peer: peer.o3.O3CGMLP(hidden_features=96, num_layers=4),
        lambda size: (torch.randn(size, 3, 3), torch.randn(size)),
        scalar_loss,
    ),
    "hulls": PaperModel(
        models.O5ConvexHull,
        lambda peer: peer.hulls.ConvexHullCGMLP(),
        lambda size: (torch.randn(size, 16, 5), torch.rand(size)),
        scalar_loss,
    ),
    "regression": PaperModel(
        models.O5Regression,
        lambda peer: peer.o5.O5CGMLP(0.0, 1.0),  # mean and deviation of targets that are standardised already
        lambda size: loaded_regression(torch.randn(size, 2, 5), torch.randn(size)),
        scalar_loss,
    ),
}


@dataclass(frozen=True)
class Theirs:
    """A model of CGENN's own, and how what it has for each parameter reads as ours has it."""

    module: nn.Module
    as_ours: Callable[[State], dict[str, Tensor]]

    def loss(self, batch: Batch) -> Tensor:
        return self.module(batch, 0)[0]

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and gradients, these by the names of our parameters."""
        got = gradients(lambda: self.loss(batch), self.module)
        loss = got.pop("loss")
        return {"loss": loss, **self.as_ours({**self.module.state_dict(), **got})}


def theirs_of(name: str, ours: nn.Module, peer: Peer, device: str) -> Theirs:
    """The counterpart of our model, on a device from the start: its tables do not follow later."""
    return Theirs(MODELS[name].theirs(peer).to(device), lambda state: from_cgenn(ours, state))


def gradients(loss: Callable[[], Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Loss and gradients of the parameters."""
    value = loss()
    value.backward()
    result = {"loss": value.detach()}
    result |= {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return result


def largest_error(got: State, wanted: State) -> float:
    """Of loss and gradients, relative, each by its norm; nan where there is one."""
    tiny = torch.finfo(torch.float32).tiny
    errors = [(got[key] - right).norm() / right.norm().clamp(min=tiny) for key, right in wanted.items()]
    return float(torch.stack(errors).max())
