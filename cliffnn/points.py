"""Points as multivectors."""

from __future__ import annotations

import torch
from torch import Tensor

from cliffnn.algebra import Algebra, AlgebraLike, GradesLike
from cliffnn.checks import check_tensor
from cliffnn.grades import embed, extract


def embed_points(x: Tensor, algebra: AlgebraLike, out_grades: GradesLike = None) -> Tensor:
    r"""Make multivectors of points: vectors, or in a plane-based algebra the meet of planes.

    Without a null basis vector a point is the vector of its coordinates, and the origin stays where it is. With one,
    a point is where its coordinate planes :math:`x_i = p_i` meet, of grade p + q,

    .. math:: P = \bigwedge_i (e_i - m_i p_i e_0)

    with the metric :math:`m_i`, which is 1 in Euclidean space; products of two unit vectors translate and turn it.
    A reflection moves it too, and changes the sign of P, which `extract_points` does not see.

    Parameters
    ----------
    x : Tensor
        Coordinates along the basis vectors that are not null, ``(..., p + q, channels)``.
    algebra : str, int, tuple or Algebra
        With at most one null basis vector.
    out_grades : int, tuple of int or None
        That the result holds, that of points among them; None: all.

    Returns
    -------
    Tensor
        ``(..., blades, channels)``.

    Raises
    ------
    ValueError, TypeError
        If the algebra has more null basis vectors, or ``x`` another number of coordinates.

    References
    ----------
    De Keninck, Dorst: Geometric Algebra Levels Up, guide to plane-based geometric algebra, 2020.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> F.embed_points(torch.tensor([[2.0], [3.0]]), "R2,0,1").squeeze(-1)  # e12 - 2 e02 + 3 e01, up to order
    tensor([ 0.,  0.,  0.,  0.,  3., -2.,  1.,  0.])
    """
    algebra = Algebra(algebra)
    grade, signs = _points(algebra)
    check_tensor("x", x, algebra.p + algebra.q, f"points in {algebra.name}", "coordinates")
    if not algebra.r:
        return embed(x, grade, algebra, out_grades)
    # blades without their i-th vector come in descending order of i
    coordinates = [sign * part for sign, part in zip(signs, x.split(1, -2), strict=True)]
    weight = x.new_ones(*x.shape[:-2], 1, x.shape[-1])
    return embed(torch.cat([*reversed(coordinates), weight], -2), grade, algebra, out_grades)


def extract_points(x: Tensor, algebra: AlgebraLike, eps: float = 0.0) -> Tensor:
    r"""The coordinates of points, the inverse of `embed_points`.

    In a plane-based algebra they are divided by the point's weight w, the coefficient of :math:`e_1 e_2 \cdots`.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``.
    algebra : str, int, tuple or Algebra
        With at most one null basis vector.
    eps : float
        Divide by :math:`(w^2 + \varepsilon) / w`, which stays finite where a network makes the weight pass zero.

    Returns
    -------
    Tensor
        ``(..., p + q, channels)``.

    Raises
    ------
    ValueError, TypeError
        If the algebra has more null basis vectors, ``x`` not its number of blades, or ``eps`` is negative.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> point = F.embed_points(torch.tensor([[2.0], [3.0]]), "R2,0,1")
    >>> F.extract_points(-5 * point, "R2,0,1").squeeze(-1)
    tensor([2., 3.])
    """
    algebra = Algebra(algebra)
    grade, signs = _points(algebra)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not eps >= 0:
        raise ValueError(f"eps: got {eps!r}, wanted a number of at least 0")
    blades = extract(x, grade, algebra)
    if not algebra.r:
        return blades
    *coordinates, weight = blades.split(1, -2)
    point = torch.cat([sign * part for sign, part in zip(signs, reversed(coordinates), strict=True)], -2)
    return point * (weight / (weight.square() + eps)) if eps else point / weight


def _points(algebra: Algebra) -> tuple[int, list[int]]:
    """The grade of points, and the sign of each coordinate where it is a meet of planes."""
    if algebra.r > 1:
        raise ValueError(f"algebra: got {algebra.name}, wanted one with at most one null basis vector, to have points")
    # moving e0 to the front, past i vectors
    metric = algebra.signature[algebra.r :]
    return (algebra.p + algebra.q if algebra.r else 1), [-m * (-1) ** i for i, m in enumerate(metric)]
