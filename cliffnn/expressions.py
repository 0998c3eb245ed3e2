"""Geometric algebra, written as geometric algebra.

An expression is a function of a `Trace` and of kingdon multivectors (and of coefficients shared by all rows, one a
path). ``trace.let`` names an intermediate result, which keeps products factored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from kingdon import MultiVector
    from kingdon.polynomial import RationalPolynomial

    from cliffnn.trace import Trace

    Coefficients: TypeAlias = Sequence[RationalPolynomial]


# Coefficients come one for each path of the product of the first two multivectors, or one for each channel.
PATHS, CHANNELS = "paths", "channels"

# Under the root of a norm: the derivative stays finite at zero and on the null cone.
SMOOTHING = 1e-16


@dataclass(frozen=True)
class Expression:
    """A named expression.

    Attributes
    ----------
    name : str
    function : callable
    rows : tuple of str
        The multivectors that come row by row.
    params : mapping of str to str or int
        The coefficients that all rows share, and what there is one for: each of the `PATHS`, each grade of the
        multivector of that name, or only the `CHANNELS`; or how many there are.
    results : tuple of str
    """

    name: str
    function: Callable[..., MultiVector | tuple[MultiVector, ...]]
    rows: tuple[str, ...]
    params: Mapping[str, str | int] = field(default_factory=dict)
    results: tuple[str, ...] = ("out",)


EXPRESSIONS: dict[str, Expression] = {}
# Who may know an expression of a name that nobody has asked for yet: it registers the expression, or does nothing.
FINDERS: list[Callable[[str], None]] = []


def find(name: str) -> Expression | None:
    """An expression by its name."""
    if name not in EXPRESSIONS:
        for finder in FINDERS:
            finder(name)
    return EXPRESSIONS.get(name)


def expression(*rows: str, **params: str) -> Callable:
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


@expression("x", "y", w=PATHS)
def weighted_geometric_product(trace: Trace, x: MultiVector, y: MultiVector, w: Coefficients) -> MultiVector:
    """sum over paths (i, j, k) of w_ijk <<x>_i <y>_j>_k"""
    sizes = trace.algebra.grade_sizes
    terms = []
    for (i, j, k), weight in zip(trace.operation.paths, w, strict=True):
        # the weight goes to the factor with fewer blades
        if sizes[i] <= sizes[j]:
            product = trace.let(f"wx{i}{j}{k}", x.grade(i) * weight) * y.grade(j)
        else:
            product = x.grade(i) * trace.let(f"wy{i}{j}{k}", y.grade(j) * weight)
        terms.append(product.grade(k))
    return _sum(terms)


@expression("x", "y", w=PATHS)
def gelu_weighted_geometric_product(trace: Trace, x: MultiVector, y: MultiVector, w: Coefficients) -> MultiVector:
    """sum over paths (i, j, k) of w_ijk <<gelu(x)>_i <gelu(y)>_j>_k"""
    return weighted_geometric_product(trace, _gate(trace, "gelu_x", x), _gate(trace, "gelu_y", y), w)


@expression("x", a="x", b="x")
def silu(trace: Trace, x: MultiVector, a: Coefficients, b: Coefficients) -> MultiVector:
    """<x>_k sigmoid(a_k i_k + b_k), with i_0 = <x>_0 and i_k = q_k(x)"""
    gated = []
    for k, weight, bias in zip(trace.operation.grades_of("x"), a, b, strict=True):
        invariant = _form(trace, f"form{k}", x.grade(k)) if k else _number(x.grade(0))
        gated.append(x.grade(k) * trace.apply("sigmoid", weight * invariant + bias))
    return _sum(gated)


@expression("x", a="x")
def normalize(trace: Trace, x: MultiVector, a: Coefficients) -> MultiVector:
    """<x>_k / (sigmoid(a_k) (|<x>_k| - 1) + 1 + eps)"""
    return _normalized(trace, "x", x, a)


@expression("x", a=CHANNELS)
def layer_norm(trace: Trace, x: MultiVector, a: Coefficients) -> MultiVector:
    """a x / (mean |x| + eps)"""
    mean = trace.apply("mean", _norm(trace, "form", x))
    return x * trace.number("factor", a[0] * trace.apply("reciprocal", mean + trace.eps))


@expression("x", "y", "z", w=PATHS, a="y")
def steerable_geometric_product(
    trace: Trace, x: MultiVector, y: MultiVector, z: MultiVector, w: Coefficients, a: Coefficients
) -> MultiVector:
    """(z + wgp(x, normalize(y, a), w)) / sqrt 2"""
    y = trace.let("normalized", _normalized(trace, "y", y, a))
    return trace.let("sum", z + weighted_geometric_product(trace, x, y, w)) * math.sqrt(0.5)


def _gate(trace: Trace, name: str, x: MultiVector) -> MultiVector:
    return trace.let(name, x * trace.apply("normal_cdf", _number(x.grade(0))))


def _normalized(trace: Trace, name: str, x: MultiVector, a: Coefficients) -> MultiVector:
    parts = []
    for k, weight in zip(trace.operation.grades_of(name), a, strict=True):
        degree = trace.apply("sigmoid", weight)
        size = degree * _norm(trace, f"form{k}", x.grade(k)) - degree + 1 + trace.eps
        parts.append(x.grade(k) * trace.apply("reciprocal", size))
    return _sum(parts)


def _norm(trace: Trace, name: str, x: MultiVector) -> RationalPolynomial | float:
    """(q(x)^2 + smoothing)^(1/4): the root of the absolute value, but smooth at zero and on the null cone."""
    form = _form(trace, name, x)
    return trace.apply("sqrt", trace.apply("sqrt", form * form + SMOOTHING))


def _form(trace: Trace, name: str, x: MultiVector) -> RationalPolynomial | int | float:
    """q(x) = <~x x>_0"""
    return trace.number(name, _number(x.reverse().sp(x)))


def _number(scalar: MultiVector) -> RationalPolynomial | int:
    return next(iter(scalar.values()), 0)


def _sum(parts: Sequence[MultiVector]) -> MultiVector:
    return sum(parts[1:], parts[0])
