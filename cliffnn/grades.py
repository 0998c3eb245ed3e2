"""Multivectors of some grades: into full ones and out of them, and numbers that come one a grade."""

from __future__ import annotations

import torch
from torch import Tensor

from cliffnn.algebra import Algebra, AlgebraLike, GradesLike
from cliffnn.checks import check_multivector, check_tensor


def embed(x: Tensor, grades: int | tuple[int, ...], algebra: AlgebraLike, out_grades: GradesLike = None) -> Tensor:
    """Make multivectors of some grades, zero elsewhere.

    Parameters
    ----------
    x : Tensor
        ``(..., blades of these grades, channels)``: scalars ``(..., 1, channels)``, vectors ``(..., n, channels)``.
    grades : int or tuple of int
        Whose blades ``x`` holds, in ascending order.
    algebra : str, int, tuple or Algebra
    out_grades : int, tuple of int or None
        That the result holds, those of ``x`` among them; None: all.

    Returns
    -------
    Tensor
        ``(..., blades, channels)``.

    Raises
    ------
    ValueError, TypeError
        If the algebra has no such grade, or ``x`` another number of blades than these grades.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> positions = torch.randn(5, 3)
    >>> F.embed(positions[..., None], 1, "R3").shape
    torch.Size([5, 8, 1])
    """
    algebra = Algebra(algebra)
    grades = algebra.checked_grades(grades)
    held = algebra.grades if out_grades is None else algebra.checked_grades(out_grades, "out_grades")
    if not set(grades) <= set(held):
        raise ValueError(f"out_grades: got {out_grades!r}, wanted {grades} among them, which x holds")
    slices = algebra.slices_of(grades)
    check_tensor("x", x, len(algebra.blades_of(grades)), f"grades {grades} of {algebra.name}")
    if held == grades:
        return x
    parts = [
        x[..., slices[k], :] if k in slices else x.new_zeros(*x.shape[:-2], algebra.grade_sizes[k], x.shape[-1])
        for k in held
    ]
    return torch.cat(parts, -2)


def extract(x: Tensor, grades: int | tuple[int, ...], algebra: AlgebraLike) -> Tensor:
    """The blades of some grades, the inverse of `embed`.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``.
    grades : int or tuple of int
        In ascending order.
    algebra : str, int, tuple or Algebra

    Returns
    -------
    Tensor
        ``(..., blades of these grades, channels)``.

    Raises
    ------
    ValueError, TypeError
        If the algebra has no such grade, or ``x`` not its number of blades.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> F.extract(torch.randn(5, 8, 16), 1, "R3").shape
    torch.Size([5, 3, 16])
    """
    algebra = Algebra(algebra)
    grades = algebra.checked_grades(grades)
    check_multivector("x", x, algebra)
    parts = [x[..., algebra.grade_slices[k], :] for k in grades]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -2)


def grade(x: Tensor, grades: int | tuple[int, ...], algebra: AlgebraLike) -> Tensor:
    r"""Project to some grades, :math:`\langle x \rangle_k`: the other blades are zero.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``.
    grades : int or tuple of int
        In ascending order.
    algebra : str, int, tuple or Algebra

    Returns
    -------
    Tensor
        ``(..., blades, channels)``.

    Raises
    ------
    ValueError, TypeError
        If the algebra has no such grade, or ``x`` not its number of blades.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> F.grade(torch.ones(4, 1), (0, 2), "R2").squeeze(-1)
    tensor([1., 0., 0., 1.])
    """
    return embed(extract(x, grades, algebra), grades, algebra)


def by_blade(x: Tensor, algebra: Algebra, grades: GradesLike = None) -> Tensor:
    """``(..., grades, channels)`` to ``(..., blades, channels)``: each blade gets what its grade has."""
    slices = algebra.slices_of(grades).values()
    parts = [part.expand(*x.shape[:-2], s.stop - s.start, -1) for part, s in zip(x.split(1, -2), slices, strict=True)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -2)
