"""Compiling ahead, in many processes: all that is timed later is run once, which fills the caches on disk.

Compilers take far longer than what is measured: flash-clifford compiles its kernels anew for each batch size, and
torch.compile here compiles for each size. Each of these runs on one core, so many go side by side.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.cases import Case
from benchmarks.contenders import COMPILED, EINSUM, MATMUL, Contenders
from benchmarks.measure import release, touch
from benchmarks.peers import available
from cliffnn import Algebra

Task = tuple[Case, str]
_contenders: Contenders = {}


def tasks(cases: Iterable[Case], contenders: Contenders) -> list[Task]:
    """Each contender that compiles something at each size once: torch.compile, which takes longest, comes last."""
    sizes = dict.fromkeys(replace(case, curve="") for case in cases)
    compiling = {name: builders for name, builders in contenders.items() if name not in (EINSUM, MATMUL)}
    found = [(case, name) for case in sizes for name, builders in compiling.items() if case.subject in builders]
    return sorted(found, key=lambda task: (task[1].startswith(COMPILED), -len(Algebra(task[0].algebra))))


def warm(work: list[Task], device: str, flash_clifford: Path | None, processes: int, seconds: float) -> set[Task]:
    """Run tasks in processes, for so many seconds at most; what is not done by then is returned."""
    start, left = time.perf_counter(), set(work)
    print(f"compiling ahead: {len(work)} tasks in {processes} processes", flush=True)
    with multiprocessing.get_context("spawn").Pool(processes, _begin, (flash_clifford,)) as pool:
        done = pool.imap_unordered(_work, [(task, device) for task in work])
        while left:
            try:
                task, took, failure = done.next(max(0.0, start + seconds - time.perf_counter()))
            except multiprocessing.TimeoutError:
                print(f"compiling ahead: {len(left)} tasks not done in {seconds:.0f} s", flush=True)
                break
            left.discard(task)
            note = f" ({failure})" if failure else ""
            clock = time.perf_counter() - start
            print(
                f"[{clock:4.0f} s] {len(work) - len(left)}/{len(work)} {task[0]} {task[1]}: {took:.0f} s{note}",
                flush=True,
            )
    return left


def _begin(flash_clifford: Path | None) -> None:
    """In each process, once."""
    from torch._inductor import config

    # there are as many processes as there should be, and each would start its own
    config.compile_threads = 1
    _contenders.update(available(flash_clifford))


def _work(job: tuple[Task, str]) -> tuple[Task, float, str | None]:
    (case, name), device = job
    start = time.perf_counter()
    failure = None
    try:
        touch(case, _contenders[name][case.subject], torch.device(device))
    except Exception as error:
        failure = one_line(error)
    release(torch.device(device))
    return (case, name), time.perf_counter() - start, failure


def one_line(error: Exception) -> str:
    """What went wrong, short enough for a table."""
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first.strip()[:160]}"
