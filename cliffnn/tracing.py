"""Functions of multivectors, run once on symbols: what they compute becomes statements of a program.

A coefficient is a `Number`: a polynomial in earlier names. Where it becomes a factor it gets a name, so products stay
factored however long an expression is. Each number also carries its value at a random point of a finite field: what
vanishes there vanishes identically, and what is equal there is computed once (Schwartz 1980, Zippel 1979).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from numbers import Rational, Real
from typing import Any, NoReturn

import kingdon
from kingdon.operators import scalar
from kingdon.polynomial import Polynomial

from cliffnn.statements import CONSTANTS, Builder, Call

# What can be taken of a number, and of a multivector that is one; `math` has them for constants.
FUNCTIONS = ("abs", "cos", "cosh", "exp", "log", "sin", "sinh", "sqrt", "tan", "tanh")

NULL_DIVISION = "it divides by what is zero for all inputs: the norm of something null?"

# Values are taken in the field of integers modulo this prime.
_PRIME = 2**61 - 1


def _point(text: str) -> int:
    """A number of the field that nobody chose."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big") % _PRIME


class Tracer:
    """Collects the statements that numbers make."""

    def __init__(self, inputs: Iterable[str]):
        symbols = list(inputs)
        self.builder = Builder(taken={*CONSTANTS, *symbols})
        # what has a name, by its value at the point, and the other way round
        self.names = {_point(symbol): symbol for symbol in symbols}
        self.points = {symbol: point for point, symbol in self.names.items()}

    def input(self, symbol: str) -> Number:
        return Number(self, Polynomial([[1, symbol]]), _point(symbol))

    def constant(self, value: Any) -> Number:
        if isinstance(value, Rational):
            value = Fraction(value)
            value = int(value) if value.denominator == 1 else value
        else:
            value = float(value)
        ratio = Fraction(value)
        at_point = ratio.numerator * pow(ratio.denominator, -1, _PRIME) % _PRIME
        return Number(self, Polynomial([[value]] if value else []), at_point)

    def name(self, number: Number) -> tuple[int, str]:
        """A sign and a name that are the number."""
        if number.at_point in self.names:
            return 1, self.names[number.at_point]
        opposite = -number.at_point % _PRIME
        if opposite in self.names:
            return -1, self.names[opposite]
        return 1, self._named(number.at_point, self.builder.let(self._fresh, number.polynomial))

    @property
    def _fresh(self) -> str:
        return f"t{len(self.builder.statements) + 1}"

    def _named(self, at_point: int, name: str) -> str:
        self.names[at_point], self.points[name] = name, at_point
        return name

    def call(self, function: str, number: Number, *arguments: str, at_point: int | None = None) -> Number:
        """A function of a number; with its value at the point, where the field knows it."""
        if at_point is None:
            at_point = _point(" ".join((function, str(number.at_point), *arguments)))
        if at_point not in self.names:
            sign, argument = self.name(number)
            if sign < 0:
                minus = self.builder.let(self._fresh, Polynomial([[-1, argument]]))
                argument = self._named(number.at_point, minus)
            self._named(at_point, self.builder.let(self._fresh, Call(function, (argument, *arguments))))
        return Number(self, Polynomial([[1, self.names[at_point]]]), at_point)


def _elementary(name: str) -> Callable[[Number], Number]:
    def function(self: Number) -> Number:
        constant = self.constant
        if constant is None:
            return self.tracer.call(name, self)
        return self.tracer.constant(abs(constant) if name == "abs" else getattr(math, name)(constant))

    function.__name__ = name
    return function


def _torch_function(cls, function, types, args=(), kwargs=None):
    """torch.sqrt(x) is x.sqrt(), if there is such a thing."""
    name = getattr(function, "__name__", str(function))
    if name not in FUNCTIONS or kwargs or len(args) != 1:
        raise TypeError(f"torch.{name}: it can't be taken of a multivector; wanted one of {', '.join(FUNCTIONS)}")
    return getattr(args[0], name)()


def _no_value(self: Any, *_: Any) -> NoReturn:
    raise TypeError(
        "it needs the value of a coefficient, which is not known while the function is traced: no `if` on values, "
        "and torch.sqrt(x) in place of math.sqrt(x)"
    )


class Number:
    """A coefficient while a function is traced.

    Attributes
    ----------
    tracer : Tracer
    polynomial : Polynomial
        In names of earlier numbers.
    at_point : int
        Its value at a random point of a finite field.
    """

    __slots__ = ("at_point", "polynomial", "tracer")

    abs, cos, cosh, exp, log, sin, sinh, sqrt, tan, tanh = map(_elementary, FUNCTIONS)
    # for the library's own functions: math has none for constants
    normal_cdf = _elementary("normal_cdf")
    __abs__ = abs
    __torch_function__ = classmethod(_torch_function)

    def __init__(self, tracer: Tracer, polynomial: Polynomial, at_point: int):
        self.tracer = tracer
        self.at_point = at_point % _PRIME
        self.polynomial = polynomial if self.at_point else Polynomial([])

    @property
    def constant(self) -> Any:
        """The number, if it depends on no input."""
        terms = self.polynomial.args
        if not terms:
            return 0
        return terms[0][0] if len(terms) == 1 and len(terms[0]) == 1 else None

    def _other(self, other: Any) -> Number | None:
        if isinstance(other, Number):
            return other
        return self.tracer.constant(other) if isinstance(other, Real) else None

    def __bool__(self) -> bool:
        return self.at_point != 0

    def __eq__(self, other: object) -> bool:
        number = self._other(other)
        return number is not None and number.at_point == self.at_point

    def __hash__(self) -> int:
        return hash(self.at_point)

    def __neg__(self) -> Number:
        return Number(self.tracer, -self.polynomial, -self.at_point)

    def __pos__(self) -> Number:
        return self

    def __add__(self, other: Any) -> Number:
        number = self._other(other)
        if number is None:
            return NotImplemented
        return Number(self.tracer, self.polynomial + number.polynomial, self.at_point + number.at_point)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Number:
        number = self._other(other)
        return NotImplemented if number is None else self + -number

    def __rsub__(self, other: Any) -> Number:
        return -self + other

    def __mul__(self, other: Any) -> Number:
        number = self._other(other)
        if number is None:
            return NotImplemented
        at_point = self.at_point * number.at_point
        for factor, value in ((self, number), (number, self)):
            if factor.constant is not None:
                terms = [[factor.constant * term[0], *term[1:]] for term in value.polynomial.args]
                return Number(self.tracer, Polynomial(terms), at_point)
        coefficients, symbols = zip(self._factor(), number._factor(), strict=True)
        return Number(self.tracer, Polynomial([[math.prod(coefficients), *sorted(symbols)]]), at_point)

    __rmul__ = __mul__

    def _factor(self) -> tuple[Any, str]:
        """A coefficient and a name."""
        terms = self.polynomial.args
        if len(terms) == 1 and len(terms[0]) == 2:
            return terms[0][0], terms[0][1]
        return self.tracer.name(self)

    def __truediv__(self, other: Any) -> Number:
        number = self._other(other)
        if number is None:
            return NotImplemented
        if not number:
            raise ZeroDivisionError(NULL_DIVISION)
        if self == number:
            return self.tracer.constant(1)
        if number.constant is not None:
            constant = number.constant
            return self * (Fraction(1, constant) if isinstance(constant, int) else 1 / constant)
        upper, lower = _cancelled(self, number)
        return upper * lower._reciprocal()

    def __rtruediv__(self, other: Any) -> Number:
        number = self._other(other)
        return NotImplemented if number is None else number / self

    def _reciprocal(self) -> Number:
        inverse = pow(self.at_point, -1, _PRIME)
        if self.constant is not None:
            return self.tracer.constant(1) / self.constant
        (coefficient, *_), *rest = self.polynomial.args
        if not rest and coefficient != 1:
            return (self / coefficient)._reciprocal() / coefficient
        return self.tracer.call("reciprocal", self, at_point=inverse)

    def __pow__(self, power: Any) -> Number:
        twice: Any = 2 * power if isinstance(power, Real) else 0.5
        if twice != int(twice):
            raise TypeError(f"it takes the power {power!r}; wanted whole and half numbers")
        whole, half = divmod(abs(int(twice)), 2)
        result = self.sqrt() if half else self.tracer.constant(1)
        for _ in range(whole):
            result = result * self
        return 1 / result if power < 0 else result

    __lt__ = __le__ = __gt__ = __ge__ = __float__ = __int__ = __index__ = _no_value

    def __repr__(self) -> str:
        return str(self.polynomial)


def _cancelled(upper: Number, lower: Number) -> tuple[Number, Number]:
    """Numerator and denominator without the names that are factors of both."""
    if len(lower.polynomial) == 1:
        for symbol in lower.polynomial[0][1:]:
            if all(symbol in term[1:] for term in upper.polynomial.args):
                upper, lower = _without(upper, symbol), _without(lower, symbol)
    return upper, lower


def _without(number: Number, symbol: str) -> Number:
    polynomial = Polynomial([])
    for term in number.polynomial.args:
        position = term.index(symbol, 1)
        polynomial = polynomial + Polynomial([[*term[:position], *term[position + 1 :]]])
    return Number(number.tracer, polynomial, number.at_point * pow(number.tracer.points[symbol], -1, _PRIME))


def _of_scalar(name: str) -> Callable[[Multivector], Multivector]:
    def function(self: Multivector) -> Multivector:
        if self.grades not in ((), (0,)):
            raise TypeError(f"it takes {name} of grades {self.grades}; wanted a scalar, as x.grade(0)")
        return scalar(self.algebra, _value(name, self.e))

    function.__name__ = name
    return function


def _value(name: str, value: Any) -> Any:
    if isinstance(value, Number):
        return getattr(value, name)()
    return abs(value) if name == "abs" else getattr(math, name)(value)


class Multivector(kingdon.MultiVector):
    """kingdon's multivector, with the elementary functions of scalars."""

    cos, cosh, log, sin, sinh, tan, tanh = map(_of_scalar, ("cos", "cosh", "log", "sin", "sinh", "tan", "tanh"))
    abs = __abs__ = _of_scalar("abs")
    __torch_function__ = classmethod(_torch_function)
    __lt__ = __le__ = __ge__ = __gt__ = __float__ = __int__ = __index__ = _no_value

    def __pow__(self, power: Any, modulo: None = None) -> Multivector:
        if self.grades in ((), (0,)) and isinstance(self.e, Number):
            return scalar(self.algebra, self.e**power)
        return super().__pow__(power, modulo)

    def exp(self, *functions: Any) -> Multivector:
        r"""Of a scalar, or of what squares to a scalar s.

        .. math:: \exp(B) = \cosh \sqrt s + B \sinh(\sqrt s) / \sqrt s

        Both are entire functions of s (Stumpff's), so it has all derivatives at 0 too.
        """
        if self.grades in ((), (0,)):
            return scalar(self.algebra, _value("exp", self.e))
        square = self * self
        if square.grades not in ((), (0,)):
            raise NotImplementedError("it takes exp of what does not square to a scalar; kingdon can't either")
        s = square.e
        if not isinstance(s, Number):
            s = next(value for value in self.values() if isinstance(value, Number)).tracer.constant(s)
        even, odd = (scalar(self.algebra, s.tracer.call("stumpff", s, index)) for index in "01")
        return self * odd + even


def argument(tracer: Tracer, algebra: kingdon.Algebra, keys: tuple[int, ...], symbols: tuple[str, ...]) -> Multivector:
    """A multivector of symbols."""
    return Multivector.fromkeysvalues(algebra, keys, [tracer.input(symbol) for symbol in symbols], raw=True)
