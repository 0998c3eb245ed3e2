"""Straight-line programs: what an expression becomes once an algebra is chosen, and their derivatives.

A program is a list of assignments, each a polynomial in earlier names, or a function of some of them. One function,
``mean``, looks beyond its channel: it is the mean over all channels of the row. Programs are closed under reverse-mode
differentiation (`Program.vjp`), so derivatives of any order need no new idea.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

from kingdon.polynomial import Polynomial

from cliffnn.operation import Operation, gradient_name
from cliffnn.statements import CONSTANTS, Builder, Call, Statement, Value, numbered, operands, summed, variable
from cliffnn.trace import Norm, Trace

# The derivative of each elementary function, as a polynomial in its argument, its value, and calls of others.
DERIVATIVES: dict[str, Callable[[Builder, str, str], Polynomial]] = {
    "abs": lambda builder, x, value: variable(builder.call("sign", x, value)),
    "cos": lambda builder, x, value: -variable(builder.call("sin", x)),
    "cosh": lambda builder, x, value: variable(builder.call("sinh", x)),
    "exp": lambda builder, x, value: variable(value),
    "log": lambda builder, x, value: variable(builder.call("reciprocal", x)),
    "normal_cdf": lambda builder, x, value: variable(builder.call("normal_pdf", x)),
    "normal_pdf": lambda builder, x, value: -variable(x) * variable(value),
    "reciprocal": lambda builder, x, value: -variable(value) * variable(value),
    "sigmoid": lambda builder, x, value: variable(value) - variable(value) * variable(value),
    "sin": lambda builder, x, value: variable(builder.call("cos", x)),
    "sinh": lambda builder, x, value: variable(builder.call("cosh", x)),
    "sqrt": lambda builder, x, value: Fraction(1, 2) * variable(builder.call("reciprocal", value)),
    "tan": lambda builder, x, value: variable(value) * variable(value) + 1,
    "tanh": lambda builder, x, value: 1 - variable(value) * variable(value),
}
# Functions that are not finite everywhere.
SINGULAR = frozenset({"log", "reciprocal", "sqrt", "tan"})
# Piecewise constant functions, which nothing flows through. "zero" is zero, of its argument's shape.
_FLAT = {"sign", "zero"}


def _stumpff_slope(builder: Builder, s: str, index: int) -> Polynomial:
    """The derivative of c_k(s), the sum of s^j / (2j + k)!, is (c_(k+1) - k c_(k+2)) / 2."""
    first, second = (variable(builder.call("stumpff", s, str(index + step))) for step in (1, 2))
    return Fraction(1, 2) * (first - index * second)


@dataclass(frozen=True)
class Program:
    """Assignments from named groups of scalars to named groups of scalars.

    Attributes
    ----------
    inputs, outputs : mapping of str to tuple of str
        Groups, as ``{"x": ("x0", "x1", ...)}``: one scalar a blade, a grade or a path.
    statements : tuple
        ``(name, value)`` in order of execution.
    scalars : frozenset of str
        The inputs that a row has one of, whatever the channel.
    anchor : str
        An input that comes row by row, for what is zero in all of them.
    norms : tuple of Norm
    cut : tuple of str
        Names that a compiler should keep in memory instead of computing them wherever they are used.
    """

    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, tuple[str, ...]]
    statements: tuple[Statement, ...]
    anchor: str
    scalars: frozenset[str] = frozenset()
    norms: tuple[Norm, ...] = ()
    cut: tuple[str, ...] = ()

    @classmethod
    def of(cls, operation: Operation) -> Program:
        """Write out an operation; what was saved for a derivative is computed anew, see `given`."""
        trace = Trace(operation)
        rows = [trace.multivector(name) for name in operation.expression.rows]
        params = [trace.coefficients(name) for name in operation.expression.params]
        results = operation.expression.function(trace, *rows, *params)
        named = zip(operation.results, results if isinstance(results, tuple) else (results,), strict=True)
        norms = tuple(norm for name, result in named for norm in trace.finish(name, result))
        names = (*operation.expression.rows, *operation.expression.params)
        inputs = {name: numbered(name, operation.inputs[name].indices) for name in names}
        outputs = {name: numbered(name, operation.blades_of(name)) for name in operation.results}
        if operation.normalize:
            outputs["scales"] = numbered("scales", operation.normed_grades)
        program = cls(inputs, outputs, tuple(trace.builder.statements), trace.anchor, norms=norms)
        for order, derivative in enumerate(operation.derivatives, 1):
            program = program.vjp(derivative.of, derivative.wrt, order)
        return program

    def vjp(self, of: Iterable[str], wrt: Iterable[str], order: int = 1) -> Program:
        """The vector-Jacobian product, by reverse mode over the statements.

        Parameters
        ----------
        of : iterable of str
            Outputs: the program takes a cotangent of each, as the group ``grad_out``.
        wrt : iterable of str
            Inputs: it gives the gradient with respect to each, as the group ``grad_x``.
        order : int
            Of the derivative: from the second on, names begin with ``grad2_``.
        """
        bar = gradient_name(order, "")
        taken = {name for group in self.inputs.values() for name in group} | {name for name, _ in self.statements}
        cotangents = {bar + name: tuple(bar + symbol for symbol in self.outputs[name]) for name in of}
        taken.update(symbol for group in cotangents.values() for symbol in group)
        builder = Builder(taken | set(CONSTANTS), self.statements)
        adjoints = {symbol: variable(bar + symbol) for name in of for symbol in self.outputs[name]}

        needed = self.depending_on({symbol for name in wrt for symbol in self.inputs[name]})
        norms = {norm.scale: norm for norm in self.norms}
        normed = {name for norm in self.norms for name in norm.after}

        def add(name: str, slope: Polynomial) -> None:
            adjoints[name] = adjoints.get(name, Polynomial([])) + slope

        for name, value in reversed(self.statements):
            if name in norms:
                given = {n: adjoints.pop(n) for n in (name, *norms[name].after) if n in adjoints}
                if given and name in needed:
                    through = _norm_adjoint(builder, norms[name], given, bar)
                    for before, adjoint in through.items():
                        add(before, adjoint)
                continue
            if name in normed or name not in adjoints or name not in needed:
                continue
            upstream = variable(builder.let(bar + name, adjoints[name]))
            if isinstance(value, Call):
                if value.function == "mean":
                    add(value.arguments[0], variable(builder.call("mean", upstream[0][1])))
                elif value.function == "stumpff":
                    argument, index = value.arguments
                    add(argument, _stumpff_slope(builder, argument, int(index)) * upstream)
                elif value.function not in _FLAT:
                    (argument,) = value.arguments
                    add(argument, DERIVATIVES[value.function](builder, argument, name) * upstream)
            else:
                for argument in operands(value):
                    if argument in needed:
                        add(argument, value.diff(argument) * upstream)

        outputs = {}
        for name in wrt:
            outputs[bar + name] = tuple(bar + symbol for symbol in self.inputs[name])
            for symbol in self.inputs[name]:
                builder.assign(bar + symbol, adjoints.get(symbol) or Call("zero", (self.anchor,)))
        inputs, statements = {**self.inputs, **cotangents}, tuple(builder.statements)
        computed = {name for name, _ in statements}
        cut = tuple(bar + name for norm in self.norms for name in norm.before if bar + name in computed)
        return replace(self, inputs=inputs, outputs=outputs, statements=statements, cut=cut).pruned()

    def given(self, groups: Mapping[str, Iterable[str]], scalars: Iterable[str] = ()) -> Program:
        """The same program, with the values of some names taken as inputs; ``scalars`` are one a row."""
        taken = {name: tuple(symbols) for name, symbols in groups.items()}
        known = {symbol for symbols in taken.values() for symbol in symbols}
        statements = tuple(statement for statement in self.statements if statement[0] not in known)
        inputs, known_scalars = {**self.inputs, **taken}, self.scalars | set(scalars)
        return replace(self, inputs=inputs, statements=statements, scalars=known_scalars).pruned()

    def flattened(self) -> Program:
        """The same program, without means that are computed from other means, where these are factors.

        What all channels of a row share is taken out of a mean: mean(m a + b) is m mean(a) + mean(b), also where m is
        itself a mean. So one sum over the channels is enough where there were several, one after the other.
        """
        if len(self.means) < 2:
            return self
        uniform, values = self.uniform, dict(self.statements)
        expanded: dict[str, Polynomial] = {}

        def expansion(name: str) -> Polynomial:
            """With what is computed from factors that all channels share written out."""
            if name not in expanded:
                whole, value = variable(name), values.get(name)
                if isinstance(value, Polynomial) and name not in uniform:
                    terms = summed(_product(m[0], [expansion(factor) for factor in m[1:]]) for m in value.args)
                    if not uniform.isdisjoint(operands(terms)):
                        whole = terms
                expanded[name] = whole
            return expanded[name]

        builder = Builder({name for group in self.inputs.values() for name in group} | {n for n, _ in self.statements})
        for name, value in self.statements:
            if _is_mean(value) and not uniform.isdisjoint(operands(whole := expansion(value.arguments[0]))):
                value = _linear(builder, whole, uniform)
            builder.assign(name, value)
        return replace(self, statements=tuple(builder.statements)).pruned()

    def only(self, outputs: Mapping[str, tuple[str, ...]]) -> Program:
        """The same program with other outputs, which may be any of its names."""
        return replace(self, outputs=outputs).pruned()

    def giving(self, *names: str) -> Program:
        """The same program with some of its outputs."""
        return self.only({name: self.outputs[name] for name in names})

    def pruned(self) -> Program:
        """Without the statements that no output needs."""
        live = {name for group in self.outputs.values() for name in group}
        kept = []
        for name, value in reversed(self.statements):
            if name in live:
                kept.append((name, value))
                live.update(operands(value))
        cut = tuple(name for name in self.cut if name in live)
        return replace(self, statements=tuple(reversed(kept)), cut=cut)

    def part(self, statements: tuple[Statement, ...]) -> Program:
        """Some of the statements as a program: what others compute is its input, what others need its output."""
        own = {name for name, _ in statements}
        foreign = {operand for _, value in statements for operand in operands(value)} - own
        others = {operand for name, value in self.statements if name not in own for operand in operands(value)}
        kept = own & (others | {symbol for group in self.outputs.values() for symbol in group})
        return Program({"": tuple(sorted(foreign))}, {"": tuple(sorted(kept))}, statements, self.anchor)

    def needed_by(self, names: Iterable[str]) -> frozenset[str]:
        """Some names and all that they are computed from."""
        found = set(names)
        for name, value in reversed(self.statements):
            if name in found:
                found.update(operands(value))
        return frozenset(found)

    def depending_on(self, symbols: Iterable[str]) -> set[str]:
        """Some names and all that are computed from them."""
        found = set(symbols)
        for name, value in self.statements:
            if not found.isdisjoint(operands(value)):
                found.add(name)
        return found

    def depending_only_on(self, symbols: Iterable[str]) -> set[str]:
        """Some names and all that are computed from no others."""
        found = set(symbols)
        for name, value in self.statements:
            if operands(value) and found.issuperset(operands(value)):
                found.add(name)
        return found

    def before(self, symbols: Iterable[str]) -> tuple[str, ...]:
        """The names that depend on none of some symbols, but are read where others do."""
        later = self.depending_on(symbols)
        read = {operand for name, value in self.statements if name in later for operand in operands(value)}
        return tuple(name for name, _ in self.statements if name in read - later)

    @cached_property
    def used(self) -> frozenset[str]:
        """The names that some statement, or the result, reads."""
        read = {operand for _, value in self.statements for operand in operands(value)}
        return frozenset(read | {symbol for group in self.outputs.values() for symbol in group})

    @cached_property
    def uniform(self) -> frozenset[str]:
        """The names whose value is the same in all channels of a row."""
        found = set(self.scalars) | set(CONSTANTS)
        for name, value in self.statements:
            if _is_mean(value) or (found.issuperset(operands(value)) and operands(value)):
                found.add(name)
        return frozenset(found)

    @cached_property
    def means(self) -> tuple[Mapping[str, str], ...]:
        """By depth, the means and what they are of: one is deeper than those that it is computed from."""
        levels = self.levels
        found: list[dict[str, str]] = [{} for _ in range(max(levels.values(), default=0))]
        for name, value in self.statements:
            if _is_mean(value):
                found[levels[name] - 1][name] = value.arguments[0]
        return tuple(found)

    @cached_property
    def levels(self) -> Mapping[str, int]:
        """How many means each name is computed from, one after the other."""
        found: dict[str, int] = {}
        for name, value in self.statements:
            found[name] = max((found.get(operand, 0) for operand in operands(value)), default=0) + _is_mean(value)
        return found

    @property
    def operations(self) -> tuple[int, int]:
        """Multiplications and additions, a function counting as neither."""
        polynomials = [value for _, value in self.statements if isinstance(value, Polynomial)]
        muls = sum(max(len(m) - 2, 0) + (abs(m[0]) != 1 and len(m) > 1) for p in polynomials for m in p.args)
        return muls, sum(max(len(p) - 1, 0) for p in polynomials)


def _norm_adjoint(builder: Builder, norm: Norm, given: Mapping[str, Polynomial], bar: str) -> dict[str, Polynomial]:
    """The cotangents of what was normalised, from those of the result and of the scale.

    r (g_b - s m_b out_b mean(sum out g + r g_r)), with s the sign of q. It is written with the result instead of what
    was normalised: what was saved need not be computed anew. A sign that rounding errors would choose counts as zero,
    see `cliffnn.precision.sign_tolerance`; zero is a subgradient of the absolute value too.
    """
    scale = variable(norm.scale)
    upstream = {name: variable(builder.let(bar + name, adjoint)) for name, adjoint in given.items()}
    terms = [variable(name) * upstream[name] for name in norm.after if name in upstream]
    if norm.scale in upstream:
        terms.append(scale * upstream[norm.scale])
    pull = variable(builder.call("mean", builder.let(f"{bar}{norm.scale}_inner", summed(terms))))
    if -1 in norm.metric:
        squares = [m * variable(name) * variable(name) for m, name in zip(norm.metric, norm.after, strict=True)]
        sizes = [abs(m) * variable(name) * variable(name) for m, name in zip(norm.metric, norm.after, strict=True)]
        form = builder.let(f"{norm.scale}_form", summed(squares))
        size = builder.let(f"{norm.scale}_size", summed(sizes))
        pull = variable(builder.let(f"{bar}{norm.scale}_pull", pull * variable(builder.call("sign", form, size))))
    result = {}
    for m, before, after in zip(norm.metric, norm.before, norm.after, strict=True):
        rest = upstream.get(after, Polynomial([])) - m * variable(after) * pull
        result[before] = scale * variable(builder.let(f"{bar}{after}_rest", rest))
    return result


def _linear(builder: Builder, value: Polynomial, uniform: frozenset[str]) -> Polynomial:
    """The mean of a polynomial, as a polynomial in means and in what all channels share."""
    parts: dict[tuple[str, ...], Polynomial] = {}
    for coefficient, *factors in value.args:
        shared = tuple(factor for factor in factors if factor in uniform)
        own = Polynomial([[coefficient, *(factor for factor in factors if factor not in uniform)]])
        parts[shared] = parts.get(shared, Polynomial([])) + own
    total = Polynomial([])
    for shared, part in parts.items():
        # with one sign and size for all multiples, so that they share a mean
        size = Fraction(part[0][0])
        unit = Polynomial([[_whole(coefficient / size), *own] for coefficient, *own in part.args])
        factors = [variable(name) for name in shared]
        if operands(unit):
            factors.append(variable(builder.call("mean", builder.let("unit", unit))))
        total = total + _product(_whole(size), factors)
    return total


def _product(coefficient: int | Fraction, factors: Iterable[Polynomial]) -> Polynomial:
    return math.prod(factors, start=Polynomial([[coefficient]]))


def _whole(number: Fraction) -> int | Fraction:
    return int(number) if number.denominator == 1 else number


def _is_mean(value: Value) -> bool:
    return isinstance(value, Call) and value.function == "mean"
