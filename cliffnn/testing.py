"""Is a function equivariant? For cliffnn's own layers, and for models that are built from them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from cliffnn.algebra import Algebra, AlgebraLike

__all__ = [
    "apply_versor",
    "assert_equivariant",
    "equivariance_error",
    "random_versor",
    "randomize_parameters",
]


def random_versor(algebra: AlgebraLike, odd: bool = False, generator: torch.Generator | None = None) -> Tensor:
    r"""A product of random unit vectors, :math:`v_1 v_2 \cdots v_m` with :math:`v_i^2 = \pm 1`.

    With an odd number of vectors it acts as an improper transformation, such as a reflection.

    Parameters
    ----------
    algebra : str, int, tuple or Algebra
    odd : bool
        Whether the number of vectors is odd.
    generator : torch.Generator, optional

    Returns
    -------
    Tensor
        ``(blades,)``, float64.

    Raises
    ------
    ValueError
        If it should be odd and the algebra has no invertible vector.

    Examples
    --------
    >>> from cliffnn.testing import random_versor
    >>> rotor = random_versor("R3", odd=False)
    >>> bool(rotor[1:4].any()), bool(rotor[7].any())  # no vector, no trivector
    (False, False)
    """
    algebra = Algebra(algebra)
    metric = torch.tensor(algebra.signature, dtype=torch.float64)
    versor = torch.zeros(len(algebra), dtype=torch.float64)
    versor[0] = 1.0
    if not metric.any():
        if odd:
            raise ValueError(f"odd: got True, but {algebra.name} has no invertible vector")
        return versor
    count = algebra.dim if algebra.dim % 2 == odd else algebra.dim - 1
    for _ in range(max(count, 1 if odd else 2)):
        versor = _left(versor, algebra) @ _random_unit_vector(algebra, metric, generator)
    return versor


def apply_versor(versor: Tensor, x: Tensor, algebra: AlgebraLike) -> Tensor:
    r"""The action of a versor, :math:`v \, \hat{x} \, v^{-1}`; the grade involution only if v is odd.

    Parameters
    ----------
    versor : Tensor
        ``(blades,)``, float64, a product of invertible vectors.
    x : Tensor
        ``(..., blades, channels)``.
    algebra : str, int, tuple or Algebra

    Returns
    -------
    Tensor
        ``(..., blades, channels)``, in the dtype of ``x``.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.testing import apply_versor
    >>> mirror = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)  # e1
    >>> x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    >>> apply_versor(mirror, x, "R2").squeeze(-1)
    tensor([ 1., -2.,  3., -4.])
    """
    matrix = _action(versor, Algebra(algebra)).to(x)
    return torch.einsum("ab,...bc->...ac", matrix, x)


def equivariance_error(
    function: Callable[..., Any], algebra: AlgebraLike, *inputs: Tensor, versor: Tensor
) -> list[float]:
    r"""How far a function is from commuting with a versor, grade by grade.

    .. math:: \frac{\| \langle f(v \cdot x) - v \cdot f(x) \rangle_k \|}{\| v \cdot f(x) \|}

    Parameters
    ----------
    function : callable
        From multivectors to a multivector, or a tuple of them.
    algebra : str, int, tuple or Algebra
    *inputs : Tensor
        ``(..., blades, channels)``, all of them transformed.
    versor : Tensor
        ``(blades,)``, as of `random_versor`.

    Returns
    -------
    list of float
        One error a grade, the largest over the outputs.

    Raises
    ------
    ValueError
        If a result is no multivector of the algebra.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.testing import equivariance_error, random_versor
    >>> x = torch.randn(5, 4, 3, dtype=torch.float64)
    >>> errors = equivariance_error(torch.relu, "R2", x, versor=random_versor("R2"))
    >>> [error > 1e-3 for error in errors]
    [False, True, False]
    """
    algebra = Algebra(algebra)
    got = _outputs(function(*(apply_versor(versor, x, algebra) for x in inputs)), algebra)
    wanted = [apply_versor(versor, out, algebra) for out in _outputs(function(*inputs), algebra)]
    errors = []
    for g, w in zip(got, wanted, strict=True):
        scale = w.norm().clamp_min(torch.finfo(w.dtype).tiny)
        errors.append(torch.stack([(g - w)[..., blades, :].norm() / scale for blades in algebra.grade_slices]).double())
    # which does not lose a NaN, as Python's comparisons would
    return torch.stack(errors).amax(0).tolist()


def assert_equivariant(
    function: Callable[..., Any] | nn.Module,
    algebra: AlgebraLike,
    *inputs: Tensor,
    tolerance: float = 1e-9,
    odd: Iterable[bool] = (False, True),
    samples: int = 3,
    randomize: bool = True,
    seed: int = 0,
) -> None:
    """Raise unless a function commutes with random versors, in float64.

    Parameters
    ----------
    function : callable or Module
        From multivectors to a multivector, or a tuple of them. A module is copied, and the copy made float64.
    algebra : str, int, tuple or Algebra
    *inputs : Tensor
        ``(..., blades, channels)``, all of them transformed; cast to float64.
    tolerance : float
        On the error relative to the norm of the output.
    odd : iterable of bool
        Which versors to try; both by default.
    samples : int
        How many versors of each.
    randomize : bool
        Add noise to the parameters of the copied module: a bias that is still zero hides that it breaks equivariance.
    seed : int
        Of versors and noise.

    Raises
    ------
    AssertionError
        If the error in any grade is above the tolerance, or not a number; the message lists it by grade.
    ValueError
        If there is nothing to test: no inputs or only empty ones, no versors, or inputs that are no multivectors.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import SGPNormBlock
    >>> from cliffnn.testing import assert_equivariant
    >>> assert_equivariant(SGPNormBlock(8, "R1,3"), "R1,3", torch.randn(5, 16, 8))
    """
    algebra = Algebra(algebra)
    if not any(algebra.signature):
        raise ValueError(
            f"algebra: got {algebra.name}, wanted one with an invertible vector: there is no versor to try"
        )
    odd = tuple(odd)
    if not inputs or not odd or samples < 1:
        raise ValueError(
            f"nothing to test: got {len(inputs)} inputs, odd={odd}, samples={samples}, wanted at least one of each"
        )
    for index, x in enumerate(inputs):
        if not isinstance(x, Tensor) or x.ndim < 2 or x.shape[-2] != len(algebra):
            got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"inputs[{index}]: got {got}, wanted (..., {len(algebra)} blades, channels)")
    if not any(x.numel() for x in inputs):
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise ValueError(f"nothing to test: got inputs of shape {shapes}, wanted some numbers")
    generator = torch.Generator().manual_seed(seed)
    inputs = tuple(x.detach().double() for x in inputs)
    if isinstance(function, nn.Module):
        function = copy.deepcopy(function).double()
        function(*inputs)  # lazy parameters come to be
        if randomize:
            randomize_parameters(function, generator)
    with torch.no_grad():
        for parity in odd:
            for _ in range(samples):
                versor = random_versor(algebra, parity, generator)
                errors = equivariance_error(function, algebra, *inputs, versor=versor)
                if not all(error <= tolerance for error in errors):
                    table = ", ".join(f"grade {k}: {error:.1e}" for k, error in enumerate(errors))
                    raise AssertionError(
                        f"not equivariant in {algebra.name} under an {'odd' if parity else 'even'} versor: "
                        f"relative error {table}; tolerance {tolerance:.0e}"
                    )


def randomize_parameters(module: nn.Module, generator: torch.Generator | None = None, scale: float = 0.5) -> None:
    """Add normal noise to every parameter, in place.

    Parameters
    ----------
    module : Module
    generator : torch.Generator, optional
    scale : float
        Standard deviation of the noise.

    Examples
    --------
    >>> from cliffnn.layers import MVLinear
    >>> from cliffnn.testing import randomize_parameters
    >>> layer = MVLinear(4, 4, "R2")
    >>> randomize_parameters(layer)
    >>> bool(layer.bias.all())
    True
    """
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(scale * noise.to(parameter))


def _random_unit_vector(algebra: Algebra, metric: Tensor, generator: torch.Generator | None) -> Tensor:
    """A vector of square 1 or -1 that is not close to a null one, whose action would be a huge boost."""
    while True:
        components = torch.randn(algebra.dim, generator=generator, dtype=torch.float64)
        square = (metric * components.square()).sum()
        if square.abs() > 0.5 * (metric.abs() * components.square()).sum():
            vector = torch.zeros(len(algebra), dtype=torch.float64)
            vector[algebra.grade_slices[1]] = components / square.abs().sqrt()
            return vector


def _left(x: Tensor, algebra: Algebra) -> Tensor:
    """The matrix of y -> x y."""
    matrix = x.new_zeros(len(algebra), len(algebra))
    for a, b, c, sign in algebra.products:
        matrix[c, b] += sign * x[a]
    return matrix


def _right(x: Tensor, algebra: Algebra) -> Tensor:
    """The matrix of y -> y x."""
    matrix = x.new_zeros(len(algebra), len(algebra))
    for a, b, c, sign in algebra.products:
        matrix[c, a] += sign * x[b]
    return matrix


def _action(versor: Tensor, algebra: Algebra) -> Tensor:
    grades = torch.tensor(algebra.grade_of_blades)
    reverse = versor * (1 - 2 * ((grades * (grades - 1) // 2) % 2))
    inverse = reverse / (_left(versor, algebra) @ reverse)[0]
    odd = bool((versor[grades % 2 == 1] != 0).any())
    involution = torch.diag((1 - 2 * (grades % 2) if odd else torch.ones_like(grades)).to(versor))
    return _left(versor, algebra) @ _right(inverse, algebra) @ involution


def _outputs(result: Any, algebra: Algebra) -> list[Tensor]:
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    for out in outputs:
        if not isinstance(out, Tensor) or out.ndim < 2 or out.shape[-2] != len(algebra):
            got = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"function: its result has {got}, wanted multivectors (..., {len(algebra)} blades, channels)"
            )
    return outputs
