"""Sums that serve two gradients.

Of a sum of w_p h_k a_i b_j, the gradient with respect to b_j is a sum of w_p c_pj, that with respect to w_p a sum of
b_j c_pj, where c_pj, a sum of h_k a_i, is the same. Reverse mode computes the one from products of w and h, the other
from products of a and b, which are what it finds named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace

from kingdon.polynomial import Polynomial

from cliffnn.program import Program
from cliffnn.statements import Builder, Statement, Value, summed, variable


def with_shared_sums(program: Program, factors: Iterable[str], coefficients: Iterable[str]) -> Program:
    """The same program, where fewer operations are enough with sums that names of two kinds share.

    Parameters
    ----------
    program : Program
    factors : iterable of str
        Inputs, as the blades of one factor of a product, b_j.
    coefficients : iterable of str
        Inputs, as the weights of a product, w_p.
    """
    ours, theirs = program.depending_only_on(factors), frozenset(coefficients)
    weighted = program.depending_on(theirs)
    products = _linear((statement for statement in program.statements if statement[0] not in weighted), ours)
    found = {name: sums for name, value in program.statements if (sums := _by_factor(value, products, ours))}
    shared = {sign * each for sums in found.values() for each in sums.values() for sign in (1, -1)}
    products = _linear(program.statements, theirs)

    names = {name for group in program.inputs.values() for name in group} | {name for name, _ in program.statements}
    builder = Builder(names)
    for name, value in program.statements:
        sums = found.get(name) or _by_factor(value, products, theirs)
        if sums and shared.issuperset(sums.values()):
            value = summed(_times(builder, factor, each) for factor, each in sums.items())
        builder.assign(name, value)
    other = replace(program, statements=tuple(builder.statements)).pruned()
    return min(program, other, key=lambda each: sum(each.operations))


def _linear(statements: Iterable[Statement], factors: Set[str]) -> dict[str, Polynomial]:
    """The values each of whose terms is a product with one of the factors."""
    return {
        name: value
        for name, value in statements
        if isinstance(value, Polynomial)
        and all(len(m) > 2 and sum(factor in factors for factor in m[1:]) == 1 for m in value.args)
    }


def _by_factor(value: Value, products: Mapping[str, Polynomial], factors: Set[str]) -> dict[str, Polynomial]:
    """What each factor is multiplied with in a sum of names times such products; nothing, if it is another sum."""
    sums: dict[str, Polynomial] = {}
    for coefficient, *names in value.args if isinstance(value, Polynomial) else ():
        known = [name for name in names if name in products]
        if len(known) != 1 or len(names) < 2 or not factors.isdisjoint(names):
            return {}
        names.remove(known[0])
        for inner, *others in products[known[0]].args:
            (factor,) = (name for name in others if name in factors)
            others.remove(factor)
            term = Polynomial([[coefficient * inner, *sorted((*names, *others))]])
            sums[factor] = sums.get(factor, Polynomial([])) + term
    return {factor: each for factor, each in sums.items() if each}


def _times(builder: Builder, factor: str, value: Polynomial) -> Polynomial:
    """A factor times a sum, which has a name, the same for its negative."""
    sign = 1 if value[0][0] > 0 else -1
    return Polynomial([[sign]]) * variable(factor) * variable(builder.let(f"by_{factor}", sign * value))
