"""Run by torchrun's rules in two processes: a model wrapped in DDP or FSDP2 trains as one process does."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from cliffnn.layers import MVLinear, SGPNormBlock

STEPS, ROWS = 3, 8


def network():
    torch.manual_seed(0)
    return nn.Sequential(MVLinear(2, 4, "R3"), SGPNormBlock(4, "R3"), MVLinear(4, 1, "R3")).double()


def train(model, parts, part):
    """Mean loss over all rows, of which this process has one part."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x = torch.randn(ROWS, 8, 2, dtype=torch.float64, generator=generator).chunk(parts)[part]
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def wrapped(wrapper):
    model = network()
    if wrapper == "ddp":
        return DistributedDataParallel(model)
    for layer in model:
        fully_shard(layer)
    return fully_shard(model)


def main(rendezvous, rank, world):
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=world)
    try:
        alone = network()
        train(alone, 1, 0)
        for wrapper in ("ddp", "fsdp2"):
            model = wrapped(wrapper)
            train(model, world, rank)
            for got, wanted in zip(model.parameters(), alone.parameters(), strict=True):
                got = got.full_tensor() if wrapper == "fsdp2" else got
                torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
