"""The product layer of Clifford group networks in one pass over memory."""

from __future__ import annotations

from torch import Tensor

from cliffnn.algebra import Algebra, AlgebraLike, GradesLike
from cliffnn.apply import apply
from cliffnn.expressions import PATHS


def steerable_geometric_product(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    weight: Tensor,
    degree: Tensor,
    algebra: AlgebraLike,
    eps: float = 1e-6,
    x_grades: GradesLike = None,
    y_grades: GradesLike = None,
    out_grades: GradesLike = None,
) -> Tensor:
    r"""A weighted geometric product with a normalised right factor, and a term of first order.

    .. math:: o = \frac{1}{\sqrt 2} \left(z + \operatorname{wgp}(x, \operatorname{normalize}(y, a), w)\right)

    It equals the same of `weighted_geometric_product` and `normalize`.

    Parameters
    ----------
    x, y, z : Tensor
        ``(..., blades, channels)``; leading dimensions broadcast.
    weight : Tensor
        :math:`w`, ``(paths, channels)``, in the order of `Algebra.paths`; of `Algebra.paths_between` the grades, where
        they are given.
    degree : Tensor
        :math:`a`, to what degree each grade of ``y`` is normalised: ``(grades, channels)``.
    algebra : str, int, tuple or Algebra
    eps : float
        See `normalize`.
    x_grades, y_grades, out_grades : int, tuple of int or None
        That the factors and the result hold, as ``z`` does, and only these are computed with; None: all.

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
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, equation 11, and the
    authors' code.

    Examples
    --------
    >>> import torch, cliffnn
    >>> import cliffnn.functional as F
    >>> algebra = cliffnn.Algebra("R1,3")
    >>> x, y, z = torch.randn(3, 10, 16, 32)
    >>> weight, degree = torch.randn(len(algebra.paths), 32), torch.zeros(5, 32)
    >>> F.steerable_geometric_product(x, y, z, weight, degree, algebra).shape
    torch.Size([10, 16, 32])
    """
    return apply(
        "steerable_geometric_product",
        Algebra(algebra),
        {"x": x, "y": y, "z": z},
        {"weight": (PATHS, weight), "degree": ("y", degree)},
        eps=eps,
        grades={"x": x_grades, "y": y_grades, "z": out_grades, "out": out_grades},
    )
