"""Many steps of the same work on a GPU, each one launch: a step as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

# The first step makes the optimizer's state and compiles; the second one is the first that finds both.
WARMUP = 3


class Replayed:
    """A function that works on tensors in place, called a few times and from then on replayed as a CUDA graph.

    The calls that warm it up do the work of steps as well, so all steps together come to what plain calls come to.

    Parameters
    ----------
    function : callable
        Takes nothing and gives nothing; everything that it reads and writes stays where it is in the GPU's memory.
    """

    def __init__(self, function: Callable[[], None]):
        self.function = function
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream()

    def __call__(self, count: int) -> None:
        """Do so many steps."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            for _ in range(count):
                self._step()
        current.wait_stream(self.stream)

    def _step(self) -> None:
        self.calls += 1
        if self.calls <= WARMUP:
            self.function()
            return
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.function()
        self.graph.replay()


class Streams:
    """As many streams as there are functions, for work of which each part fills but little of a GPU."""

    def __init__(self) -> None:
        self.streams: list[torch.cuda.Stream] = []

    def __call__(self, functions: Iterable[Callable[[], Tensor]]) -> list[Tensor]:
        """Call all functions, each on a stream of its own; the current stream waits for all of them."""
        functions = list(functions)
        self.streams += [torch.cuda.Stream() for _ in functions[len(self.streams) :]]
        current, results = torch.cuda.current_stream(), []
        for function, stream in zip(functions, self.streams, strict=True):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                results.append(function())
        for stream in self.streams:
            current.wait_stream(stream)
        return results
