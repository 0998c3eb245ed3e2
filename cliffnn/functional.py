"""The public functions: checks, then one operator.

Multivectors are tensors ``(..., blades, channels)`` of float64, float32, bfloat16 or float16; blades in the order of
`Algebra.blades`. Arithmetic is in float32, for float64 in float64. Gradients are right to every order; those beyond
the first run unfused.
"""

from __future__ import annotations

import einops
import torch
from torch import Tensor

from cliffnn.algebra import Algebra, AlgebraLike
from cliffnn.checks import (
    autocast,
    autocasting,
    broadcast,
    check_alike,
    check_multivector,
    check_tensor,
    checked_grades,
    checked_layout,
)
from cliffnn.linear import linear as _linear
from cliffnn.normalization import layer_norm, normalize
from cliffnn.ops import geometric_op
from cliffnn.silu import silu

__all__ = [
    "embed",
    "extract",
    "from_blades_first",
    "from_channels_first",
    "gelu",
    "gelu_sgp_norm",
    "geometric_product",
    "grade",
    "layer_norm",
    "linear",
    "normalize",
    "rms_norm",
    "silu",
    "to_blades_first",
    "to_channels_first",
    "weighted_geometric_product",
]


def gelu(x: Tensor, algebra: AlgebraLike) -> Tensor:
    r"""Gate a multivector by its scalar part.

    .. math:: \operatorname{gelu}(x) = x \, \Phi(\langle x \rangle_0)

    with the exact cumulative normal distribution.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``.
    algebra : str, int, tuple or Algebra

    Returns
    -------
    Tensor
        ``(..., blades, channels)``.

    Raises
    ------
    ValueError, TypeError
        If ``x`` is no floating tensor with the algebra's number of blades.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> x = torch.tensor([[0.0], [2.0], [0.0], [0.0]])
    >>> F.gelu(x, "R2").squeeze(-1)
    tensor([0., 1., 0., 0.])
    """
    algebra = Algebra(algebra)
    return _apply("gelu", algebra, {"x": x})


def geometric_product(x: Tensor, y: Tensor, algebra: AlgebraLike) -> Tensor:
    """The geometric product, channel by channel.

    Parameters
    ----------
    x, y : Tensor
        ``(..., blades, channels)``; leading dimensions and channels broadcast.
    algebra : str, int, tuple or Algebra

    Returns
    -------
    Tensor
        ``(..., blades, channels)``.

    Raises
    ------
    ValueError, TypeError
        If a tensor has not the algebra's number of blades, or the two differ in dtype or device or do not broadcast.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> e1, e2 = F.embed(torch.eye(2)[..., None], 1, "R2")
    >>> F.geometric_product(e1, e2, "R2").squeeze(-1)
    tensor([0., 0., 0., 1.])
    """
    algebra = Algebra(algebra)
    return _apply("geometric_product", algebra, {"x": x, "y": y})


def weighted_geometric_product(x: Tensor, y: Tensor, weight: Tensor, algebra: AlgebraLike) -> Tensor:
    r"""The geometric product with a weight for each channel and path.

    .. math:: o_c = \sum_{(i, j, k)} w_{ijk,c}
        \left\langle \langle x_c \rangle_i \langle y_c \rangle_j \right\rangle_k

    Parameters
    ----------
    x, y : Tensor
        ``(..., blades, channels)``; leading dimensions broadcast.
    weight : Tensor
        ``(paths, channels)``, in the order of `Algebra.paths`.
    algebra : str, int, tuple or Algebra

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
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, equation 11.

    Examples
    --------
    >>> import torch, cliffnn
    >>> import cliffnn.functional as F
    >>> algebra = cliffnn.Algebra("R2")
    >>> x, y = torch.randn(2, 5, 4, 8)
    >>> weight = torch.ones(len(algebra.paths), 8)
    >>> product = F.weighted_geometric_product(x, y, weight, algebra)
    >>> torch.allclose(product, F.geometric_product(x, y, algebra), atol=1e-6)
    True
    """
    algebra = Algebra(algebra)
    return _apply("weighted_geometric_product", algebra, {"x": x, "y": y}, {"weight": weight})


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, algebra: AlgebraLike) -> Tensor:
    r"""Mix channels, with a matrix for each grade.

    .. math:: \langle o_c \rangle_k = \sum_{c'} W_{k,c c'} \langle x_{c'} \rangle_k + \delta_{k0} b_c

    Under float32, products are as exact as `torch.set_float32_matmul_precision` asks for.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, in_channels)``.
    weight : Tensor
        ``(grades, out_channels, in_channels)``.
    bias : Tensor or None
        ``(out_channels,)``, added to the scalar blade: anywhere else it would break equivariance.
    algebra : str, int, tuple or Algebra

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
    algebra = Algebra(algebra)
    check_multivector("x", x, algebra)
    tensors = {"x": x, "weight": weight} | ({} if bias is None else {"bias": bias})
    if autocasting(x.device.type):
        tensors = autocast(tensors)
    check_alike(tensors)
    x, weight, bias = tensors["x"], tensors["weight"], tensors.get("bias")
    if weight.ndim != 3 or weight.shape[::2] != (len(algebra.grades), x.shape[-1]):
        raise ValueError(
            f"weight: got shape {tuple(weight.shape)}, wanted ({len(algebra.grades)} grades of {algebra.name}, "
            f"out_channels, {x.shape[-1]} in_channels)"
        )
    if bias is not None and bias.shape != weight.shape[1:2]:
        raise ValueError(f"bias: got shape {tuple(bias.shape)}, wanted ({weight.shape[1]} out_channels,)")
    out = _linear(_flat(x, x.shape), weight, bias, algebra)
    return out if x.ndim == 3 else out.reshape(*x.shape[:-1], weight.shape[1])


def rms_norm(x: Tensor, algebra: AlgebraLike, eps: float = 1e-6) -> Tensor:
    r"""Divide each grade by its root mean square over the channels.

    .. math:: \langle o_c \rangle_k = \frac{\langle x_c \rangle_k}
        {\sqrt{\operatorname{mean}_{c'} |q_k(x_{c'})| + \varepsilon}}

    with the algebra's quadratic form :math:`q_k` on grade k (`Algebra.quadratic_form`). A grade whose blades are all
    null is left as it is.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``.
    algebra : str, int, tuple or Algebra
    eps : float
        Added inside the root.

    Returns
    -------
    Tensor
        ``(..., blades, channels)``.

    Raises
    ------
    ValueError, TypeError
        If ``x`` is no floating tensor with the algebra's number of blades, or ``eps`` is negative.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> F.rms_norm(torch.tensor([[5.0], [3.0], [4.0], [0.0]]), "R2").squeeze(-1)
    tensor([1.0000, 0.6000, 0.8000, 0.0000])
    """
    algebra = Algebra(algebra)
    return _apply("identity", algebra, {"x": x}, normalize=True, eps=eps)


def gelu_sgp_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    algebra: AlgebraLike,
    normalize: bool = True,
    eps: float = 1e-6,
) -> Tensor:
    r"""GELU of both factors, weighted geometric product, RMS norm, in one pass over memory.

    .. math:: o = \operatorname{rms\_norm}(\operatorname{wgp}(\operatorname{gelu}(x), \operatorname{gelu}(y), w))

    It equals `rms_norm` of `weighted_geometric_product` of the two `gelu`.

    Parameters
    ----------
    x, y : Tensor
        ``(..., blades, channels)``; leading dimensions broadcast.
    weight : Tensor
        ``(paths, channels)``, in the order of `Algebra.paths`.
    algebra : str, int, tuple or Algebra
    normalize : bool
        Whether the norm is taken.
    eps : float
        Added inside the root of the norm.

    Returns
    -------
    Tensor
        ``(..., blades, channels)``.

    Raises
    ------
    ValueError, TypeError
        If a tensor has another shape, dtype or device than these, or ``eps`` is negative.

    Examples
    --------
    >>> import torch, cliffnn
    >>> import cliffnn.functional as F
    >>> algebra = cliffnn.Algebra("R1,3")
    >>> x, y = torch.randn(2, 10, 16, 32)
    >>> weight = torch.randn(len(algebra.paths), 32)
    >>> F.gelu_sgp_norm(x, y, weight, algebra).shape
    torch.Size([10, 16, 32])
    """
    algebra = Algebra(algebra)
    return _apply("gelu_weighted_geometric_product", algebra, {"x": x, "y": y}, {"weight": weight}, normalize, eps)


def embed(x: Tensor, grades: int | tuple[int, ...], algebra: AlgebraLike) -> Tensor:
    """Make multivectors of some grades, zero elsewhere.

    Parameters
    ----------
    x : Tensor
        ``(..., blades of these grades, channels)``: scalars ``(..., 1, channels)``, vectors ``(..., n, channels)``.
    grades : int or tuple of int
        Whose blades ``x`` holds, in ascending order.
    algebra : str, int, tuple or Algebra

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
    grades = checked_grades(grades, algebra)
    check_tensor("x", x, sum(algebra.grade_sizes[k] for k in grades), f"grades {grades} of {algebra.name}")
    given = dict(zip(grades, x.split([algebra.grade_sizes[k] for k in grades], -2), strict=True))
    parts = [
        given[k] if k in given else x.new_zeros(*x.shape[:-2], algebra.grade_sizes[k], x.shape[-1])
        for k in algebra.grades
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
    grades = checked_grades(grades, algebra)
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


def to_channels_first(x: Tensor) -> Tensor:
    """``(..., blades, channels)`` to ``(..., channels, blades)``, as CGENN and GATr have it.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> F.to_channels_first(torch.zeros(10, 8, 32)).shape
    torch.Size([10, 32, 8])
    """
    return einops.rearrange(checked_layout(x), "... blades channels -> ... channels blades")


def from_channels_first(x: Tensor) -> Tensor:
    """``(..., channels, blades)`` to ``(..., blades, channels)``, the inverse of `to_channels_first`.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> F.from_channels_first(torch.zeros(10, 32, 8)).shape
    torch.Size([10, 8, 32])
    """
    return einops.rearrange(checked_layout(x), "... channels blades -> ... blades channels")


def to_blades_first(x: Tensor) -> Tensor:
    """``(..., blades, channels)`` to ``(blades, ..., channels)``, as flash-clifford has it.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> F.to_blades_first(torch.zeros(10, 8, 32)).shape
    torch.Size([8, 10, 32])
    """
    return einops.rearrange(checked_layout(x), "... blades channels -> blades ... channels")


def from_blades_first(x: Tensor) -> Tensor:
    """``(blades, ..., channels)`` to ``(..., blades, channels)``, the inverse of `to_blades_first`.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> F.from_blades_first(torch.zeros(8, 10, 32)).shape
    torch.Size([10, 8, 32])
    """
    return einops.rearrange(checked_layout(x), "blades ... channels -> ... blades channels")


def _apply(
    expression: str,
    algebra: Algebra,
    rows: dict[str, Tensor],
    params: dict[str, Tensor] | None = None,
    normalize: bool = False,
    eps: float = 1e-6,
) -> Tensor:
    """Check the arguments, flatten the leading dimensions, run the operator."""
    for name, row in rows.items():
        check_multivector(name, row, algebra)
    if not isinstance(eps, (int, float)) or not eps >= 0:
        raise ValueError(f"eps: got {eps!r}, wanted a number of at least 0")
    params = params or {}
    if autocasting(next(iter(rows.values())).device.type):
        rows, params = autocast(rows), autocast(params)
    check_alike({**rows, **params})
    shape = broadcast(rows)
    for name, param in params.items():
        for row_name, row in rows.items():
            if row.shape[-1] != shape[-1]:
                raise ValueError(f"{row_name}: got {row.shape[-1]} channels, wanted {shape[-1]}, as the other has")
        wanted = (len(algebra.paths), shape[-1])
        if tuple(param.shape) != wanted:
            raise ValueError(
                f"{name}: got shape {tuple(param.shape)}, wanted {wanted}: (paths of {algebra.name}, channels)"
            )
    flat = [_flat(row, shape) for row in rows.values()]
    coefficients = [param.contiguous() for param in params.values()]
    out = geometric_op(expression, algebra, flat, coefficients, normalize, eps)
    return out if out.shape == shape else out.reshape(shape)


def _flat(row: Tensor, shape: torch.Size) -> Tensor:
    """Contiguous, with one leading dimension; views that change nothing cost host time too."""
    if row.shape != shape:
        row = row.expand(shape)
    if len(shape) != 3:
        row = row.reshape(-1, *shape[-2:])
    return row.contiguous()
