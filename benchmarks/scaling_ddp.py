"""Training on several devices: samples a second on one and on more, by DDP and FSDP2, and whether losses are the same.

    python -m benchmarks.scaling_ddp [--devices 2] [--small] [--output PATH]

A process for each device, over NCCL on GPUs; over gloo where there are fewer GPUs than ``--devices``, each process then
on one CPU thread. Cases are ``ddp``, the paper's n-body network (28 channels, 3 rounds), and ``fsdp2``, a wide network
of blocks, which are sharded one by one. Throughput is that of the same batch on each device (weak scaling), without
reading data; parallel efficiency is that on all over that on one, over their number. Losses are those of the same steps
from the same weights, with the same samples in each step, in float64: on one device all of them, on several each its
part; refuses to report where they differ by more than rounding. ``--small`` is what two CPU cores do in a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from benchmarks.environment import RESULTS, write
from benchmarks.paper_models import Batch, nbody_batch, nbody_loss
from cliffnn import models
from cliffnn.layers import MVLinear, SGPNormBlock

TOLERANCE = 1e-8
CURVE, CURVE_BATCH = 20, 4  # steps, and samples of each device in one


@dataclass(frozen=True)
class Size:
    """How much of it: samples on each device, channels and blocks of the wide network, seconds, rounds."""

    nbody: int
    wide: int
    channels: int
    blocks: int
    budget: float
    rounds: int


FULL, SMALL = Size(24576, 32768, 512, 8, 5.0, 2), Size(8, 64, 16, 2, 1.0, 1)


def wide_network(size: Size) -> nn.Module:
    blocks = (SGPNormBlock(size.channels, "R3") for _ in range(size.blocks))
    return nn.Sequential(MVLinear(2, size.channels, "R3"), *blocks, MVLinear(size.channels, 1, "R3"))


def wide_batch(samples: int) -> Batch:
    return torch.randn(samples, 8, 2), torch.randn(samples, 8, 1)


def wide_loss(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


@dataclass(frozen=True)
class Case:
    """What is trained, and how it is spread.

    ``rate`` is the learning rate of the losses that are compared: deep and wide networks amplify rounding in each step,
    ten thousandfold in five steps of 1e-3.
    """

    build: Callable[[Size], nn.Module]
    batch: Callable[[int], Batch]
    loss: Callable[[nn.Module, Batch], Tensor]
    spread: Callable[[nn.Module], nn.Module]
    samples: Callable[[Size], int]
    rate: float


def sharded(model: nn.Module) -> nn.Module:
    for layer in model.children():
        fully_shard(layer)
    return fully_shard(model)


CASES = {
    "ddp": Case(
        lambda _: models.CGENN(), nbody_batch, nbody_loss, DistributedDataParallel, lambda size: size.nbody, 1e-3
    ),
    "fsdp2": Case(wide_network, wide_batch, wide_loss, sharded, lambda size: size.wide, 1e-5),
}


def prepared(case: Case, size: Size, world: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The model, the same in every process; alone it is not wrapped."""
    torch.manual_seed(0)
    model = case.build(size).to(device, dtype)
    return case.spread(model) if world > 1 else model


def placed(batch: Batch, device: torch.device, dtype: torch.dtype) -> Batch:
    return tuple(x.to(device, dtype if x.is_floating_point() else None) for x in batch)


def loss_curve(case: Case, size: Size, rank: int, world: int, together: int, device: torch.device) -> list[float]:
    """Mean loss of each step over the samples of all processes, of which this one has its part."""
    model = prepared(case, size, world, device, torch.float64)
    optimizer = torch.optim.Adam(model.parameters(), lr=case.rate)
    generator_state = torch.Generator().manual_seed(1).get_state()
    torch.set_rng_state(generator_state)
    losses = []
    for _ in range(CURVE):
        whole = placed(case.batch(CURVE_BATCH * together), device, torch.float64)
        optimizer.zero_grad()
        loss = case.loss(model, tuple(x.chunk(world)[rank] for x in whole))
        loss.backward()
        optimizer.step()
        value = loss.detach()
        if world > 1:
            dist.all_reduce(value)
        losses.append(value.item() / world)
    return losses


def seconds_per_step(case: Case, size: Size, rank: int, world: int, device: torch.device) -> float:
    """Best of some rounds of the median step, as the slowest process has it."""
    model = prepared(case, size, world, device, torch.float32)
    torch.manual_seed(rank)
    batch = placed(case.batch(case.samples(size)), device, torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        case.loss(model, batch).backward()
        optimizer.step()
        wait()
        return time.perf_counter() - start

    for _ in range(3):
        step()
    count = torch.tensor(max(3, int(size.budget / step())), device=device)
    if world > 1:
        dist.all_reduce(count, dist.ReduceOp.MIN)
    medians = torch.tensor(
        [statistics.median(step() for _ in range(int(count))) for _ in range(size.rounds)], device=device
    )
    if world > 1:
        dist.all_reduce(medians, dist.ReduceOp.MAX)
    return medians.min().item()


def process(rank: int, world: int, together: int, cuda: bool, size: Size, port: int, output: str) -> None:
    """One of the processes; the first one writes what was found."""
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    if world > 1:
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("nccl" if cuda else "gloo", address, rank=rank, world_size=world)
    try:
        found = {}
        for name, case in CASES.items():
            losses = loss_curve(case, size, rank, world, together, device)
            seconds = seconds_per_step(case, size, rank, world, device)
            found[name] = {"losses": losses, "seconds": seconds}
        if rank == 0:
            Path(output).write_text(json.dumps(found))
        if world > 1:
            # nobody leaves while another still listens
            dist.barrier()
    finally:
        if world > 1:
            dist.destroy_process_group()


def measure(world: int, together: int, cuda: bool, size: Size) -> dict[str, Any]:
    """Start so many processes, and wait for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "found.json")
        mp.spawn(process, (world, together, cuda, size, port, output), nprocs=world)
        return json.loads(Path(output).read_text())


def compared(one: dict[str, Any], many: dict[str, Any], devices: int, size: Size) -> list[dict[str, Any]]:
    """Throughputs side by side; nothing where the losses differ."""
    results = []
    for name, case in CASES.items():
        pairs = zip(one[name]["losses"], many[name]["losses"], strict=True)
        error = max(abs(a - b) / abs(a) for a, b in pairs)
        if not error < TOLERANCE:
            raise SystemExit(f"{name}: losses on {devices} devices differ by {error:.1e}: nothing is reported")
        throughput = [
            round(count * case.samples(size) / found[name]["seconds"], 1)
            for count, found in ((1, one), (devices, many))
        ]
        results.append(
            {
                "case": name,
                "samples_per_device": case.samples(size),
                "samples_per_second": throughput,
                "speed_up": round(throughput[1] / throughput[0], 3),
                "largest_difference_of_losses": error,
                "losses": many[name]["losses"],
            }
        )
        print(f"{name}: {throughput[0]:.0f} samples/s on one, {throughput[1]:.0f} on {devices}, losses the same")
    return results


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling_ddp.json")
    options = parser.parse_args(args)
    if options.devices < 2:
        parser.error(f"--devices: got {options.devices}, wanted at least 2")
    cuda = torch.cuda.device_count() >= options.devices
    size = SMALL if options.small else FULL
    one, many = (measure(world, options.devices, cuda, size) for world in (1, options.devices))
    results = compared(one, many, options.devices, size)
    facts = {"devices": options.devices, "backend": "nccl" if cuda else "gloo", "load": round(os.getloadavg()[0], 2)}
    write(options.output, **facts, results=results)


if __name__ == "__main__":
    main()
