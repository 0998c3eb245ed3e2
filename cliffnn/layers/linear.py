"""The equivariant linear map."""

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
from cliffnn.mixing import linear_beside


class MVLinear(MVLayer):
    r"""Mix channels, with a matrix for each grade, or one for all.

    .. math:: \langle o_c \rangle_k = \sum_{c'} W_{k,c c'} \langle x_{c'} \rangle_k + \delta_{k0} b_c

    The bias lives on the scalar blade alone: anywhere else it would break equivariance.

    From ``(..., blades, in_channels)`` to ``(..., blades, out_channels)``.

    Parameters
    ----------
    in_channels : int or None
        None: taken from the first input.
    out_channels : int or None
        None: as many as come in.
    algebra : str, int, tuple or Algebra
    bias : bool
    device, dtype
        Of the parameters.
    per_grade : bool
        Whether each grade has a matrix of its own; else all share one.
    grades : int, tuple of int or None
        That the input and the result hold, the scalar among them if there is a bias; None: all.
    fan_in : int or None
        One over the initial variance of the weight: for maps whose results are added, the input channels of all. None:
        ``in_channels``.

    Attributes
    ----------
    weight : Parameter
        ``(grades, out_channels, in_channels)``, of the grades held; one matrix being ``(1, out_channels,
        in_channels)``; initially normal with variance 1 / fan_in.
    bias : Parameter or None
        ``(out_channels,)``, initially zero.

    Raises
    ------
    ValueError, TypeError
        For channels that are no positive int, an unknown algebra or grade, a bias without a scalar,
        an input of another shape.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, equation 9.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import MVLinear
    >>> layer = MVLinear(16, 32, "R3")
    >>> layer(torch.randn(5, 8, 16)).shape
    torch.Size([5, 8, 32])
    """

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int | None,
        algebra: AlgebraLike | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        per_grade: bool = True,
        grades: GradesLike = None,
        fan_in: int | None = None,
    ):
        super().__init__(algebra)
        self.grades = held_grades(self.algebra, grades)
        if bias and self.grades is not None and 0 not in self.grades:
            raise ValueError(
                f"bias: got {bias!r} with grades {self.grades}, wanted False: it is added to the scalar, grade 0"
            )
        self.matrices = self._grade_count if per_grade else 1
        self.in_channels = checked_channels("in_channels", in_channels)
        self.out_channels = checked_channels("out_channels", out_channels)
        self.fan_in = checked_channels("fan_in", fan_in)
        self.weight = self.parameter((self.matrices, self.out_channels, self.in_channels), device, dtype)
        # with the weight, so that either all parameters wait for the first input or none
        outputs = None if is_lazy(self.weight) else self.out_channels
        self.bias = self.parameter((outputs,), device, dtype) if bias else None
        self.finish_init()

    @property
    def _grade_count(self) -> int:
        return len(self.grades or self.algebra.grades)

    def infer_channels(self, x: Tensor) -> None:
        loaded = (None, None) if is_lazy(self.weight) else self.weight.shape[1:]
        self.in_channels = self.in_channels or loaded[1] or x.shape[-1]
        self.out_channels = self.out_channels or loaded[0] or self.in_channels

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        assert self.in_channels is not None
        assert self.out_channels is not None
        return {
            "weight": (self.matrices, self.out_channels, self.in_channels),
            "bias": (self.out_channels,),
        }

    def reset_parameters(self) -> None:
        if self.in_channels is None or self.out_channels is None:
            return
        nn.init.normal_(self.weight, std=1 / math.sqrt(self.fan_in or self.in_channels))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, beside: bool = False, bias: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Multiply, and add the bias, or one that is given in its place.

        ``beside`` asks for a pair, the result and ``x`` again, for what else is computed of ``x``. The gradient of that
        is then added where this layer's own is computed: one pass over a tensor instead of three. It is not to be
        written to.
        """
        check_input(self, "x", x, self.in_channels, self.weight)
        count = self._grade_count
        weight = self.weight if self.matrices == count else self.weight.expand(count, -1, -1)
        run = linear_beside if beside else F.linear
        return run(x, weight, self.bias if bias is None else bias, self.algebra, self.grades)

    def extra_repr(self) -> str:
        shared = "" if self.matrices == self._grade_count else ", per_grade=False"
        bias = self.bias is not None
        chosen = shared + grades_repr(grades=self.grades)
        return f"{self.in_channels}, {self.out_channels}, algebra={self.algebra.name!r}, bias={bias}{chosen}"
