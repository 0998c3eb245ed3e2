"""CGENN's own code and ours, trained from the same weights on the same batches: test errors after equal steps.

    python -m benchmarks.equal_steps --cgenn CHECKOUT [--case nbody volume hulls regression] [--steps N]
        [--seeds 0 1 ...] [--processes N] [--device cpu] [--output FILE]

Data, batch size, Adam and its schedule are those of ``configs/``, the paper's; the schedule is stretched over the steps
taken. A seed decides the weights, which CGENN's code draws, and the order of the samples. Both run eager, in float32.
Losses are means over parts of the training; test errors, in raw units, are taken at so many moments of it. The final
error is the mean over the last quarter of these, since without a schedule that of one step is noisy; what counts is
its mean over seeds. Refuses to report a run whose first step's loss or gradients differ by more than rounding.

Each run, a case with a seed, is a process of its own if there are several. The file is written after each.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from benchmarks.cgenn import Peer
from benchmarks.environment import RESULTS, write
from benchmarks.paper_models import (
    MODELS,
    Batch,
    Theirs,
    gradients,
    largest_error,
    loaded_nbody,
    loaded_regression,
    theirs_of,
)
from examples.common.data import ExperimentData, Shuffle
from examples.common.training import learning_rate_factor
from examples.convex_hulls_o5 import ConvexHullData
from examples.nbody.simulation import Recipe
from examples.nbody_o3 import NBodyData
from examples.regression_o5 import RegressionData
from examples.signed_volume_o3 import SignedVolumeData

TOLERANCE = 1e-4
WITHIN = 1.1  # times the error of CGENN's code
SIDES = ("CGENN", "ours")
CONFIGS = Path(__file__).parents[1] / "configs"
# The data of each case, and how a batch of it looks to CGENN.
DATA: dict[str, tuple[type[ExperimentData], Callable[..., Batch]]] = {
    "nbody": (NBodyData, loaded_nbody),
    "volume": (SignedVolumeData, lambda *tensors: tensors),
    "hulls": (ConvexHullData, lambda *tensors: tensors),
    "regression": (RegressionData, loaded_regression),
}


@dataclass(frozen=True)
class Settings:
    """What all runs have in common."""

    cgenn: Path | None
    steps: int
    evaluations: int
    device: str
    threads: int
    data: str
    batch_size: int | None
    test_samples: int | None


def configuration(case: str) -> dict[str, Any]:
    """The published one."""
    return yaml.safe_load((CONFIGS / f"{DATA[case][0].name}.yaml").read_text())


def data_of(case: str, settings: Settings, seed: int) -> ExperimentData:
    options = {**configuration(case)["data"], "folder": settings.data, "seed": seed}
    if settings.batch_size:
        options["batch_size"] = settings.batch_size
    if "trajectories" in options:
        options["trajectories"] = Recipe(**options["trajectories"])
    data = DATA[case][0](**options)
    data.prepare_data()
    return data


def train(
    case: str, settings: Settings, data: ExperimentData, parameters: list[nn.Parameter], loss: Callable[[Batch], Tensor]
) -> dict[str, Any]:
    """Losses and test errors on the way, by the number of steps that they come after; seconds of the steps."""
    recipe, load, device = configuration(case)["model"], DATA[case][1], torch.device(settings.device)
    rate, schedule = recipe["learning_rate"], (recipe.get("warmup", 0.0), recipe.get("decay", 0.0))
    optimizer = torch.optim.Adam(parameters, rate, weight_decay=recipe.get("weight_decay", 0.0), fused=True)
    tensors = data.on(device, torch.float32, "train")
    shuffle = Shuffle(data.training_size(), data.batch_size, data.seed)
    result: dict[str, Any] = {"after": [], "losses": [], "test": [], "seconds": 0.0}
    done = 0
    for part in range(1, settings.evaluations + 1):
        until, start = settings.steps * part // settings.evaluations, time.perf_counter()
        total = torch.zeros((), device=device)
        for step in range(done, until):
            for group in optimizer.param_groups:
                group["lr"] = rate * learning_rate_factor(step, settings.steps, *schedule)
            chosen = shuffle(step, 1, device)[0]
            value = loss(load(*(x[chosen] for x in tensors)))
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            total += value.detach()
        result["losses"].append(data.loss_unit * total.item() / (until - done))  # waits for the device
        result["seconds"] += time.perf_counter() - start
        result["test"].append(test_error(case, settings, data, loss))
        result["after"].append(until)
        done = until
    last = result["test"][-max(1, settings.evaluations // 4) :]
    return {"final": statistics.fmean(last), **result}


@torch.no_grad()
def test_error(case: str, settings: Settings, data: ExperimentData, loss: Callable[[Batch], Tensor]) -> float:
    """Mean squared error on the test set, in raw units, some samples at a time."""
    tensors = [x[: settings.test_samples] for x in data.on(torch.device(settings.device), torch.float32, "test")]
    total, count = 0.0, len(tensors[0])
    for part in zip(*(x.split(1024) for x in tensors), strict=True):
        total += loss(DATA[case][1](*part)).item() * len(part[0])
    return data.loss_unit * total / count


def run(case: str, seed: int, settings: Settings) -> dict[str, Any]:
    """Both from the same weights."""
    torch.set_num_threads(settings.threads)
    data, model = data_of(case, settings, seed), MODELS[case]
    torch.manual_seed(seed)
    ours = model.ours().to(settings.device)
    theirs = opponent(case, ours, settings)
    ours.load_state_dict(theirs.as_ours(theirs.module.state_dict()))

    def loss(batch: Batch) -> Tensor:
        return model.loss(ours, batch)

    chosen = Shuffle(data.training_size(), data.batch_size, data.seed)(0, 1, torch.device("cpu"))[0]
    tensors = data.on(torch.device(settings.device), torch.float32, "train")
    first = DATA[case][1](*(x[chosen.to(settings.device)] for x in tensors))
    error = largest_error(theirs.gradients(first), gradients(lambda: loss(first), ours))
    if not error < TOLERANCE:
        raise SystemExit(f"{case}, seed {seed}: the first steps differ by {error:.1e}: the run is not reported")
    runs = {
        "CGENN": train(case, settings, data, list(theirs.module.parameters()), theirs.loss),
        "ours": train(case, settings, data, list(ours.parameters()), loss),
    }
    ratio = runs["ours"]["final"] / runs["CGENN"]["final"]
    return {"seed": seed, "first_step_differs_by": error, "ratio": ratio, **runs}


def opponent(case: str, ours: nn.Module, settings: Settings) -> Theirs:
    assert settings.cgenn is not None
    return theirs_of(case, ours, Peer(settings.cgenn), settings.device)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one case: final errors over seeds, and the ratio of their means."""
    finals = {side: [one[side]["final"] for one in runs] for side in SIDES}
    means = {side: statistics.fmean(values) for side, values in finals.items()}
    ratio = means["ours"] / means["CGENN"]
    return {"final": finals, "mean": means, "ratio": ratio, "within": ratio <= WITHIN}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cgenn", type=Path, required=True, help="a checkout of CGENN")
    parser.add_argument("--case", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--steps", type=int, default=2048)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--processes", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--evaluations", type=int, default=16)
    parser.add_argument("--batch-size", type=int, help="instead of the published ones")
    parser.add_argument("--test-samples", type=int, help="so many of the test set, its first ones")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", default="data", help="folder in which data are cached")
    parser.add_argument("--output", type=Path, default=RESULTS / "equal_steps.json")
    options = parser.parse_args(arguments)
    if not 1 <= options.evaluations <= options.steps:
        parser.error(f"--evaluations: got {options.evaluations}, wanted 1 to {options.steps}, the steps")
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    torch.set_num_threads(options.threads)

    runs: dict[str, list[dict[str, Any]]] = {case: [] for case in options.case}
    refusals = []
    one_by_one = options.processes == 1
    with ThreadPoolExecutor(1) if one_by_one else ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        # seeds of a case read the same file
        for future in [pool.submit(data_of, case, settings, 0) for case in runs]:
            future.result()
        waiting = {pool.submit(run, case, seed, settings): (case, seed) for seed in options.seeds for case in runs}
        for future in as_completed(waiting):
            case, seed = waiting[future]
            try:
                one = future.result()
            except SystemExit as refusal:
                refusals.append(str(refusal))
                continue
            runs[case].append(one)
            text = ", ".join(f"{side} {one[side]['final']:.4g} in {one[side]['seconds']:.0f} s" for side in SIDES)
            print(f"{case}, seed {seed}: {text}, ratio {one['ratio']:.3f}", flush=True)
            finished = {name: sorted(of, key=lambda one: one["seed"]) for name, of in runs.items() if of}
            results = [{"case": name, **summary(of), "runs": of} for name, of in finished.items()]
            write(options.output, steps=options.steps, processes=options.processes, results=results)
    for name, of in runs.items():
        if of:
            print(f"{name}: ratio of mean final errors {summary(of)['ratio']:.3f} over {len(of)} seeds")
    if refusals:
        raise SystemExit("\n".join(refusals))


if __name__ == "__main__":
    main()
