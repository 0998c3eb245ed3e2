"""Programs printed as torch code that computes a block of rows in memory that it is given.

Allocating each intermediate result anew costs a CPU more than computing it: fresh memory is neither mapped nor in the
cache. So a result gets the buffer of one that nobody needs any more. What a row, or a channel, has one of is small, and
computed as it comes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from cliffnn import cache
from cliffnn.codegen import call, file_name, function_text, header, is_constant, program_of, used_groups
from cliffnn.operation import Operation

if TYPE_CHECKING:
    from cliffnn.program import Program
    from cliffnn.schedule import Term
    from cliffnn.statements import Call

# Functions that are torch's own, and write where they are told to.
_INTO = frozenset(
    {"abs", "cos", "cosh", "exp", "log", "reciprocal", "rsqrt", "sigmoid", "sin", "sinh", "sqrt", "tan", "tanh"}
)
# An input that is read more often is copied first: its rows lie apart, so that reading them takes longer.
_READS = 2


def buffered_function(operation: Operation) -> tuple[Callable, tuple[str, ...], int]:
    """The generated function of an operation, the inputs that it takes, by name, and how many buffers it needs."""

    def generate() -> str:
        source, count = buffered_source("run", operation)
        return header(operation, "add, addcmul, mul, sum", program_of(operation), f"BUFFERS = {count}") + source

    module = cache.load(file_name(operation.text, operation.algebra.name, "buffered"), generate)
    return module.__dict__["run"], module.__dict__["INPUTS"], module.__dict__["BUFFERS"]


def buffered_source(name: str, operation: Operation) -> tuple[str, int]:
    """A function that takes a tuple of tensors for each group, also for the results, and how many buffers it needs."""
    from cliffnn.schedule import lasting_first, postponed

    program = _through_buffers(operation)
    small = _small(program, operation)
    stored = small.union(*program.inputs.values(), *program.outputs.values())
    bodies = [_body(program, order(program, stored), small) for order in (postponed, lasting_first)]
    body, count = min(bodies, key=lambda found: found[1])
    buffers = tuple(f"buffer{index}" for index in range(count))
    groups = {**used_groups(program), **program.outputs, "buffers": buffers, "nothing": ("NOTHING",)}
    return function_text(name, program, groups, body), count


def _through_buffers(operation: Operation) -> Program:
    """The program that copies first what it reads often, and last what it has computed in a buffer.

    A copy of a name, an input or an output then, is called like it, with two underscores: no argument is.
    """
    from cliffnn.statements import Call, Statement, variable

    program = program_of(operation)
    reads = Counter(name for _, value in program.statements for name in _read_by_terms(value))
    terms = {name: len(getattr(value, "args", (value,))) for name, value in program.statements}
    rows = [
        symbol for name, group in operation.inputs.items() if group.kind == "rows" for symbol in program.inputs[name]
    ]
    often = {symbol for symbol in rows if reads[symbol] > _READS}
    inputs = {name: tuple(f"{s}__" if s in often else s for s in group) for name, group in program.inputs.items()}
    before: list[Statement] = [(symbol, variable(f"{symbol}__")) for symbol in rows if symbol in often]
    after: list[Statement] = []
    outputs = {}
    for name, group in program.outputs.items():
        kind = operation.outputs[name].kind
        later = {s for s in group if kind == "shared" or (kind == "rows" and (reads[s] or terms[s] > 1))}
        outputs[name] = tuple(f"{s}__" if s in later else s for s in group)
        after += [(f"{s}__", Call("total", (s,)) if kind == "shared" else variable(s)) for s in group if s in later]
    statements = (*before, *program.statements, *after)
    return replace(program, inputs=inputs, outputs=outputs, statements=statements)


def _read_by_terms(value) -> list[str]:
    from cliffnn.statements import operands

    if hasattr(value, "function"):
        return [*operands(value)]
    return [name for _, *factors in value.args for name in {*factors}]


def _small(program: Program, operation: Operation) -> frozenset[str]:
    """The names whose value is the same in all channels of a row, or in all rows, but for what is summed over rows."""
    from cliffnn.statements import CONSTANTS, operands

    shared = {s for name, group in operation.inputs.items() if group.kind == "shared" for s in program.inputs[name]}
    found = shared | set(CONSTANTS)
    for name, value in program.statements:
        if operands(value) and found.issuperset(operands(value)):
            found.add(name)
    summed = {
        name for key, group in operation.outputs.items() if group.kind == "shared" for name in program.outputs[key]
    }
    return (program.uniform | found) - {name.removesuffix("__") for name in summed}


class _Line(NamedTuple):
    """A term, and a number that it is added to; see `cliffnn.schedule.Term`."""

    name: str
    value: tuple | Call
    first: bool
    base: str = ""

    @property
    def operands(self) -> tuple[str, ...]:
        from cliffnn.schedule import operands_of

        return tuple(dict.fromkeys((*operands_of(self.value), *([self.base] if self.base else []))))


def _based(terms: Sequence[Term], small: frozenset[str]) -> list[_Line]:
    """Terms in their order; a product that a sum begins with takes along a term that is a plain number."""
    from cliffnn.schedule import operands_of

    last = {term.name: index for index, term in enumerate(terms)}
    of_name: dict[str, list[int]] = {}
    for index, term in enumerate(terms):
        of_name.setdefault(term.name, []).append(index)
    bases: dict[int, str] = {}
    gone = set()
    for name, indices in of_name.items():
        plain = next((i for i in indices if _plain(terms[i].value, small)), None)
        begin = next((i for i in indices if i != plain), None)
        if plain is None or begin is None or name in small:
            continue
        product, base = terms[begin].value, operands_of(terms[plain].value)[0]
        # of two factors, not both small; the number has to be there by then
        if (
            isinstance(product, tuple)
            and len(product) == 3
            and not small >= {*product[1:]}
            and last.get(base, -1) < begin
        ):
            bases[begin] = base
            gone.add(plain)
    return [
        _Line(term.name, term.value, term.first or index in bases, bases.get(index, ""))
        for index, term in enumerate(terms)
        if index not in gone
    ]


def _plain(value: tuple | Call, small: frozenset[str]) -> bool:
    """Whether a term is a number that is not small, and nothing else."""
    return isinstance(value, tuple) and len(value) == 2 and value[0] == 1 and value[1] not in small


def _body(program: Program, terms: Sequence[Term], small: frozenset[str]) -> tuple[list[str], int]:
    """The lines that compute terms in their order, and how many buffers they need."""
    outputs = {symbol for group in program.outputs.values() for symbol in group}
    lines = _based(terms, small)
    reads = Counter(operand for line in lines for operand in line.operands)
    last_use = {operand: index for index, line in enumerate(lines) for operand in line.operands}
    last_line = {line.name: index for index, line in enumerate(lines)}
    # where the last term of a sum goes of which nothing else is read
    places = {s: line.name for line in lines if (s := _copied(line)) and reads[s] == 1 and s not in small}
    buffers: dict[str, str] = {}
    free: list[str] = []
    body: list[str] = []
    count = 0
    for index, line in enumerate(lines):
        name, value, first, base = line
        done = [operand for operand in line.operands if last_use[operand] == index and operand in buffers]
        in_place = hasattr(value, "function") or len(value) < 4
        if in_place:
            # a result may take the buffer of what it is computed from, if one call of torch computes it
            free += [buffers.pop(operand) for operand in done]
        place = places.get(name, "") if index == last_line[name] else ""
        if name in small and name not in outputs:
            body.append(_small_line(name, value, first))
        elif _copied(line) in places:
            pass
        elif first:
            if name not in outputs and not place:
                if not free:
                    free.append(f"buffer{count}")
                    count += 1
                buffers[name] = free.pop()
            body.append(_first(place or buffers.get(name, name), name, value, small, base))
        else:
            body.append(_added(name, value, place))
        if not in_place:
            free += [buffers.pop(operand) for operand in done]
    return body, count


def _copied(term: _Line) -> str:
    """The name that a result is only a copy of, as `_through_buffers` writes it."""
    symbol = term.name.removesuffix("__")
    return symbol if symbol != term.name and term.value == (1, symbol) else ""


def _small_line(name: str, value, first: bool) -> str:
    if hasattr(value, "function"):
        return f"{name} = {call(value)}"
    text = _product(value[0], value[1:])
    return f"{name} = {text}" if first else f"{name} = {name} + {text}"


def _product(coefficient: float, factors: Sequence[str]) -> str:
    return " * ".join([str(float(coefficient)), *factors] if coefficient != 1 or not factors else factors)


def _first(target: str, name: str, value, small: frozenset[str], base: str) -> str:
    """The line that computes the first term of a name in its buffer."""
    from cliffnn.statements import operands

    if hasattr(value, "function"):
        if value.function == "total":
            return f"sum({value.arguments[0]}, 0, out={target})"
        if value.function in _INTO and small.isdisjoint(operands(value)):
            return f"{name} = {call(value, f'out={target}')}"
        return f"{name} = {target}.copy_({call(value)})"
    coefficient, *factors = value
    if small.issuperset(factors):
        function = "fill_" if is_constant(factors) else "copy_"
        return f"{name} = {target}.{function}({_product(coefficient, factors)})"
    if len(factors) == 1:
        if coefficient == 1:
            return f"{name} = {target}.copy_({factors[0]})"
        return f"{name} = mul({factors[0]}, {float(coefficient)}, out={target})"
    # what is small is multiplied first
    factors = sorted(factors, key=lambda factor: factor not in small)
    text = f"{' * '.join(factors[:-1])}, {factors[-1]}"
    if base:
        scale = "" if coefficient == 1 else f", value={float(coefficient)}"
        return f"{name} = addcmul({base}, {text}{scale}, out={target})"
    if coefficient != 1 and factors[0] in small:
        return f"{name} = mul({float(coefficient)} * {text}, out={target})"
    if coefficient == 1:
        return f"{name} = mul({text}, out={target})"
    return f"{name} = addcmul(NOTHING, {text}, value={float(coefficient)}, out={target})"


def _added(name: str, value, place: str) -> str:
    """The line that adds a further term, into another place if there is one."""
    coefficient, *factors = value
    scale = "" if coefficient == 1 else f", {'alpha' if len(factors) == 1 else 'value'}={float(coefficient)}"
    if not factors:
        function, text = "add", str(float(coefficient))
    elif len(factors) == 1:
        function, text = "add", f"{factors[0]}{scale}"
    else:
        function, text = "addcmul", f"{' * '.join(factors[:-1])}, {factors[-1]}{scale}"
    return f"{function}({name}, {text}, out={place})" if place else f"{name}.{function}_({text})"
