"""The geometric product between multivectors of some grades, path by path."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from functools import cached_property

from cliffnn import operation
from cliffnn.algebra import Algebra, Path

_NAMES = "x", "y", "out"


@dataclass(frozen=True)
class GradedProduct:
    """The geometric product of multivectors that hold some grades.

    It has a text, which is how operators, files and compilers speak of it: ``R3``, or ``R3[x=1,y=1,out=0+2]``.

    Attributes
    ----------
    algebra : Algebra
    x, y, out : tuple of int
        The grades that the factors and the result hold.
    """

    algebra: Algebra
    x: tuple[int, ...]
    y: tuple[int, ...]
    out: tuple[int, ...]

    @staticmethod
    @functools.cache
    def of(text: str) -> GradedProduct:
        """The product of a text."""
        match = re.fullmatch(r"([^\[]+)(?:\[((?:x|y|out)=[\d+]+(?:,(?:x|y|out)=[\d+]+)*)\])?", text)
        if match is None:
            raise ValueError(f"product: got {text!r}, wanted a text as R3, or R3[x=1,y=1,out=0+2]")
        algebra = Algebra(match[1])
        held = dict(option.split("=") for option in match[2].split(",")) if match[2] else {}
        grades = (tuple(map(int, held[name].split("+"))) if name in held else algebra.grades for name in _NAMES)
        return GradedProduct(algebra, *grades)

    @cached_property
    def text(self) -> str:
        held = (None if grades == self.algebra.grades else grades for grades in (self.x, self.y, self.out))
        return product_text(self.algebra.name, *held)

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        return self.algebra.paths_between(self.x, self.y, self.out)

    @cached_property
    def path_sizes(self) -> tuple[int, ...]:
        """How many blades the result of each path has."""
        return tuple(self.algebra.grade_sizes[k] for *_, k in self.paths)

    @cached_property
    def sizes(self) -> tuple[int, int, int]:
        """How many blades the factors and the result hold."""
        x, y, out = (len(self.algebra.blades_of(held)) for held in (self.x, self.y, self.out))
        return x, y, out

    @cached_property
    def out_slices(self) -> dict[int, slice]:
        """Where each grade of the result lies."""
        return self.algebra.slices_of(self.out)

    @cached_property
    def terms(self) -> tuple[tuple[int, int, int, int, int], ...]:
        """``(path, a, b, c, sign)``: the number of a path, and where blades with ``blade_a blade_b = sign blade_c`` lie
        in the factors and the result.
        """
        grade = self.algebra.grade_of_blades
        number = {path: index for index, path in enumerate(self.paths)}
        x, y, out = (
            {blade: place for place, blade in enumerate(self.algebra.blades_of(held))}
            for held in (self.x, self.y, self.out)
        )
        return tuple(
            (number[path], x[a], y[b], out[c], sign)
            for a, b, c, sign in self.algebra.products
            if (path := (grade[a], grade[b], grade[c])) in number
        )


def product_text(
    algebra: str, x: tuple[int, ...] | None = None, y: tuple[int, ...] | None = None, out: tuple[int, ...] | None = None
) -> str:
    """The text of the product of multivectors that hold some grades; None: all.

    Examples
    --------
    >>> product_text("R3", x=(1,), y=(1,), out=(0, 2))
    'R3[x=1,y=1,out=0+2]'
    """
    return operation.text(algebra, dict(zip(_NAMES, (x, y, out), strict=True)))


# torch.compile calls this function where it would trace others: see `cliffnn.algebra`.
product_text._dynamo_marked_constant = True  # type: ignore[attr-defined]
