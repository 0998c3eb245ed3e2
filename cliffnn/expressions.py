"""Geometric algebra, written as geometric algebra.

An expression is a function of a `Trace` and of kingdon multivectors (and of coefficients shared by all rows, one a
path). ``trace.let`` names an intermediate result, which keeps products factored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kingdon import MultiVector
    from kingdon.polynomial import RationalPolynomial

    from cliffnn.program import Trace


@dataclass(frozen=True)
class Expression:
    """A named expression: multivectors that come row by row, and coefficients that all rows share; and its results.

    There is a coefficient for each path, or as many as ``counts`` says.
    """

    name: str
    function: Callable[..., MultiVector | tuple[MultiVector, ...]]
    rows: tuple[str, ...]
    params: tuple[str, ...] = ()
    results: tuple[str, ...] = ("out",)
    counts: Mapping[str, int] = field(default_factory=dict)


EXPRESSIONS: dict[str, Expression] = {}
# Who may know an expression of a name that nobody has asked for yet: it registers the expression, or does nothing.
FINDERS: list[Callable[[str], None]] = []


def find(name: str) -> Expression | None:
    """An expression by its name."""
    if name not in EXPRESSIONS:
        for finder in FINDERS:
            finder(name)
    return EXPRESSIONS.get(name)


def expression(*rows: str, params: tuple[str, ...] = ()) -> Callable:
    """Register a function under its name."""

    def register(function: Callable[..., MultiVector]) -> Callable[..., MultiVector]:
        EXPRESSIONS[function.__name__] = Expression(function.__name__, function, rows, params)
        return function

    return register


@expression("x")
def identity(trace: Trace, x: MultiVector) -> MultiVector:
    """x"""
    return x


@expression("x")
def gelu(trace: Trace, x: MultiVector) -> MultiVector:
    """x Phi(<x>_0)"""
    return _gate(trace, "gelu", x)


@expression("x", "y")
def geometric_product(trace: Trace, x: MultiVector, y: MultiVector) -> MultiVector:
    """x y"""
    return x * y


@expression("x", "y", params=("w",))
def weighted_geometric_product(
    trace: Trace, x: MultiVector, y: MultiVector, w: Sequence[RationalPolynomial]
) -> MultiVector:
    """sum over paths (i, j, k) of w_ijk <<x>_i <y>_j>_k"""
    weights = dict(zip(trace.operation.paths, w, strict=True))
    products = {(i, j): x.grade(i) * y.grade(j) for i, j, _ in weights}
    terms = [trace.let(f"p{i}{j}{k}", products[i, j].grade(k)) * weights[i, j, k] for i, j, k in weights]
    return sum(terms[1:], terms[0])


@expression("x", "y", params=("w",))
def gelu_weighted_geometric_product(
    trace: Trace, x: MultiVector, y: MultiVector, w: Sequence[RationalPolynomial]
) -> MultiVector:
    """sum over paths (i, j, k) of w_ijk <<gelu(x)>_i <gelu(y)>_j>_k"""
    return weighted_geometric_product(trace, _gate(trace, "gelu_x", x), _gate(trace, "gelu_y", y), w)


def _gate(trace: Trace, name: str, x: MultiVector) -> MultiVector:
    return trace.let(name, x * trace.apply("normal_cdf", x.grade(0)))
