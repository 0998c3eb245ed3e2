"""A step of training the paper's models: forward, backward and Adam; CGENN's own code beside ours.

    python -m benchmarks.training_step [--cgenn CHECKOUT] [--case nbody/100 ...] [--no-compile] [--processor N]

Cases are a model and a batch size: ``nbody`` (five charged particles, 28 channels, 3 rounds) and ``hulls`` (16 points
in five dimensions, 32 channels, 4 products), in float32. Modes are eager and compiled, on a CPU also with little stored
(``docs/pytorch.md``), on a GPU with CUDA graphs (``mode="reduce-overhead"``), and there also captured: the whole step,
Adam included, in one CUDA graph, of the eager and of the compiled model. CGENN's code runs eager, as it comes. All
start from the same weights (CGENN's, if it is there); refuses to report if their losses or gradients differ. Times are
medians over steps, the best of some rounds in which the modes take turns. With ``--processor`` all threads stay on one
of the host's, so that none, as autograd's, wakes up where caches are cold.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cgenn import Peer
from benchmarks.cpu import LITTLE_STORED
from benchmarks.environment import RESULTS, write
from benchmarks.paper_models import MODELS, gradients, largest_error, theirs_of
from benchmarks.timing import profile, stay_on

CASES = ("nbody/100", "hulls/128", "hulls/4096")
TOLERANCE = 1e-3
ADAM = {"lr": 1e-5, "fused": True}  # small: all columns stay where they can be compared


def step_of(loss: Callable[[], Tensor], module: nn.Module) -> Callable[[], Any]:
    optimizer = torch.optim.Adam(module.parameters(), **ADAM)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def captured(loss: Callable[[], Tensor], module: nn.Module) -> Callable[[], Any]:
    """The whole step as one CUDA graph."""
    optimizer = torch.optim.Adam(module.parameters(), **ADAM, capturable=True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            loss().backward()
            optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    cuda_graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(cuda_graph):
        loss().backward()
        optimizer.step()

    def step() -> None:
        cuda_graph.replay()

    # the graph reads and writes the optimizer's state, which must not be given to others
    step.optimizer = optimizer  # type: ignore[attr-defined]
    return step


def milliseconds(step: Callable[[], Any], device: str, budget: float) -> float:
    """Median of so many steps as take about so many seconds."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times: list[float] = []
    while len(times) < 5 or (sum(times) < budget * 1e3 and len(times) < 200):
        wait()
        start = time.perf_counter()
        step()
        wait()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def measure(case: str, peer: Peer | None, compiles: bool, rounds: int, budget: float) -> dict[str, Any]:
    """Every mode of a case."""
    name, size = case.split("/")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    build, loss_of = MODELS[name].ours, MODELS[name].loss
    torch.manual_seed(0)
    batch = tuple(t.to(device) for t in MODELS[name].batch(int(size)))
    model, theirs, columns = build().to(device), None, {}
    if peer:
        theirs = theirs_of(name, model, peer, device)
        model.load_state_dict(theirs.as_ours(theirs.module.state_dict()))
        columns["CGENN, eager"] = (lambda: theirs.loss(batch), theirs.module, step_of)
    state = {key: value.clone() for key, value in model.state_dict().items()}

    def own() -> nn.Module:
        copy = build().to(device)
        copy.load_state_dict(state)
        return copy

    def column(how: dict[str, Any] | None, make_step: Callable = step_of) -> tuple:
        module = own()
        run = loss_of if how is None else torch.compile(loss_of, fullgraph=True, dynamic=False, **how)
        return lambda: run(module, batch), module, make_step

    columns["eager"] = column(None)
    if compiles:
        columns["compiled"] = column({"mode": "reduce-overhead"} if device == "cuda" else {})
        if device == "cpu":
            columns["compiled, little stored"] = column({"options": LITTLE_STORED})
    if device == "cuda":
        columns["eager, captured"] = column(None, captured)
        if compiles:
            columns["compiled, captured"] = column({}, captured)

    steps, wanted = {}, gradients(columns["eager"][0], columns["eager"][1])
    for label, (loss, module, make_step) in columns.items():
        got = theirs.gradients(batch) if theirs and module is theirs.module else gradients(loss, module)
        error = largest_error(got, wanted)
        if not error < TOLERANCE:
            raise SystemExit(f"{case}: {label} differs from eager by {error:.1e}: nothing is reported")
        steps[label] = make_step(loss, module)
    medians = [{label: milliseconds(step, device, budget) for label, step in steps.items()} for _ in range(rounds + 1)]
    best = {label: round(min(median[label] for median in medians[1:]), 3) for label in steps}
    # of the processor compiled steps are few calls, whose inside no profiler sees
    seen = {label: step for label, step in steps.items() if device == "cuda" or "compiled" not in label}
    profiles = {label: profile(step, device) for label, step in seen.items()}
    return {"case": case, "milliseconds": best, "load": round(os.getloadavg()[0], 2), "profile": profiles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "training_step.json")
    parser.add_argument("--cgenn", type=Path, help="a checkout of CGENN")
    parser.add_argument("--case", nargs="+", default=CASES, help="MODEL/BATCH")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each column and round")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--processor", type=int, metavar="N", help="for all threads")
    arguments = parser.parse_args()
    stay_on(arguments.processor)
    torch.set_num_threads(arguments.threads)
    peer = Peer(arguments.cgenn) if arguments.cgenn else None
    results = []
    for case in arguments.case:
        torch.compiler.reset()
        result = measure(case, peer, not arguments.no_compile, arguments.rounds, arguments.budget)
        print(f"{case:12} {result['milliseconds']} load {result['load']}", flush=True)
        for label, found in result["profile"].items():
            print(f"{'':12} {label}: {found['calls']} calls, {found['milliseconds']} ms", flush=True)
        results.append(result)
    write(arguments.output, results=results)


if __name__ == "__main__":
    main()
