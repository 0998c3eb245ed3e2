"""The linear maps that mix channels."""

from __future__ import annotations

import torch
from torch import Tensor

from cliffnn import linear as operators
from cliffnn.algebra import Algebra, AlgebraLike, GradesLike
from cliffnn.checks import autocast, autocasting, check_alike, check_multivector, flattened, held_grades


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, algebra: AlgebraLike, grades: GradesLike = None) -> Tensor:
    r"""Mix channels, with a matrix for each grade.

    .. math:: \langle o_c \rangle_k = \sum_{c'} W_{k,c c'} \langle x_{c'} \rangle_k + \delta_{k0} b_c

    Under float32, products are as exact as `torch.set_float32_matmul_precision` asks for; where it asks for
    float32, tensor cores give 21 to 22 of its 24 bits.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, in_channels)``.
    weight : Tensor
        ``(grades, out_channels, in_channels)``.
    bias : Tensor or None
        ``(out_channels,)``, added to the scalar blade: anywhere else it would break equivariance.
    algebra : str, int, tuple or Algebra
    grades : int, tuple of int or None
        That ``x`` and the result hold, the scalar among them if there is a bias; None: all.

    Returns
    -------
    Tensor
        ``(..., blades, out_channels)``.

    Raises
    ------
    ValueError, TypeError
        If a tensor has another shape, dtype or device than these.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, equation 9.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> x, weight = torch.randn(10, 8, 16), torch.randn(4, 32, 16)
    >>> F.linear(x, weight, None, "R3").shape
    torch.Size([10, 8, 32])
    """
    flat, sizes = _checked(x, weight, bias, algebra, grades)
    return _restored(operators.linear(*flat, sizes), x.shape[:-2])


def linear_beside(
    x: Tensor, weight: Tensor, bias: Tensor | None, algebra: AlgebraLike, grades: GradesLike = None
) -> tuple[Tensor, Tensor]:
    """The result of `linear`, and its input for what else is computed of it; see `cliffnn.linear.linear_beside`."""
    flat, sizes = _checked(x, weight, bias, algebra, grades)
    out, beside = operators.linear_beside(*flat, sizes)
    return _restored(out, x.shape[:-2]), _restored(beside, x.shape[:-2])


def _checked(
    x: Tensor, weight: Tensor, bias: Tensor | None, algebra: AlgebraLike, grades: GradesLike
) -> tuple[tuple[Tensor, Tensor, Tensor | None], tuple[int, ...]]:
    """The operator's arguments."""
    algebra = Algebra(algebra)
    held = held_grades(algebra, grades)
    check_multivector("x", x, algebra, held)
    tensors = {"x": x, "weight": weight} | ({} if bias is None else {"bias": bias})
    if autocasting(x.device.type):
        tensors = autocast(tensors)
    check_alike(tensors)
    x, weight, bias = tensors["x"], tensors["weight"], tensors.get("bias")
    sizes = algebra.grade_sizes if held is None else tuple(algebra.grade_sizes[k] for k in held)
    if weight.ndim != 3 or weight.shape[::2] != (len(sizes), x.shape[-1]):
        raise ValueError(
            f"weight: got shape {tuple(weight.shape)}, wanted ({len(sizes)} grades of {algebra.name}, "
            f"out_channels, {x.shape[-1]} in_channels)"
        )
    if bias is not None and held is not None and 0 not in held:
        raise ValueError(f"bias: got one with grades {held}, wanted None: it is added to the scalar, grade 0")
    if bias is not None and bias.shape != weight.shape[1:2]:
        raise ValueError(f"bias: got shape {tuple(bias.shape)}, wanted ({weight.shape[1]} out_channels,)")
    return (flattened(x, x.shape[:-2], x.shape[-1]), weight, bias), sizes


def _restored(out: Tensor, lead: torch.Size) -> Tensor:
    """With the leading dimensions that the input had."""
    return out if len(lead) == 1 else out.reshape(*lead, *out.shape[-2:])
