"""Nonlinearities that the scalar part of a multivector opens and closes."""

from __future__ import annotations

from torch import Tensor

import cliffnn.functional as F
from cliffnn.algebra import AlgebraLike, GradesLike
from cliffnn.checks import gated_grades
from cliffnn.gates import check_activation
from cliffnn.layers.base import MVLayer, grades_repr


class MVGELU(MVLayer):
    r"""Gate each multivector by its scalar part, :math:`x \, \Phi(\langle x \rangle_0)`.

    From ``(..., blades, channels)`` to as many.

    Parameters
    ----------
    algebra : str, int, tuple or Algebra
    grades : int, tuple of int or None
        That the input and the result hold, the scalar among them; None: all.

    Raises
    ------
    ValueError, TypeError
        For an unknown algebra or grade, grades without the scalar, or an input that is no ``(..., blades, channels)``.

    References
    ----------
    Hendrycks, Gimpel: Gaussian Error Linear Units, arXiv:1606.08415, of the scalar part as in Brehmer, de Haan,
    Behrends, Cohen: Geometric Algebra Transformer, arXiv:2305.18415, section 3.2.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import MVGELU
    >>> MVGELU("R3")(torch.randn(5, 8, 16)).shape
    torch.Size([5, 8, 16])
    """

    def __init__(self, algebra: AlgebraLike | None = None, grades: GradesLike = None):
        super().__init__(algebra)
        self.grades = gated_grades(self.algebra, grades)
        self.finish_init()

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, self.algebra, self.grades)

    def extra_repr(self) -> str:
        return f"algebra={self.algebra.name!r}{grades_repr(grades=self.grades)}"


class MVGate(MVLayer):
    r"""Multiply each multivector with an activation of its scalar part, :math:`x \, \varphi(\langle x \rangle_0)`.

    ``"sigmoid"`` makes SiLU of a scalar. `MVGELU` is none of these: it multiplies with :math:`\Phi(s)`, not with
    :math:`s \, \Phi(s)`.

    From ``(..., blades, channels)`` to as many.

    Parameters
    ----------
    activation : str
        :math:`\varphi(s)`: ``"relu"`` :math:`\max(s, 0)`, ``"gelu"`` :math:`s \, \Phi(s)`, ``"silu"``
        :math:`s / (1 + e^{-s})`, ``"sigmoid"`` :math:`1 / (1 + e^{-s})` or ``"tanh"``.
    algebra : str, int, tuple or Algebra
    grades : int, tuple of int or None
        That the input and the result hold, the scalar among them; None: all.

    Raises
    ------
    ValueError, TypeError
        For an unknown activation, algebra or grade, grades without the scalar, or an input that is no
        ``(..., blades, channels)``.

    References
    ----------
    Brehmer, de Haan, Behrends, Cohen: Geometric Algebra Transformer, arXiv:2305.18415, section 3.2.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import MVGate
    >>> MVGate("sigmoid", "R3")(torch.randn(5, 8, 16)).shape
    torch.Size([5, 8, 16])
    """

    def __init__(self, activation: str, algebra: AlgebraLike | None = None, grades: GradesLike = None):
        super().__init__(algebra)
        self.grades = gated_grades(self.algebra, grades)
        check_activation(activation)
        self.activation = activation
        self.finish_init()

    def forward(self, x: Tensor) -> Tensor:
        return F.gate(x, self.activation, self.algebra, self.grades)

    def extra_repr(self) -> str:
        return f"{self.activation!r}, algebra={self.algebra.name!r}{grades_repr(grades=self.grades)}"
