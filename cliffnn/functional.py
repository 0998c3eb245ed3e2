"""The public functions: checks, then one operator.

Multivectors are tensors ``(..., blades, channels)`` of float64, float32, bfloat16 or float16; blades in the order of
`Algebra.blades`. Arithmetic is in float32, for float64 in float64. Gradients are right to every order.
"""

from __future__ import annotations

import einops
import torch
from torch import Tensor

from cliffnn import flops  # noqa: F401  # registers formulas
from cliffnn.algebra import Algebra, AlgebraLike, GradesLike
from cliffnn.apply import apply
from cliffnn.checks import (
    autocast,
    autocasting,
    broadcast,
    check_alike,
    check_multivector,
    check_tensor,
    checked_layout,
    flattened,
    gated_grades,
    held_grades,
)
from cliffnn.dropout import dropout
from cliffnn.expressions import PATHS
from cliffnn.fully_connected import fully_connected as _fully_connected
from cliffnn.gates import gate
from cliffnn.invariants import invariants
from cliffnn.linear import linear as _linear
from cliffnn.msilu import msilu
from cliffnn.normalization import layer_norm, normalize
from cliffnn.pooling import pool
from cliffnn.silu import silu
from cliffnn.steerable import steerable_geometric_product
from cliffnn.versors import versor_linear

__all__ = [
    "dropout",
    "embed",
    "embed_points",
    "extract",
    "extract_points",
    "from_blades_first",
    "from_channels_first",
    "fully_connected_geometric_product",
    "gate",
    "gelu",
    "gelu_fcgp_norm",
    "gelu_sgp_norm",
    "geometric_product",
    "grade",
    "invariants",
    "layer_norm",
    "linear",
    "msilu",
    "normalize",
    "pool",
    "rms_norm",
    "silu",
    "steerable_geometric_product",
    "to_blades_first",
    "to_channels_first",
    "versor_linear",
    "weighted_geometric_product",
]


def gelu(x: Tensor, algebra: AlgebraLike, grades: GradesLike = None) -> Tensor:
    r"""Gate a multivector by its scalar part.

    .. math:: \operatorname{gelu}(x) = x \, \Phi(\langle x \rangle_0)

    with the exact cumulative normal distribution.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``.
    algebra : str, int, tuple or Algebra
    grades : int, tuple of int or None
        That ``x`` holds, the scalar among them; None: all.

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
    grades = gated_grades(algebra, grades)
    return apply("gelu", algebra, {"x": x}, grades={"x": grades, "out": grades})


def geometric_product(
    x: Tensor,
    y: Tensor,
    algebra: AlgebraLike,
    x_grades: GradesLike = None,
    y_grades: GradesLike = None,
    out_grades: GradesLike = None,
) -> Tensor:
    """The geometric product, channel by channel.

    Parameters
    ----------
    x, y : Tensor
        ``(..., blades, channels)``; leading dimensions and channels broadcast.
    algebra : str, int, tuple or Algebra
    x_grades, y_grades, out_grades : int, tuple of int or None
        That the factors and the result hold, and only these are computed with; None: all.

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
    grades = {"x": x_grades, "y": y_grades, "out": out_grades}
    return apply("geometric_product", algebra, {"x": x, "y": y}, grades=grades)


def weighted_geometric_product(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    algebra: AlgebraLike,
    x_grades: GradesLike = None,
    y_grades: GradesLike = None,
    out_grades: GradesLike = None,
) -> Tensor:
    r"""The geometric product with a weight for each channel and path.

    .. math:: o_c = \sum_{(i, j, k)} w_{ijk,c}
        \left\langle \langle x_c \rangle_i \langle y_c \rangle_j \right\rangle_k

    Parameters
    ----------
    x, y : Tensor
        ``(..., blades, channels)``; leading dimensions broadcast.
    weight : Tensor
        ``(paths, channels)``, in the order of `Algebra.paths`; of `Algebra.paths_between` the grades, where they are
        given.
    algebra : str, int, tuple or Algebra
    x_grades, y_grades, out_grades : int, tuple of int or None
        That the factors and the result hold, and only these are computed with; None: all.

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
    grades = {"x": x_grades, "y": y_grades, "out": out_grades}
    return apply("weighted_geometric_product", algebra, {"x": x, "y": y}, {"weight": (PATHS, weight)}, grades=grades)


def fully_connected_geometric_product(x: Tensor, y: Tensor, weight: Tensor, algebra: AlgebraLike) -> Tensor:
    r"""The geometric product, channel by channel, with a matrix over the channels for each path.

    .. math:: o_c = \sum_{c'} \sum_{(i, j, k)} W_{ijk,c c'}
        \left\langle \langle x_{c'} \rangle_i \langle y_{c'} \rangle_j \right\rangle_k

    Under float32, products are as exact as `torch.set_float32_matmul_precision` asks for.

    Parameters
    ----------
    x, y : Tensor
        ``(..., blades, in_channels)``; leading dimensions broadcast.
    weight : Tensor
        ``(paths, out_channels, in_channels)``, in the order of `Algebra.paths`.
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
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, section 3.

    Examples
    --------
    >>> import torch, cliffnn
    >>> import cliffnn.functional as F
    >>> algebra = cliffnn.Algebra("R2")
    >>> x, y = torch.randn(2, 5, 4, 8)
    >>> weight = torch.eye(8).expand(len(algebra.paths), 8, 8)
    >>> product = F.fully_connected_geometric_product(x, y, weight, algebra)
    >>> torch.allclose(product, F.geometric_product(x, y, algebra), atol=1e-5)
    True
    """
    return _fully_connected_product(x, y, weight, Algebra(algebra), gate=False)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, algebra: AlgebraLike, grades: GradesLike = None) -> Tensor:
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
    out = _linear(flattened(x, x.shape[:-2], x.shape[-1]), weight, bias, sizes)
    return out if x.ndim == 3 else out.reshape(*x.shape[:-1], weight.shape[1])


def rms_norm(x: Tensor, algebra: AlgebraLike, eps: float = 1e-6, grades: GradesLike = None) -> Tensor:
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
    grades : int, tuple of int or None
        That ``x`` holds; None: all.

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
    grades = held_grades(algebra, grades)
    return apply("identity", algebra, {"x": x}, normalize=True, eps=eps, grades={"x": grades, "out": grades})


def gelu_sgp_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    algebra: AlgebraLike,
    normalize: bool = True,
    eps: float = 1e-6,
    x_grades: GradesLike = None,
    y_grades: GradesLike = None,
    out_grades: GradesLike = None,
) -> Tensor:
    r"""GELU of both factors, weighted geometric product, RMS norm, in one pass over memory.

    .. math:: o = \operatorname{rms\_norm}(\operatorname{wgp}(\operatorname{gelu}(x), \operatorname{gelu}(y), w))

    It equals `rms_norm` of `weighted_geometric_product` of the two `gelu`.

    Parameters
    ----------
    x, y : Tensor
        ``(..., blades, channels)``; leading dimensions broadcast.
    weight : Tensor
        ``(paths, channels)``, in the order of `Algebra.paths`; of `Algebra.paths_between` the grades, where they are
        given.
    algebra : str, int, tuple or Algebra
    normalize : bool
        Whether the norm is taken.
    eps : float
        Added inside the root of the norm.
    x_grades, y_grades, out_grades : int, tuple of int or None
        That the factors and the result hold, and only these are computed with; None: all.

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
    gated = {name: gated_grades(algebra, k, f"{name}_grades") for name, k in (("x", x_grades), ("y", y_grades))}
    grades = {**gated, "out": out_grades}
    factors = {"x": x, "y": y}
    return apply(
        "gelu_weighted_geometric_product", algebra, factors, {"weight": (PATHS, weight)}, normalize, eps, grades
    )


def gelu_fcgp_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    algebra: AlgebraLike,
    normalize: bool = True,
    eps: float = 1e-6,
) -> Tensor:
    r"""GELU of both factors, fully connected geometric product, RMS norm; the gates are fused into the product.

    .. math:: o = \operatorname{rms\_norm}(\operatorname{fcgp}(\operatorname{gelu}(x), \operatorname{gelu}(y), W))

    It equals `rms_norm` of `fully_connected_geometric_product` of the two `gelu`.

    Parameters
    ----------
    x, y : Tensor
        ``(..., blades, in_channels)``; leading dimensions broadcast.
    weight : Tensor
        ``(paths, out_channels, in_channels)``, in the order of `Algebra.paths`.
    algebra : str, int, tuple or Algebra
    normalize : bool
        Whether the norm is taken.
    eps : float
        Added inside the root of the norm.

    Returns
    -------
    Tensor
        ``(..., blades, out_channels)``.

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
    >>> weight = torch.randn(len(algebra.paths), 8, 32)
    >>> F.gelu_fcgp_norm(x, y, weight, algebra).shape
    torch.Size([10, 16, 8])
    """
    algebra = Algebra(algebra)
    out = _fully_connected_product(x, y, weight, algebra, gate=True)
    return rms_norm(out, algebra, eps) if normalize else out


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
    grades = algebra.checked_grades(grades)
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


def embed_points(x: Tensor, algebra: AlgebraLike) -> Tensor:
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
        return embed(x, grade, algebra)
    # blades without their i-th vector come in descending order of i
    coordinates = [sign * part for sign, part in zip(signs, x.split(1, -2), strict=True)]
    weight = x.new_ones(*x.shape[:-2], 1, x.shape[-1])
    return embed(torch.cat([*reversed(coordinates), weight], -2), grade, algebra)


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


def _fully_connected_product(x: Tensor, y: Tensor, weight: Tensor, algebra: Algebra, gate: bool) -> Tensor:
    """Check the arguments, flatten the leading dimensions, run the operator."""
    for name, row in {"x": x, "y": y}.items():
        check_multivector(name, row, algebra)
    tensors = {"x": x, "y": y, "weight": weight}
    if autocasting(x.device.type):
        tensors = autocast(tensors)
    check_alike(tensors)
    x, y, weight = tensors.values()
    if y.shape[-1] != x.shape[-1]:
        raise ValueError(f"y: got {y.shape[-1]} channels, wanted {x.shape[-1]}, as x has")
    lead, channels = broadcast({"x": x, "y": y})
    if weight.ndim != 3 or weight.shape[::2] != (len(algebra.paths), x.shape[-1]) or weight.shape[1] == 0:
        raise ValueError(
            f"weight: got shape {tuple(weight.shape)}, wanted ({len(algebra.paths)} paths of {algebra.name}, "
            f"out_channels, {x.shape[-1]} in_channels)"
        )
    out = _fully_connected(flattened(x, lead, channels), flattened(y, lead, channels), weight, algebra, gate)
    return out if len(lead) == 1 else out.reshape(*lead, len(algebra), weight.shape[1])
