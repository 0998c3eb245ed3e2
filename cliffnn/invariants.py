"""What versors leave as it is: scalars, quadratic forms, inner products."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from cliffnn.algebra import Algebra, AlgebraLike, GradesLike
from cliffnn.checks import check_multivector, held_grades, without_autocast


def invariants(x: Tensor, algebra: AlgebraLike, inner_products: bool = False, grades: GradesLike = None) -> Tensor:
    r"""The invariants of a multivector: its scalars, and the quadratic form of every other grade.

    .. math:: \langle x_c \rangle_0, \qquad q_k(x_c) = \sum_{b \in k} m_b x_{bc}^2, \qquad
        \text{or}\quad q_k(x_c, x_{c'}) = \sum_{b \in k} m_b x_{bc} x_{bc'} \text{ for all } c \le c'

    with the signs :math:`m_b` of `Algebra.quadratic_form`, for the grades k > 0 of `Algebra.normed_grades`; versors,
    odd ones too, leave all of them as they are. They are polynomials, thus smooth everywhere, where the norm
    :math:`\sqrt{|q_k|}` is not: at zero and on the null cone.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``.
    algebra : str, int, tuple or Algebra
    inner_products : bool
        Whether the form is taken between all pairs of channels, or of each channel alone.
    grades : int, tuple of int or None
        That ``x`` holds; None: all. Those without an invariant, whose blades are all null, give no features.

    Returns
    -------
    Tensor
        ``(..., features)``: first the scalars of all channels, if ``x`` has any, then grade by grade the forms; with
        inner products the pairs are ordered lexicographically.

    Raises
    ------
    ValueError, TypeError
        If ``x`` is no floating tensor with the algebra's number of blades.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, section 2, for
    the form of each grade.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> vectors = torch.tensor([[3.0, 1.0], [4.0, 0.0]])  # (3, 4) and (1, 0)
    >>> F.invariants(F.embed(vectors, 1, "R2"), "R2")
    tensor([ 0.,  0., 25.,  1.,  0.,  0.])
    >>> F.invariants(F.embed(vectors, 1, "R2"), "R2", inner_products=True)
    tensor([ 0.,  0., 25.,  3.,  1.,  0.,  0.,  0.])
    """
    algebra = Algebra(algebra)
    held = held_grades(algebra, grades)
    check_multivector("x", x, algebra, held)
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    slices = _slices(algebra, held)
    features = [values[..., 0, :]] if 0 in slices else []
    forms = {k: s for k, s in slices.items() if k}
    if inner_products:
        first, second = torch.triu_indices(x.shape[-1], x.shape[-1], device=x.device)
        pairs = first * x.shape[-1] + second
        for k, blades in forms.items():
            part = values[..., blades, :]
            with without_autocast(x.device.type):
                products = _lowered(part, k, algebra).mT @ part
            features.append(products.flatten(-2).index_select(-1, pairs))
    else:
        features += [quadratic_form(values[..., blades, :], k, algebra) for k, blades in forms.items()]
    return torch.cat(features, -1).to(x.dtype)


def feature_count(algebra: Algebra, channels: int, inner_products: bool, grades: GradesLike = None) -> int:
    """How many invariants there are."""
    slices = _slices(algebra, grades)
    forms = channels * (channels + 1) // 2 if inner_products else channels
    return sum(forms if k else channels for k in slices)


def quadratic_form(x: Tensor, grade: int, algebra: Algebra) -> Tensor:
    """q_k of a grade's blades, ``(..., blades, channels)`` to ``(..., channels)``; zero if all of them are null."""
    return (_lowered(x, grade, algebra) * x).sum(-2)


def _slices(algebra: Algebra, grades: GradesLike) -> dict[int, slice]:
    """Where the grades lie that have an invariant."""
    slices = {k: s for k, s in algebra.slices_of(grades).items() if k in algebra.normed_grades}
    if not slices:
        raise ValueError(f"grades: got {grades!r}, wanted some with blades that are not null in {algebra.name}")
    return slices


def _lowered(part: Tensor, grade: int, algebra: Algebra) -> Tensor:
    """The blades of a grade times their metric: by runs of one sign, so that no table has to come to the device."""
    metric = algebra.quadratic_form[algebra.grade_slices[grade]]
    runs = [(sign, len(list(run))) for sign, run in itertools.groupby(metric)]
    parts = part.split([length for _, length in runs], -2)
    signed = [sign * run if sign != 1 else run for (sign, _), run in zip(runs, parts, strict=True)]
    return signed[0] if len(signed) == 1 else torch.cat(signed, -2)
