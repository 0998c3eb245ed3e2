"""The gate of Clifford group networks: each grade by what is invariant of it."""

from __future__ import annotations

from torch import Tensor

from cliffnn.algebra import Algebra, AlgebraLike, GradesLike
from cliffnn.apply import apply


def silu(x: Tensor, weight: Tensor, bias: Tensor, algebra: AlgebraLike, grades: GradesLike = None) -> Tensor:
    r"""Gate each grade by its invariant: the scalar itself, and the quadratic form of every other grade.

    .. math:: \langle o_c \rangle_k = \sigma\left(a_{k,c} \, \iota_k(x_c) + b_{k,c}\right) \langle x_c \rangle_k,
        \qquad \iota_0(x) = \langle x \rangle_0, \quad \iota_k(x) = q_k(x)

    with the logistic function :math:`\sigma` and `Algebra.quadratic_form`.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``.
    weight, bias : Tensor
        :math:`a` and :math:`b`, ``(grades, channels)``.
    algebra : str, int, tuple or Algebra
    grades : int, tuple of int or None
        That ``x`` and the result hold; None: all.

    Returns
    -------
    Tensor
        ``(..., blades, channels)``.

    Raises
    ------
    ValueError, TypeError
        If a tensor has another shape, dtype or device than these.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, and the authors' code.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> x, ones = torch.tensor([[0.0], [3.0], [4.0], [0.0]]), torch.ones(3, 1)
    >>> F.silu(x, ones, 0 * ones, "R2").squeeze(-1)  # the vector's gate is the logistic function of 25
    tensor([0., 3., 4., 0.])
    """
    params = {"weight": ("x", weight), "bias": ("x", bias)}
    return apply("silu", Algebra(algebra), {"x": x}, params, grades={"x": grades, "out": grades})
