"""Dropout of what versors don't mix: whole multivectors, or whole grades."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cliffnn.algebra import Algebra, AlgebraLike, GradesLike
from cliffnn.checks import check_multivector, held_grades
from cliffnn.grades import by_blade


def dropout(
    x: Tensor,
    algebra: AlgebraLike,
    p: float = 0.5,
    training: bool = True,
    by_grade: bool = False,
    grades: GradesLike = None,
) -> Tensor:
    r"""Set multivectors to zero at random, and scale the others by 1 / (1 - p).

    All blades of a channel fall together: a part of a grade would turn into other blades.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``.
    algebra : str, int, tuple or Algebra
    p : float
        The probability to be set to zero. Drawn from torch's generator, as `torch.nn.functional.dropout` does.
    training : bool
        If not, ``x`` comes back as it is.
    by_grade : bool
        Whether each grade falls by itself, or the whole multivector.
    grades : int, tuple of int or None
        That ``x`` and the result hold; None: all.

    Returns
    -------
    Tensor
        ``(..., blades, channels)``.

    Raises
    ------
    ValueError, TypeError
        If ``p`` is no probability, or ``x`` no floating tensor with the algebra's number of blades.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov: Dropout, JMLR 15, 2014.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> out = F.dropout(torch.ones(4, 1000), "R2")
    >>> out.unique(dim=1)  # whole multivectors
    tensor([[0., 2.],
            [0., 2.],
            [0., 2.],
            [0., 2.]])
    """
    algebra = Algebra(algebra)
    grades = held_grades(algebra, grades)
    check_multivector("x", x, algebra, grades)
    check_probability(p)
    if not training or p == 0:
        return x
    count = len(grades or algebra.grades) if by_grade else 1
    dtype = torch.promote_types(x.dtype, torch.float32)  # the scale would be rounded too
    kept = nn.functional.dropout(x.new_ones(*x.shape[:-2], count, x.shape[-1], dtype=dtype), p)
    return (x * (by_blade(kept, algebra, grades) if by_grade else kept)).to(x.dtype)


def check_probability(p: float) -> None:
    """Complain about a p that is no probability."""
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise ValueError(f"p: got {p!r}, wanted a number from 0 to 1")
