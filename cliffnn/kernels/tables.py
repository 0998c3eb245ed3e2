"""Small tables of integers on a device, made once."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


@functools.cache
def table(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Integers as an int32 tensor that lives as long as the process.

    It is made by a thread of its own: what a thread allocates while torch.compile warms up a CUDA graph belongs to the
    graph, which gives the memory to others afterwards.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(torch.tensor, values, dtype=torch.int32, device=device).result()
