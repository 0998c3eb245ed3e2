"""Dropout of what versors don't mix: whole multivectors, or whole grades."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cliffnn.algebra import Algebra, AlgebraLike
from cliffnn.checks import check_multivector


def dropout(x: Tensor, algebra: AlgebraLike, p: float = 0.5, training: bool = True, by_grade: bool = False) -> Tensor:
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

    Returns
    -------
    Tensor
        ``(..., blades, channels)``.

    Raises
    ------
    ValueError, TypeError
        If ``p`` is no probability, or ``x`` no floating tensor with the algebra's number of blades.

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
    check_multivector("x", x, algebra)
    check_probability(p)
    if not training or p == 0:
        return x
    sizes = algebra.grade_sizes if by_grade else (len(algebra),)
    dtype = torch.promote_types(x.dtype, torch.float32)  # the scale would be rounded too
    kept = nn.functional.dropout(x.new_ones(*x.shape[:-2], len(sizes), x.shape[-1], dtype=dtype), p)
    if by_grade:
        parts = zip(kept.split(1, -2), sizes, strict=True)
        kept = torch.cat([part.expand(*part.shape[:-2], blades, -1) for part, blades in parts], -2)
    return (x * kept).to(x.dtype)


def check_probability(p: float) -> None:
    """Complain about a p that is no probability."""
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise ValueError(f"p: got {p!r}, wanted a number from 0 to 1")
