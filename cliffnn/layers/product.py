"""The steerable geometric product."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import cliffnn.functional as F
from cliffnn.algebra import Algebra, AlgebraLike, GradesLike, Path
from cliffnn.checks import checked_paths, held_grades
from cliffnn.layers.base import MVLayer, check_input, checked_channels, grades_repr


class SGP(MVLayer):
    r"""The geometric product of two multivectors, with a learned weight for each channel and path.

    .. math:: o_c = \sum_{(i, j, k)} w_{ijk,c}
        \left\langle \langle x_c \rangle_i \langle y_c \rangle_j \right\rangle_k

    From two ``(..., blades, channels)`` to one.

    Parameters
    ----------
    channels : int or None
        None: taken from the first input.
    algebra : str, int, tuple or Algebra
    device, dtype
        Of the weight.
    x_grades, y_grades, out_grades : int, tuple of int or None
        That the factors and the result hold, and only these are computed with; None: all.

    Attributes
    ----------
    weight : Parameter
        ``(paths, channels)``, in the order of `paths`; initially normal, with the variance that keeps the size of
        blades whose factors are independent and of unit variance.
    paths : tuple of tuple of int
        `Algebra.paths_between` the grades.

    Raises
    ------
    ValueError, TypeError
        For channels that are no positive int, an unknown algebra or grade, grades that no product has,
        inputs of other shapes.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, equation 11.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import SGP
    >>> x, y = torch.randn(2, 5, 8, 16)
    >>> SGP(16, "R3")(x, y).shape
    torch.Size([5, 8, 16])

    Vectors in, scalars and bivectors out:

    >>> x, y = torch.randn(2, 5, 3, 16)
    >>> SGP(16, "R3", x_grades=1, y_grades=1, out_grades=(0, 2))(x, y).shape
    torch.Size([5, 4, 16])
    """

    def __init__(
        self,
        channels: int | None = None,
        algebra: AlgebraLike | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        x_grades: GradesLike = None,
        y_grades: GradesLike = None,
        out_grades: GradesLike = None,
    ):
        super().__init__(algebra)
        self.x_grades = held_grades(self.algebra, x_grades, "x_grades")
        self.y_grades = held_grades(self.algebra, y_grades, "y_grades")
        self.out_grades = held_grades(self.algebra, out_grades, "out_grades")
        self.paths = checked_paths(self.algebra, self.x_grades, self.y_grades, self.out_grades)
        self.channels = checked_channels("channels", channels)
        self.weight = self.parameter((len(self.paths), self.channels), device, dtype)
        self.finish_init()

    def grades_of(self, name: str) -> tuple[int, ...] | None:
        return self.x_grades if name == "x" else self.y_grades

    def infer_channels(self, x: Tensor) -> None:
        if self.channels is None:
            self.channels = (x if is_lazy(self.weight) else self.weight).shape[-1]

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        assert self.channels is not None
        return {"weight": (len(self.paths), self.channels)}

    def reset_parameters(self) -> None:
        if self.channels is not None:
            initialize_product_weight(self.weight, self.algebra, self.paths)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        check_input(self, "x", x, self.channels, self.weight)
        check_input(self, "y", y, self.channels, self.weight)
        grades = self.x_grades, self.y_grades, self.out_grades
        return F.weighted_geometric_product(x, y, self.weight, self.algebra, *grades)

    def extra_repr(self) -> str:
        grades = grades_repr(x_grades=self.x_grades, y_grades=self.y_grades, out_grades=self.out_grades)
        return f"{self.channels}, algebra={self.algebra.name!r}{grades}"


def initialize_product_weight(
    weight: Tensor, algebra: Algebra, paths: tuple[Path, ...] | None = None, channels: int = 1
) -> None:
    """Normal weights, their variance one over the number of products that a blade of the path's result sums.

    They are summed over so many channels, and over ``paths``, by default all.
    """
    paths = algebra.paths if paths is None else paths
    products = [0] * len(algebra.grades)
    for blades in algebra.products:
        i, j, k = (algebra.grade_of_blades[blade] for blade in blades[:3])
        products[k] += (i, j, k) in paths
    with torch.no_grad():
        for path, (_, _, k) in enumerate(paths):
            nn.init.normal_(weight[path], std=math.sqrt(algebra.grade_sizes[k] / (products[k] * channels)))
