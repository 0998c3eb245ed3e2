"""Normalisations: by the root mean square, and the two of Clifford group networks, each with a learned size."""

from __future__ import annotations

from torch import Tensor

from cliffnn.algebra import Algebra, AlgebraLike, GradesLike
from cliffnn.apply import apply
from cliffnn.checks import held_grades
from cliffnn.expressions import CHANNELS


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

    References
    ----------
    Zhang, Sennrich: Root Mean Square Layer Normalization, arXiv:1910.07467.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> F.rms_norm(torch.tensor([[5.0], [3.0], [4.0], [0.0]]), "R2").squeeze(-1)
    tensor([1.0000, 0.6000, 0.8000, 0.0000])
    """
    algebra = Algebra(algebra)
    grades = held_grades(algebra, grades)
    return apply("identity", algebra, {"x": x}, normalize=True, eps=eps, grades={"x": grades, "out": grades})


def layer_norm(x: Tensor, weight: Tensor, algebra: AlgebraLike, eps: float = 1e-6, grades: GradesLike = None) -> Tensor:
    r"""Divide by the mean norm over the channels.

    .. math:: o_c = \frac{a_c \, x_c}{\operatorname{mean}_{c'} \|x_{c'}\| + \varepsilon}, \qquad
        \|x\| = \left(q(x)^2 + 10^{-16}\right)^{1/4}

    with the algebra's quadratic form over all grades, :math:`q(x) = \sum_k q_k(x)`: the root of its absolute value,
    made smooth. In float32 its square overflows where norms are above 4e9, and the result is zero; `rms_norm` has no
    such square.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``.
    weight : Tensor
        :math:`a`, ``(channels,)``.
    algebra : str, int, tuple or Algebra
    eps : float
        Added to the mean norm.
    grades : int, tuple of int or None
        That ``x`` and the result hold; None: all.

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
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, and the authors' code.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> x = torch.tensor([[0.0], [3.0], [4.0], [0.0]])
    >>> F.layer_norm(x, torch.ones(1), "R2").squeeze(-1)
    tensor([0.0000, 0.6000, 0.8000, 0.0000])
    """
    held = {"x": grades, "out": grades}
    return apply("layer_norm", Algebra(algebra), {"x": x}, {"weight": (CHANNELS, weight)}, eps=eps, grades=held)


def normalize(x: Tensor, weight: Tensor, algebra: AlgebraLike, eps: float = 1e-6, grades: GradesLike = None) -> Tensor:
    r"""Divide each grade by its norm, to a learned degree.

    .. math:: \langle o_c \rangle_k = \frac{\langle x_c \rangle_k}
        {\sigma(a_{k,c}) \left(\|\langle x_c \rangle_k\| - 1\right) + 1 + \varepsilon}, \qquad
        \|\langle x \rangle_k\| = \left(q_k(x)^2 + 10^{-16}\right)^{1/4}

    with the logistic function :math:`\sigma`: at 0 the grade stays as it is, at 1 it is divided by its norm. In
    float32 the square overflows where norms are above 4e9, and the result is zero.

    Parameters
    ----------
    x : Tensor
        ``(..., blades, channels)``.
    weight : Tensor
        :math:`a`, ``(grades, channels)``.
    algebra : str, int, tuple or Algebra
    eps : float
        Added to the denominator.
    grades : int, tuple of int or None
        That ``x`` and the result hold; None: all.

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
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141, and the authors' code.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> x = torch.tensor([[0.0], [3.0], [4.0], [0.0]])
    >>> F.normalize(x, torch.full((3, 1), 100.0), "R2").squeeze(-1)
    tensor([0.0000, 0.6000, 0.8000, 0.0000])
    """
    held = {"x": grades, "out": grades}
    return apply("normalize", Algebra(algebra), {"x": x}, {"weight": ("x", weight)}, eps=eps, grades=held)
