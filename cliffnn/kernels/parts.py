"""A derivative of many blades in parts that share nothing but memory, so that registers hold each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from cliffnn.program import Program
from cliffnn.shared_sums import with_shared_sums


def handing_parts(
    program: Program,
    totals: Collection[str],
    by_the_way: Collection[str],
    factors: Mapping[str, Iterable[str]],
    coefficients: Collection[str],
) -> tuple[Program, ...]:
    """The same program in parts, which are computed in this order.

    The first part gives to the others the means, and the names before the cut, ``handed``. Two others that share sums
    are one part.

    Parameters
    ----------
    program : Program
    totals : collection of str
        The outputs that are sums over all rows.
    by_the_way : collection of str
        The outputs that belong to the first part: gradients with respect to cotangents.
    factors : mapping of str to iterable of str
        Of each other output, the inputs whose place its cotangents take in products.
    coefficients : collection of str
        The inputs that are the same in all rows.
    """
    others = [name for name in program.outputs if name not in by_the_way]
    if len(others) < 2:
        return (program,)
    means = tuple(name for of_depth in program.means for name in of_depth)
    given = {name: symbols for name, symbols in (("means", means), ("handed", program.cut)) if symbols}
    rest = program.given(given, means)
    # coefficients are all loaded before any is needed: what needs none makes room for them
    rest = replace(rest, cut=rest.before(coefficients))
    parts = _sharing(rest, others, totals, factors, coefficients)
    if by_the_way or given:
        parts.insert(0, program.only({name: program.outputs[name] for name in by_the_way} | given))
    return tuple(parts)


def _sharing(
    program: Program,
    names: Collection[str],
    totals: Collection[str],
    factors: Mapping[str, Iterable[str]],
    coefficients: Collection[str],
) -> list[Program]:
    """A part for each output, but one for two that share sums, if there are such."""
    for gradient in reversed([name for name in names if name not in totals]):
        for total in (name for name in names if name in totals):
            both = program.giving(gradient, total)
            if (sharing := with_shared_sums(both, factors[gradient], coefficients)) is not both:
                return [*(program.giving(name) for name in names if name not in (gradient, total)), sharing]
    return [program.giving(name) for name in names]
