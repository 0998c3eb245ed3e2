"""The two normalisations of Clifford group networks, each with a learned size."""

from __future__ import annotations

import torch
from torch import Tensor

from cliffnn import by_grade
from cliffnn.algebra import Algebra, AlgebraLike
from cliffnn.checks import check_eps, prepared


def layer_norm(x: Tensor, weight: Tensor, algebra: AlgebraLike, eps: float = 1e-6) -> Tensor:
    r"""Divide by the mean norm over the channels.

    .. math:: o_c = \frac{a_c \, x_c}{\operatorname{mean}_{c'} \|x_{c'}\| + \varepsilon}, \qquad
        \|x\| = \left(q(x)^2 + 10^{-16}\right)^{1/4}

    with the algebra's quadratic form over all grades, :math:`q(x) = \sum_k q_k(x)`: the root of its absolute value,
    made smooth.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``.
    weight : Tensor
        :math:`a`, ``(channels,)``.
    algebra : str, int, tuple or Algebra
    eps : float
        Added to the mean norm.

    Returns
    -------
    Tensor
        ``(..., blades, channels)``.

    Raises
    ------
    ValueError, TypeError
        If a tensor has another shape, dtype or device than these, or ``eps`` is negative.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, and the authors' code.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> x = torch.tensor([[0.0], [3.0], [4.0], [0.0]])
    >>> F.layer_norm(x, torch.ones(1), "R2").squeeze(-1)
    tensor([0.0000, 0.6000, 0.8000, 0.0000])
    """
    algebra = Algebra(algebra)
    check_eps(eps)
    dtype, (x, weight) = prepared(algebra, x, {"weight": weight})
    norm = by_grade.smooth_norm(by_grade.quadratic_form(x, algebra)).mean(-1, keepdim=True)
    return by_grade.scale(x, weight / (norm + eps), algebra).to(dtype)


def normalize(x: Tensor, weight: Tensor, algebra: AlgebraLike, eps: float = 1e-6) -> Tensor:
    r"""Divide each grade by its norm, to a learned degree.

    .. math:: \langle o_c \rangle_k = \frac{\langle x_c \rangle_k}
        {\sigma(a_{k,c}) \left(\|\langle x_c \rangle_k\| - 1\right) + 1 + \varepsilon}, \qquad
        \|\langle x \rangle_k\| = \left(q_k(x)^2 + 10^{-16}\right)^{1/4}

    with the logistic function :math:`\sigma`: at 0 the grade stays as it is, at 1 it is divided by its
    norm.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``.
    weight : Tensor
        :math:`a`, ``(grades, channels)``.
    algebra : str, int, tuple or Algebra
    eps : float
        Added to the denominator.

    Returns
    -------
    Tensor
        ``(..., blades, channels)``.

    Raises
    ------
    ValueError, TypeError
        If a tensor has another shape, dtype or device than these, or ``eps`` is negative.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, and the authors' code.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> x = torch.tensor([[0.0], [3.0], [4.0], [0.0]])
    >>> F.normalize(x, torch.full((3, 1), 100.0), "R2").squeeze(-1)
    tensor([0.0000, 0.6000, 0.8000, 0.0000])
    """
    algebra = Algebra(algebra)
    check_eps(eps)
    dtype, (x, weight) = prepared(algebra, x, {"weight": weight}, len(algebra.grades))
    degree = torch.sigmoid(weight)
    norms = by_grade.smooth_norm(by_grade.quadratic_forms(x, algebra))
    # the same as in the equation, in one operation on what is large
    denominator = torch.addcmul(1 - degree + eps, degree, norms)
    return by_grade.scale(x, denominator.reciprocal(), algebra).to(dtype)
