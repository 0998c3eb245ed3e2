"""Learned versors that act on multivectors: the group action layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cliffnn.algebra import Algebra, AlgebraLike, GradesLike
from cliffnn.checks import autocast, autocasting, check_alike, check_multivector, check_shape, held_grades
from cliffnn.families import family, text_of
from cliffnn.ops import evaluate

# Beyond, an even multivector of norm one need not be a versor.
_MAX_DIMENSION = 5


def versor_linear(
    x: Tensor, versor: Tensor, weight: Tensor, algebra: AlgebraLike, odd: bool = False, grades: GradesLike = None
) -> Tensor:
    r"""Let versors act on all channels, and sum what they make of them.

    .. math:: o_c = \sum_{c'} w_{cc'} \, u_{cc'} \, \hat x_{c'} \, u_{cc'}^{-1}

    with the grade involution :math:`\hat x` if the versors are odd. Each u is what a multivector a becomes by the
    normalisation :math:`u = (a \tilde a)^{-1/2} a`, up to its sign: in at most five dimensions, a versor.

    It is not equivariant: :math:`v u x u^{-1} v^{-1}` is :math:`u v x v^{-1} u^{-1}` only where u and v commute, as
    rotations of the plane do. If a versor acts on the learned ones as well, it acts on the result.

    Rows share the versors, so each acts by a matrix for each grade, which one operator computes from a; the sum over
    channels is then a matrix product. Memory is that of the matrices: :math:`\binom{2n}{n}` numbers a pair of channels.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, in_channels)``.
    versor : Tensor
        a, ``(out_channels, blades, in_channels)``: the even blades, or the odd ones.
    weight : Tensor
        w, ``(out_channels, in_channels)``.
    algebra : str, int, tuple or Algebra
        Of at most five dimensions.
    odd : bool
        Whether the versors are odd: rotoreflections, where even ones are rotations, boosts, motors.
    grades : int, tuple of int or None
        That ``x`` and the result hold; None: all.

    Returns
    -------
    Tensor
        ``(..., blades, out_channels)``.

    Raises
    ------
    ValueError, TypeError
        For an algebra of six dimensions, odd versors where no vector is invertible, or if a tensor has another shape,
        dtype or device than these. Where the root does not exist, as of zero, the result is not finite.

    References
    ----------
    Ruhe, Gupta, De Keninck, Welling, Brandstetter: Geometric Clifford Algebra Networks, arXiv:2302.06594.
    Roelfs, De Keninck: Normalization, square roots, and the exponential and logarithmic maps in geometric algebras of
    less than 6D, arXiv:2206.07496.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> quarter_turn = torch.tensor([1.0, -1.0]).view(1, 2, 1)  # 1 - e12
    >>> e1 = F.embed(torch.tensor([[1.0], [0.0]]), 1, "R2")
    >>> F.versor_linear(e1, quarter_turn, torch.ones(1, 1), "R2").squeeze(-1)
    tensor([0., 0., 1., 0.])
    """
    algebra = Algebra(algebra)
    grades = held_grades(algebra, grades)
    check_multivector("x", x, algebra, grades)
    held = grades or algebra.grades
    parity = versor_grades(algebra, odd)
    check_multivector("versor", versor, algebra, parity)
    outputs, inputs = versor.shape[0], x.shape[-1]
    blades = len(algebra.blades_of(parity))
    check_shape("versor", versor, (outputs, blades, inputs), "(out_channels, blades, in_channels)")
    check_shape("weight", weight, (outputs, inputs), "(out_channels, in_channels)")
    casting = autocasting(x.device.type)
    check_alike({"versor": versor, "weight": weight, **({} if casting else {"x": x})})
    what = text_of("versor_matrices", algebra.name, (int(odd), *held))
    columns = list(evaluate(what, algebra, [versor, weight[:, None]]))
    if casting:
        # not the versors: they are normalised as they come
        x, *columns = autocast({str(index): tensor for index, tensor in enumerate((x, *columns))}).values()
        check_alike({"versor": columns[0], "x": x})
    sizes = [algebra.grade_sizes[k] for k in held]
    results = []
    for part, size in zip(x.split(sizes, -2), sizes, strict=True):
        # (out_channels, blades, blades, in_channels): of the result, of the input
        of_grade, columns = torch.stack(columns[:size], 2), columns[size:]
        matrix = of_grade.transpose(0, 1).flatten(2).flatten(0, 1)
        results.append(nn.functional.linear(part.flatten(-2), matrix).unflatten(-1, (size, -1)))
    return torch.cat(results, -2)


def versor_grades(algebra: Algebra, odd: bool) -> tuple[int, ...]:
    """The grades of even or odd versors; a complaint where they can't be normalised."""
    if algebra.dim > _MAX_DIMENSION:
        raise ValueError(
            f"algebra: got {algebra}, wanted one of at most {_MAX_DIMENSION} dimensions, where what has norm one is a "
            "versor"
        )
    if odd and not algebra.p + algebra.q:
        raise ValueError(f"odd: got {odd!r}, wanted False: no vector of {algebra} is invertible")
    return algebra.grades[bool(odd) :: 2]


@family
def versor_matrices(algebra: Algebra, odd: int, *grades: int) -> Callable:
    """What becomes of each blade of some grades: the columns of the matrices by which a versor acts."""

    def columns(versor, weight):
        """w u b u^-1, for each blade b, with u = (a ~a)^-1/2 a"""
        square = versor * ~versor
        scalar, rest = square.grade(0), square.grade(4)
        if not any(rest.values()):
            left, right = versor / scalar, ~versor
        else:
            # of what the versor times its reverse is
            sign = abs(scalar) / scalar if algebra.p and algebra.q else -1 if odd and algebra.q else 1
            norm = (scalar * scalar - (rest * rest).grade(0)).sqrt()
            total = norm + sign * scalar
            root = (total - sign * rest) / (norm * (2 * total).sqrt())
            left, right = sign * root * versor, ~versor * root
        blades = [algebra.kingdon.blades[name] for name in algebra.blades]
        return tuple(
            ((-1) ** (odd * k) * weight * left * blades[index] * right).grade(k)
            for k in grades
            for index in algebra.blades_of(k)
        )

    columns.__annotations__ = {"versor": versor_grades(algebra, bool(odd)), "weight": 0}
    return columns
