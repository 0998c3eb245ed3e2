"""What is measured: subjects, their sizes, and the parts of the suite that these make."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from benchmarks import plain
from cliffnn import Algebra


@dataclass(frozen=True)
class Subject:
    """Something that contenders compute.

    Attributes
    ----------
    factors : int
        How many multivectors come row by row.
    passes : tuple of int
        How many times a tensor of multivectors must be read or written, forward and forward + backward.
    parameters : callable
        Gives parameters for an algebra and a number of channels.
    plain : callable
        Gives the function of factors and parameters, in torch.
    tf32 : bool
        Whether matrix products may use TF32; the tolerance follows.
    """

    factors: int
    passes: tuple[int, int]
    parameters: Callable[[Algebra, int], list[Tensor]]
    plain: Callable[..., Callable[..., Tensor]]
    tf32: bool

    @property
    def tolerance(self) -> float:
        """How large the relative error of a float32 result or gradient may be."""
        return 1e-2 if self.tf32 else 1e-4


def _weight(algebra: Algebra, channels: int) -> list[Tensor]:
    return [torch.randn(len(algebra.paths), channels)]


def _matrices(algebra: Algebra, channels: int) -> list[Tensor]:
    return [torch.randn(len(algebra.grades), channels, channels) / math.sqrt(channels)]


def _block(algebra: Algebra, channels: int) -> list[Tensor]:
    # a bias of zero: a contender that adds it to every blade computes the same
    return [*_matrices(algebra, channels), torch.zeros(channels), *_weight(algebra, channels)]


SUBJECTS = {
    "operator": Subject(2, (3, 8), _weight, plain.operator, tf32=False),
    "block": Subject(1, (2, 5), _block, plain.block, tf32=True),
    "linear": Subject(1, (2, 5), _matrices, plain.linear, tf32=True),
}


@dataclass(frozen=True)
class Case:
    """A subject at a size, in float32; perhaps a point of a scaling curve."""

    subject: str
    algebra: str
    rows: int
    channels: int
    curve: str = ""

    def __str__(self) -> str:
        return f"{self.subject} {self.algebra} {self.rows}x{self.channels}"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.rows, len(Algebra(self.algebra)), self.channels

    @property
    def bytes(self) -> int:
        """Of one tensor of multivectors."""
        return 4 * math.prod(self.shape)


def part(name: str, device: str) -> list[Case]:
    """The cases of a part: on a GPU the sizes that people train with, on a CPU small ones."""
    return _PARTS[name](device == "cuda")


def _grid(gpu: bool) -> list[Case]:
    """The grid that flash-clifford and flash-kingdon report on."""
    rows = (1024, 2048, 4096, 8192) if gpu else (128, 512)
    channels = (128, 256, 512, 1024) if gpu else (8, 32)
    return [Case("operator", *size) for size in product(("R2", "R3"), rows, channels)]


def _small(gpu: bool) -> list[Case]:
    """Where the host's work costs more than the device's."""
    rows, channels = ((32, 256, 1024) if gpu else (32,)), (8, 32)
    return [Case("operator", *size) for size in product(("R2", "R3"), rows, channels)]


def _layers(gpu: bool) -> list[Case]:
    sizes = ((4096, 128), (4096, 512), (65536, 32)) if gpu else ((512, 32), (4096, 8))
    return [Case(subject, "R3", *size) for subject in ("block", "linear") for size in sizes]


def _scaling(gpu: bool) -> list[Case]:
    """One of rows, channels, blades grows, the others stay."""
    rows = [2**n for n in range(10, 21, 2)] if gpu else [2**n for n in range(6, 13, 2)]
    channels = [2**n for n in range(5, 12)] if gpu else [2**n for n in range(3, 7)]
    width, height, size = (32, 4096, (32768, 32)) if gpu else (8, 256, (512, 8))
    return [
        *(Case("operator", "R3", n, width, "rows") for n in rows),
        *(Case("operator", "R3", height, n, "channels") for n in channels),
        *(Case("operator", f"R{n}", *size, "blades") for n in (2, 3, 4, 5)),
    ]


_PARTS = {"grid": _grid, "small": _small, "layers": _layers, "scaling": _scaling}
PARTS = tuple(_PARTS)
