"""The gate of group action networks: each grade by a linear form of all blades."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import Tensor

from cliffnn.algebra import Algebra, AlgebraLike, GradesLike
from cliffnn.annotations import NAMES
from cliffnn.checks import autocast, autocasting, check_alike, check_multivector, check_shape, flattened, held_grades
from cliffnn.families import family, text_of
from cliffnn.ops import evaluate


def msilu(x: Tensor, weight: Tensor, bias: Tensor, algebra: AlgebraLike, grades: GradesLike = None) -> Tensor:
    r"""Gate each grade by a linear form of all blades.

    .. math:: \langle o_c \rangle_k = \sigma\left(\sum_b \beta_{k,b,c} \, x_{b,c} + \gamma_{k,c}\right)
        \langle x_c \rangle_k

    with the logistic function :math:`\sigma`. It is not equivariant, unless only the scalar weighs: `silu` is
    equivariant, its linear form being one of invariants.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``.
    weight : Tensor
        :math:`\beta`, ``(grades, blades, channels)``.
    bias : Tensor
        :math:`\gamma`, ``(grades, channels)``.
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
    Ruhe, Gupta, De Keninck, Welling, Brandstetter: Geometric Clifford Algebra Networks, arXiv:2302.06594: MSiLU.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> x = torch.tensor([[0.0], [3.0], [4.0], [0.0]])
    >>> F.msilu(x, torch.zeros(3, 4, 1), torch.zeros(3, 1), "R2").squeeze(-1)
    tensor([0.0000, 1.5000, 2.0000, 0.0000])
    """
    algebra = Algebra(algebra)
    grades = held_grades(algebra, grades)
    check_multivector("x", x, algebra, grades)
    held = grades or algebra.grades
    count, (blades, channels) = len(held), x.shape[-2:]
    check_shape("weight", weight, (count, blades, channels), "(grades, blades, channels)")
    check_shape("bias", bias, (count, channels), "(grades, channels)")
    tensors = {"x": x, "weight": weight, "bias": bias}
    if autocasting(x.device.type):
        tensors = autocast(tensors)
    check_alike(tensors)
    x, weight, bias = tensors.values()
    rows = flattened(x, x.shape[:-2], channels)
    what = text_of("msilu_gate", algebra.name, held, (*_parameters("weight", held), *_parameters("bias", held)))
    (out,) = evaluate(what, algebra, [rows, *weight.unbind(), *bias[:, None].unbind()])
    return out.reshape(x.shape)


@family
def msilu_gate(algebra: Algebra, *grades: int) -> Callable:
    """The gate of multivectors that hold some grades, with a multivector and a scalar of parameters for each."""

    def gate(x, *parameters):
        """sum over k of sigmoid(weight_k . x + bias_k) <x>_k"""
        weights, biases = parameters[: len(grades)], parameters[len(grades) :]
        out = 0 * x
        for k, weight, bias in zip(grades, weights, biases, strict=True):
            form = sum(w * value for w, value in zip(weight.values(), x.values(), strict=True)) + bias.e
            out = out + x.grade(k) * ((1 + (form / 2).tanh()) / 2)
        return out

    annotations: dict[str, object] = {"x": grades, **dict.fromkeys(_parameters("weight", grades), grades)}
    annotations |= dict.fromkeys(_parameters("bias", grades), 0)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    gate.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind, annotation=held) for name, held in annotations.items()]
    )
    return gate


def _parameters(name: str, grades: tuple[int, ...]) -> list[str]:
    """A name for each grade."""
    return [f"{name}_{NAMES[k]}" for k in grades]
