"""Clocks: what a call takes of a device's time, of the host's, and of memory."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

# How long a figure may take to measure, in milliseconds, and how often at least and at most what it is the median of.
_BUDGET, _LEAST, _MOST = 60, 5, 31


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
    """Median time of a call among many with no wait in between, as a training loop calls: the host's or the device's,
    whichever takes longer.
    """
    wait = torch.cuda.synchronize if buffers[0][0].is_cuda else lambda: None

    def loop(count: int) -> float:
        wait()
        start = time.perf_counter()
        for i in range(count):
            run(*buffers[i % len(buffers)])
        wait()
        return (time.perf_counter() - start) * 1e3 / count

    once = loop(len(buffers))
    # a fifth of the budget a loop, so that waiting for its end weighs little
    count = max(1, min(1000, int(_BUDGET / 5 / once)))
    return statistics.median(loop(count) for _ in range(5))


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
    """How much more memory is allocated at the peak of a call than before it: results and gradients included."""
    run(*buffer)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run(*buffer)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


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
