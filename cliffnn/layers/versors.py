"""The group action layer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import cliffnn.functional as F
from cliffnn.algebra import AlgebraLike, GradesLike
from cliffnn.checks import held_grades
from cliffnn.layers.base import MVLayer, check_input, checked_channels, grades_repr
from cliffnn.versors import versor_grades


class VersorLinear(MVLayer):
    r"""Let learned versors act on all channels, and sum what they make of them.

    .. math:: o_c = \sum_{c'} w_{cc'} \, u_{cc'} \, \hat x_{c'} \, u_{cc'}^{-1}, \qquad u = (a \tilde a)^{-1/2} a

    with the grade involution :math:`\hat x` if the versors are odd. They are rotors in ``"R3"``, motors in
    ``"R3,0,1"``: each pair of channels has a transformation of its own, which is exact whatever the weights are.

    It keeps grades, but is not equivariant: transformations commute with each other only in special cases, such as
    the rotations of the plane. See `cliffnn.functional.versor_linear`.

    From ``(..., blades, in_channels)`` to ``(..., blades, out_channels)``.

    Parameters
    ----------
    in_channels : int or None
        None: taken from the first input.
    out_channels : int or None
        None: as many as come in.
    algebra : str, int, tuple or Algebra
        Of at most five dimensions.
    odd : bool
        Whether the versors are odd: rotoreflections, where even ones are rotations, boosts, motors.
    device, dtype
        Of the parameters.
    grades : int, tuple of int or None
        That the input and the result hold; None: all.

    Attributes
    ----------
    versor : Parameter
        a, ``(out_channels, blades, in_channels)``, the even blades or the odd ones. Initially 1, or the first vector
        that is not null, and on all blades uniform noise, so small that each has an inverse.
    weight : Parameter
        w, ``(out_channels, in_channels)``, initially normal with variance 1 / in_channels.

    Raises
    ------
    ValueError, TypeError
        For channels that are no positive int, an unknown algebra or grade, one of six dimensions, odd versors where no
        vector is invertible, an input of another shape.

    References
    ----------
    Ruhe, Gupta, De Keninck, Welling, Brandstetter: Geometric Clifford Algebra Networks, arXiv:2302.06594.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import VersorLinear
    >>> VersorLinear(16, 32, "R3,0,1", grades=3)(torch.randn(5, 4, 16)).shape  # points
    torch.Size([5, 4, 32])
    """

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int | None,
        algebra: AlgebraLike | None = None,
        odd: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        grades: GradesLike = None,
    ):
        super().__init__(algebra)
        self.odd = bool(odd)
        self.grades = held_grades(self.algebra, grades)
        self.in_channels = checked_channels("in_channels", in_channels)
        self.out_channels = checked_channels("out_channels", out_channels)
        self._blades = len(self.algebra.blades_of(versor_grades(self.algebra, self.odd)))
        self.versor = self.parameter((self.out_channels, self._blades, self.in_channels), device, dtype)
        self.weight = self.parameter((self.out_channels, self.in_channels), device, dtype)
        self.finish_init()

    def infer_channels(self, x: Tensor) -> None:
        loaded = (None, None) if is_lazy(self.weight) else self.weight.shape
        self.in_channels = self.in_channels or loaded[1] or x.shape[-1]
        self.out_channels = self.out_channels or loaded[0] or self.in_channels

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        assert self.in_channels is not None
        assert self.out_channels is not None
        return {
            "versor": (self.out_channels, self._blades, self.in_channels),
            "weight": (self.out_channels, self.in_channels),
        }

    def reset_parameters(self) -> None:
        if self.in_channels is None or self.out_channels is None:
            return
        # the sum of the absolute values of the noise is below 1, the norm of what it is added to
        nn.init.uniform_(self.versor, -1 / self._blades, 1 / self._blades)
        with torch.no_grad():
            self.versor[:, self.algebra.r if self.odd else 0] += 1
        nn.init.normal_(self.weight, std=1 / math.sqrt(self.in_channels))

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, "x", x, self.in_channels, self.weight)
        return F.versor_linear(x, self.versor, self.weight, self.algebra, self.odd, self.grades)

    def extra_repr(self) -> str:
        chosen = f", odd={self.odd}{grades_repr(grades=self.grades)}"
        return f"{self.in_channels}, {self.out_channels}, algebra={self.algebra.name!r}{chosen}"
