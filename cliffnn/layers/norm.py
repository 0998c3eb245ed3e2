"""Normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import cliffnn.functional as F
from cliffnn.algebra import AlgebraLike, GradesLike
from cliffnn.checks import held_grades
from cliffnn.grades import by_blade
from cliffnn.layers.base import MVLayer, check_input, checked_channels, checked_eps, grades_repr


class MVRMSNorm(MVLayer):
    r"""Divide each grade by its root mean square over the channels.

    .. math:: \langle o_c \rangle_k = g_{k,c} \frac{\langle x_c \rangle_k}
        {\sqrt{\operatorname{mean}_{c'} |q_k(x_{c'})| + \varepsilon}}

    with the algebra's quadratic form :math:`q_k`. A grade whose blades are all null is left as it is.

    From ``(..., blades, channels)`` to as many.

    Parameters
    ----------
    channels : int or None
        None: any number; with ``elementwise_affine`` that of the first input.
    algebra : str, int, tuple or Algebra
    eps : float
        Added inside the root.
    elementwise_affine : bool
        Whether a gain :math:`g` for each grade and channel is learned.
    device, dtype
        Of the gain.
    grades : int, tuple of int or None
        That the input and the result hold; None: all.

    Attributes
    ----------
    weight : Parameter or None
        The gain, ``(grades, channels)``, of the grades held; initially one.

    Raises
    ------
    ValueError, TypeError
        For channels that are no positive int, an unknown algebra or grade, an input of another shape.

    References
    ----------
    Zhang, Sennrich: Root Mean Square Layer Normalization, arXiv:1910.07467.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import MVRMSNorm
    >>> x = MVRMSNorm(algebra="R3")(100 * torch.randn(5, 8, 16))
    >>> vectors = x[..., 1:4, :]
    >>> vectors.square().sum(-2).mean(-1).round(decimals=3)
    tensor([1., 1., 1., 1., 1.])
    """

    def __init__(
        self,
        channels: int | None = None,
        algebra: AlgebraLike | None = None,
        eps: float = 1e-6,
        elementwise_affine: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        grades: GradesLike = None,
    ):
        super().__init__(algebra)
        self.grades = held_grades(self.algebra, grades)
        self.channels = checked_channels("channels", channels)
        self.eps = checked_eps(eps)
        shape = (len(self.grades or self.algebra.grades), self.channels)
        self.weight = self.parameter(shape, device, dtype) if elementwise_affine else None
        self.finish_init()

    def infer_channels(self, x: Tensor) -> None:
        if self.channels is None and self.weight is not None:
            self.channels = (x if is_lazy(self.weight) else self.weight).shape[-1]

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        assert self.channels is not None
        return {"weight": (len(self.grades or self.algebra.grades), self.channels)}

    def reset_parameters(self) -> None:
        if self.weight is not None and self.channels is not None:
            nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, "x", x, self.channels, self.weight)
        out = F.rms_norm(x, self.algebra, self.eps, self.grades)
        if self.weight is None:
            return out
        return out * by_blade(self.weight, self.algebra, self.grades).to(out.dtype)

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, algebra={self.algebra.name!r}, eps={self.eps}, "
            f"elementwise_affine={self.weight is not None}{grades_repr(grades=self.grades)}"
        )
