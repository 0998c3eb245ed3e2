"""Gates: a multivector times a function of its scalar part."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cliffnn.algebra import Algebra, AlgebraLike, GradesLike
from cliffnn.apply import apply
from cliffnn.checks import autocast, autocasting, check_multivector, gated_grades

GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def gate(x: Tensor, activation: str, algebra: AlgebraLike, grades: GradesLike = None) -> Tensor:
    r"""Multiply a multivector with an activation of its scalar part.

    .. math:: \operatorname{gate}(x) = x \, \varphi(\langle x \rangle_0)

    ``"sigmoid"`` makes SiLU of a scalar. `gelu` multiplies with another function than ``"gelu"``: with
    :math:`\Phi(s)`, which makes GELU of a scalar, where this one multiplies with :math:`s \, \Phi(s)`.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``.
    activation : str
        :math:`\varphi(s)`: ``"relu"`` :math:`\max(s, 0)`, ``"gelu"`` :math:`s \, \Phi(s)`, ``"silu"``
        :math:`s / (1 + e^{-s})`, ``"sigmoid"`` :math:`1 / (1 + e^{-s})` or ``"tanh"``.
    algebra : str, int, tuple or Algebra
    grades : int, tuple of int or None
        That ``x`` and the result hold, the scalar among them; None: all.

    Returns
    -------
    Tensor
        ``(..., blades, channels)``.

    Raises
    ------
    ValueError, TypeError
        For another activation, or if ``x`` is no floating tensor with the algebra's number of blades.

    References
    ----------
    Brehmer, de Haan, Behrends, Cohen: Geometric Algebra Transformer, arXiv:2305.18415, section 3.2.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> x = torch.tensor([[2.0, -2.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    >>> F.gate(x, "relu", "R2")
    tensor([[4., -0.],
            [2., 0.],
            [0., 0.],
            [0., 0.]])
    """
    algebra = Algebra(algebra)
    check_multivector("x", x, algebra, gated_grades(algebra, grades))
    check_activation(activation)
    if autocasting(x.device.type):
        x = autocast({"x": x})["x"]
    scalar = x[..., :1, :].to(torch.promote_types(x.dtype, torch.float32))
    return (x * GATES[activation](scalar)).to(x.dtype)


def gelu(x: Tensor, algebra: AlgebraLike, grades: GradesLike = None) -> Tensor:
    r"""Gate a multivector by its scalar part.

    .. math:: \operatorname{gelu}(x) = x \, \Phi(\langle x \rangle_0)

    with the exact cumulative normal distribution.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``.
    algebra : str, int, tuple or Algebra
    grades : int, tuple of int or None
        That ``x`` holds, the scalar among them; None: all.

    Returns
    -------
    Tensor
        ``(..., blades, channels)``.

    Raises
    ------
    ValueError, TypeError
        If ``x`` is no floating tensor with the algebra's number of blades.

    References
    ----------
    Hendrycks, Gimpel: Gaussian Error Linear Units, arXiv:1606.08415, of the scalar part as in Brehmer, de Haan,
    Behrends, Cohen: Geometric Algebra Transformer, arXiv:2305.18415, section 3.2.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> x = torch.tensor([[0.0], [2.0], [0.0], [0.0]])
    >>> F.gelu(x, "R2").squeeze(-1)
    tensor([0., 1., 0., 0.])
    """
    algebra = Algebra(algebra)
    grades = gated_grades(algebra, grades)
    return apply("gelu", algebra, {"x": x}, grades={"x": grades, "out": grades})


def check_activation(activation: str) -> None:
    """Complain about what `gate` does not know."""
    if activation not in GATES:
        raise ValueError(f"activation: got {activation!r}, wanted one of {', '.join(map(repr, GATES))}")
