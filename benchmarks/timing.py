"""Clocks: what a call takes of a device's time, of the host's, and of memory."""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch

_Name = TypeVar("_Name", bound=Hashable)

# How long a figure may take to measure, in milliseconds, how often at least and at most what it is the median of, and
# of how many loops it is the best.
_BUDGET, _LEAST, _MOST, _LOOPS = 60, 5, 31, 8


def stay_on(processor: int | None) -> None:
    """Keep this thread, and those that it starts, on one of the host's processors.

    A thread that wakes up on another, as autograd's does, runs slowly for a while.
    """
    if processor is not None:
        os.sched_setaffinity(0, {processor})


def copy_bandwidth(device: str = "cuda") -> float:
    """Bytes read and written a second by the fastest of many copies of 2 GiB, on a CPU of 128 MiB."""
    source = torch.randn(2**29 if device == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    times = [_elapsed(lambda: target.copy_(source), device) for _ in range(30)]
    return 2 * source.numel() * source.element_size() / (min(times) * 1e-3)


def replay_milliseconds(run: Callable[..., Any], buffers: Sequence[tuple]) -> float:
    """Median time of one call, by replays of a graph that calls once on each of the buffers.

    Results are kept while the graph is made, so that each call writes to memory of its own, as each reads its own.
    """
    # garbage of an earlier backward may hold nodes of the graph of autograd that belong to another stream, which a
    # capture must not wait for
    gc.collect()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(*buffers[0])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [run(*buffer) for buffer in buffers]
    graph.replay()
    times = _repeat(lambda: _elapsed(graph.replay))
    del results
    return statistics.median(times) / len(buffers)


def loop_milliseconds(run: Callable[..., Any], buffers: Sequence[tuple]) -> float:
    """Time of a call among many with no wait in between; see `loops_milliseconds`."""
    return loops_milliseconds({"": (run, buffers)})[""]


def loops_milliseconds(calls: Mapping[_Name, tuple[Callable[..., Any], Sequence[tuple]]]) -> dict[_Name, float]:
    """Time of a call among many with no wait in between, as a training loop calls: the host's or the device's,
    whichever takes longer.

    Calls are functions and the buffers that they go through. They take turns, and the best of some loops counts:
    whatever else a host does only adds to it, for a while at a time.
    """

    def loop(name: _Name, count: int) -> float:
        run, buffers = calls[name]
        wait = torch.cuda.synchronize if buffers[0][0].is_cuda else lambda: None
        wait()
        start = time.perf_counter()
        for i in range(count):
            run(*buffers[i % len(buffers)])
        wait()
        return (time.perf_counter() - start) * 1e3 / count

    # so many that waiting for a loop's end weighs little; the first may compile, and allocates
    counts = {}
    for name, (_, buffers) in calls.items():
        loop(name, len(buffers))
        counts[name] = max(1, min(1000, int(_BUDGET / _LOOPS / loop(name, len(buffers)))))
    best = dict.fromkeys(calls, math.inf)
    for _ in range(_LOOPS):
        for name, count in counts.items():
            best[name] = min(best[name], loop(name, count))
    return best


def eager_milliseconds(run: Callable[..., Any], buffers: Sequence[tuple]) -> float:
    """Median time of one call and a wait for it, the host's work included."""
    times = []
    for _ in range(5):
        for buffer in buffers:
            torch.cuda.synchronize()
            start = time.perf_counter()
            run(*buffer)
            torch.cuda.synchronize()
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def peak_bytes(run: Callable[..., Any], buffer: tuple) -> int:
    """How much more memory is allocated at the peak of a call than before it: results and gradients included.

    The most of some calls: what is given back late, and not by the call, makes it seem less. The backward runs in this
    thread, since one of autograd's own may give memory back after the next call has begun.
    """

    def once() -> int:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(*buffer)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    with torch.autograd.set_multithreading_enabled(False):
        # the first call may compile
        run(*buffer)
        return max(once() for _ in range(3))


def profile(run: Callable[[], Any], device: str) -> dict[str, Any]:
    """What a call runs on a device, kernels of a GPU or operators of a CPU: how many, their time, which take most.

    A profiler's own work makes the operators of a CPU seem slower.
    """
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    run()
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profiled(activities=[activity]) as found:
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    def milliseconds(event: Any) -> float:
        return (event.self_device_time_total if device == "cuda" else event.self_cpu_time_total) / 1e3

    events = sorted((event for event in found.key_averages() if milliseconds(event)), key=milliseconds, reverse=True)
    return {
        "calls": sum(event.count for event in events),
        "milliseconds": round(sum(map(milliseconds, events)), 3),
        "most": {event.key[:80]: [event.count, round(milliseconds(event), 4)] for event in events[:12]},
    }


def cache_bytes(device: torch.device) -> int:
    """Size of the device's last cache; on a CPU there is no figure, and none is rotated past."""
    return torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 0


def _repeat(measure: Callable[[], float]) -> list[float]:
    """As often as the budget allows."""
    once = measure()
    return [measure() for _ in range(max(_LEAST, min(_MOST, int(_BUDGET / once))))]


def _elapsed(run: Callable[[], Any], device: str = "cuda") -> float:
    if device != "cuda":
        begin = time.perf_counter()
        run()
        return (time.perf_counter() - begin) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)
