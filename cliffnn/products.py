"""Geometric products: of each channel alone, and of all with a matrix over them."""

from __future__ import annotations

from torch import Tensor

from cliffnn.algebra import Algebra, AlgebraLike, GradesLike
from cliffnn.apply import apply
from cliffnn.checks import (
    autocast,
    autocasting,
    broadcast,
    check_alike,
    check_multivector,
    checked_paths,
    flattened,
    gated_grades,
    held_grades,
)
from cliffnn.expressions import PATHS
from cliffnn.fully_connected import fully_connected
from cliffnn.graded_product import product_text
from cliffnn.normalization import rms_norm


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

    References
    ----------
    Hestenes, Sobczyk: Clifford Algebra to Geometric Calculus, 1984, chapter 1.

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


def fully_connected_geometric_product(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    algebra: AlgebraLike,
    x_grades: GradesLike = None,
    y_grades: GradesLike = None,
    out_grades: GradesLike = None,
) -> Tensor:
    r"""The geometric product, channel by channel, with a matrix over the channels for each path.

    .. math:: o_c = \sum_{c'} \sum_{(i, j, k)} W_{ijk,c c'}
        \left\langle \langle x_{c'} \rangle_i \langle y_{c'} \rangle_j \right\rangle_k

    Under float32, products are as exact as `torch.set_float32_matmul_precision` asks for; where it asks for
    float32, tensor cores give 21 to 22 of its 24 bits.

    Parameters
    ----------
    x, y : Tensor
        ``(..., blades, in_channels)``; leading dimensions broadcast.
    weight : Tensor
        ``(paths, out_channels, in_channels)``, in the order of `Algebra.paths`; of `Algebra.paths_between` the grades,
        where they are given.
    algebra : str, int, tuple or Algebra
    x_grades, y_grades, out_grades : int, tuple of int or None
        That the factors and the result hold, and only these are computed with; None: all.

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
    algebra = Algebra(algebra)
    grades = (
        held_grades(algebra, x_grades, "x_grades"),
        held_grades(algebra, y_grades, "y_grades"),
        held_grades(algebra, out_grades, "out_grades"),
    )
    return _fully_connected_product(x, y, weight, algebra, grades, gate=False)


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

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, equation 11, for
    the product; `gelu`, `rms_norm`.

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
    x_grades: GradesLike = None,
    y_grades: GradesLike = None,
    out_grades: GradesLike = None,
) -> Tensor:
    r"""GELU of both factors, fully connected geometric product, RMS norm; the gates are fused into the product.

    .. math:: o = \operatorname{rms\_norm}(\operatorname{fcgp}(\operatorname{gelu}(x), \operatorname{gelu}(y), W))

    It equals `rms_norm` of `fully_connected_geometric_product` of the two `gelu`.

    Parameters
    ----------
    x, y : Tensor
        ``(..., blades, in_channels)``; leading dimensions broadcast.
    weight : Tensor
        ``(paths, out_channels, in_channels)``, in the order of `Algebra.paths`; of `Algebra.paths_between` the grades,
        where they are given.
    algebra : str, int, tuple or Algebra
    normalize : bool
        Whether the norm is taken.
    eps : float
        Added inside the root of the norm.
    x_grades, y_grades, out_grades : int, tuple of int or None
        That the factors and the result hold, the factors the scalar among them, and only these are computed
        with; None: all.

    Returns
    -------
    Tensor
        ``(..., blades, out_channels)``.

    Raises
    ------
    ValueError, TypeError
        If a tensor has another shape, dtype or device than these, or ``eps`` is negative.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, section 3, for
    the product; `gelu`, `rms_norm`.

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
    grades = (
        gated_grades(algebra, x_grades, "x_grades"),
        gated_grades(algebra, y_grades, "y_grades"),
        held_grades(algebra, out_grades, "out_grades"),
    )
    out = _fully_connected_product(x, y, weight, algebra, grades, gate=True)
    return rms_norm(out, algebra, eps, out_grades) if normalize else out


def _fully_connected_product(
    x: Tensor, y: Tensor, weight: Tensor, algebra: Algebra, grades: tuple[tuple[int, ...] | None, ...], gate: bool
) -> Tensor:
    """Check the arguments, flatten the leading dimensions, run the operator."""
    check_multivector("x", x, algebra, grades[0])
    check_multivector("y", y, algebra, grades[1])
    tensors = {"x": x, "y": y, "weight": weight}
    if autocasting(x.device.type):
        tensors = autocast(tensors)
    check_alike(tensors)
    x, y, weight = tensors.values()
    if y.shape[-1] != x.shape[-1]:
        raise ValueError(f"y: got {y.shape[-1]} channels, wanted {x.shape[-1]}, as x has")
    lead, channels = broadcast({"x": x, "y": y})
    paths = checked_paths(algebra, *grades)
    if weight.ndim != 3 or weight.shape[::2] != (len(paths), x.shape[-1]) or weight.shape[1] == 0:
        raise ValueError(
            f"weight: got shape {tuple(weight.shape)}, wanted ({len(paths)} paths of {algebra.name}, "
            f"out_channels, {x.shape[-1]} in_channels)"
        )
    product = product_text(algebra.name, *grades)
    out = fully_connected(flattened(x, lead, channels), flattened(y, lead, channels), weight, product, gate)
    return out if len(lead) == 1 else out.reshape(*lead, *out.shape[-2:])
