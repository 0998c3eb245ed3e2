"""Where the library's own expressions write their results, which become the statements of a program."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kingdon.polynomial import Polynomial, RationalPolynomial

from cliffnn.operation import Operation
from cliffnn.statements import CONSTANTS, Builder, Call, numbered, operands, summed, variable

if TYPE_CHECKING:
    from kingdon import MultiVector


@dataclass(frozen=True)
class Norm:
    """What the norm made of one grade.

    Attributes
    ----------
    metric : tuple of int
        The weight of each blade in the grade's quadratic form.
    before, after : tuple of str
        The blades, and the same times ``scale``.
    scale : str
        The reciprocal root mean square.
    """

    metric: tuple[int, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    scale: str


class Trace:
    """What an expression writes its intermediate results to: they stay factored instead of being multiplied out."""

    def __init__(self, operation: Operation):
        self.operation = operation
        self.algebra = operation.algebra
        self._keys = tuple(self.algebra.kingdon.canon2bin.values())
        self._position = {key: index for index, key in enumerate(self._keys)}
        self.builder = Builder(taken=set(CONSTANTS))

    @property
    def anchor(self) -> str:
        """An input that comes row by row."""
        return next(f"{name}{g.indices[0]}" for name, g in self.operation.inputs.items() if g.kind == "rows")

    def multivector(self, name: str) -> MultiVector:
        keys = tuple(self._keys[blade] for blade in self.operation.inputs[name].indices)
        return self.algebra.kingdon.multivector(keys=keys, values=self.coefficients(name))

    def coefficients(self, name: str) -> list[RationalPolynomial]:
        symbols = numbered(name, self.operation.inputs[name].indices)
        self.builder._taken.update(symbols)
        return [RationalPolynomial.fromname(symbol) for symbol in symbols]

    def let(self, name: str, mv: MultiVector) -> MultiVector:
        """Name each coefficient of ``mv`` and go on with the names."""
        values = [self.number(f"{name}_{self._position[key]}", value) for key, value in mv.items()]
        return self.algebra.kingdon.multivector(keys=tuple(mv.keys()), values=values)

    def number(self, name: str, number: RationalPolynomial | int | float) -> RationalPolynomial | int | float:
        """Name a number and go on with the name; a constant stays what it is."""
        polynomial = _polynomial(number)
        if not operands(polynomial):
            return sum(coefficient for (coefficient,) in polynomial.args)
        return RationalPolynomial.fromname(self.builder.let(name, polynomial))

    @property
    def eps(self) -> RationalPolynomial:
        """The number that a norm adds to what it divides by."""
        return RationalPolynomial.fromname("EPS")

    def apply(self, function: str, number: RationalPolynomial | int | float) -> RationalPolynomial | float:
        """An elementary function, or the mean over the channels."""
        if not isinstance(number, RationalPolynomial):
            return getattr(math, function)(number)
        return RationalPolynomial.fromname(
            self.builder.call(function, self.builder.let("argument", _polynomial(number)))
        )

    def finish(self, result: str, mv: MultiVector) -> tuple[Norm, ...]:
        """Assign the coefficients of a result, normalised if the operation says so."""
        values = {self._position[key]: _polynomial(value) for key, value in mv.items()}
        for blade in self.operation.blades_of(result):
            if not operands(value := values.get(blade, Polynomial([]))):
                # a constant, of an input's shape
                values[blade] = value + variable(self.builder.call("zero", self.anchor))
        norms = []
        for k in self.operation.grades_of(result):
            blades = self.algebra.grade_slices[k]
            indices = range(blades.start, blades.stop)
            if self.operation.normalize and k in self.operation.normed_grades:
                norms.append(self._normalize(k, indices, values))
            else:
                for blade in indices:
                    self.builder.assign(f"{result}{blade}", values[blade])
        return tuple(norms)

    def _normalize(self, grade: int, blades: range, values: Mapping[int, Polynomial]) -> Norm:
        metric = tuple(self.algebra.quadratic_form[blade] for blade in blades)
        before = tuple(self.builder.let(f"product{blade}", values[blade]) for blade in blades)
        form = summed(m * variable(name) * variable(name) for m, name in zip(metric, before, strict=True))
        size = self.builder.let(f"form{grade}", form)
        if -1 in metric:
            size = self.builder.call("abs", size)
        mean = self.builder.let(f"mean{grade}", Call("mean", (size,)))
        square = self.builder.let(f"square{grade}", variable(mean) + variable("EPS"))
        self.builder.assign(f"scales{grade}", Call("rsqrt", (square,)))
        after = tuple(f"out{blade}" for blade in blades)
        for name, result in zip(before, after, strict=True):
            self.builder.assign(result, variable(name) * variable(f"scales{grade}"))
        return Norm(metric, before, after, f"scales{grade}")


def _polynomial(value: RationalPolynomial | int | float) -> Polynomial:
    if not isinstance(value, RationalPolynomial):
        return Polynomial([[value]] if value else [])
    if value.denom != 1:
        raise NotImplementedError(f"an expression divides by {value.denom}: only polynomials can be generated")
    return value.numer
