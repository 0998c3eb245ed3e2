"""A derivative of many blades in sections, one after the other in the same registers.

First comes what all gradients need: the gradient before the norm. Then one gradient after the other, and of each what
needs the same coefficients, as the blades of a grade do: these are loaded for it, and then done with. The last of them
shares sums with the gradients of the coefficients.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from cliffnn.program import Program
from cliffnn.shared_sums import with_shared_sums
from cliffnn.statements import operands

# What a section leaves in registers for others, among its outputs; among its inputs, what it finds there.
KEPT = "kept"


def sections(
    program: Program, totals: Collection[str], factors: Mapping[str, Iterable[str]], coefficients: Collection[str]
) -> tuple[Program, ...]:
    """The same program in sections, which are computed in this order.

    Parameters
    ----------
    program : Program
    totals : collection of str
        The outputs that are sums over all rows.
    factors : mapping of str to iterable of str
        Of each other output, the inputs that it is the gradient with respect to.
    coefficients : collection of str
        The inputs that are the same in all rows.
    """
    means = tuple(name for of_depth in program.means for name in of_depth)
    found: list[Program] = []
    if program.cut or means:
        kept = (*program.cut, *means)
        found.append(replace(program.only({KEPT: kept}), cut=()))
        program = program.given({KEPT: kept}, means)
    for gradients in _gradients(program, totals, factors, coefficients):
        found += _by_coefficients(gradients, totals, frozenset(coefficients))
    return tuple(found)


def _gradients(
    program: Program, totals: Collection[str], factors: Mapping[str, Iterable[str]], coefficients: Collection[str]
) -> list[Program]:
    """One output after the other; last the totals, and with them one that shares sums, or else most statements."""
    rows, sums = ([name for name in program.outputs if (name in totals) == chosen] for chosen in (False, True))
    if not (rows and sums):
        return [*(program.giving(name) for name in rows), *([program.giving(*sums)] if sums else [])]
    for name in reversed(rows):
        both = program.giving(name, *sums)
        if (sharing := with_shared_sums(both, factors[name], coefficients)) is not both:
            return [*(program.giving(other) for other in rows if other != name), sharing]
    shared = {
        name: len({*program.giving(name).statements}.intersection(program.giving(*sums).statements)) for name in rows
    }
    most = max(rows, key=shared.__getitem__)
    return [*(program.giving(name) for name in rows if name != most), program.giving(most, *sums)]


def _by_coefficients(program: Program, totals: Collection[str], coefficients: frozenset[str]) -> Iterator[Program]:
    """Sections in each of which the same coefficients are needed; what is no sum over rows is finished in the last."""
    results = {symbol for group in program.outputs.values() for symbol in group}
    steps = [program.needed_by(names) for names in (*_targets(program, results, coefficients), results)]
    sums = [program.needed_by([symbol]) for name in totals for symbol in program.outputs.get(name, ())]
    computed = {name for name, _ in program.statements}
    missing = dict(program.statements)
    for number, step in enumerate(steps):
        # a sum over rows as soon as nothing that it is made of waits for another section
        waiting = frozenset().union(*steps[number + 1 : -1]) - step
        chosen = step.union(*(each for each in sums if waiting.isdisjoint(each & missing.keys()))) & missing.keys()
        statements = tuple((name, missing.pop(name)) for name, _ in program.statements if name in chosen)
        read = {operand for value in missing.values() for operand in operands(value)}
        found = {operand for _, value in statements for operand in operands(value)} & computed - chosen
        yield replace(
            program,
            inputs={**program.inputs, KEPT: (*program.inputs.get(KEPT, ()), *sorted(found))},
            outputs={KEPT: tuple(n for n, _ in statements if n in read | results)} if missing else program.outputs,
            statements=statements,
            scalars=program.scalars | (found & program.uniform),
        )
        if not missing:
            return


def _targets(program: Program, results: Collection[str], coefficients: frozenset[str]) -> list[list[str]]:
    """What is computed of the same coefficients, for the largest sets of them that are not all.

    Results are finished later, if they are computed of something that needs as many.
    """
    needed: dict[str, frozenset[str]] = {}
    for name, value in program.statements:
        parts = (needed.get(operand, coefficients & {operand}) for operand in operands(value))
        needed[name] = frozenset().union(*parts)
    found = set(needed.values()) - {frozenset().union(*needed.values())}
    targets: dict[frozenset[str], list[str]] = {
        each: [] for each in needed.values() if each in found and not any(each < other for other in found)
    }
    for name, each in needed.items():
        if each in targets:
            targets[each].append(name)
    return [[name for name in names if name not in results] or names for names in targets.values()]
