"""What an operator evaluates: an expression in an algebra, or a derivative of one; known without generating anything.

It has a text, which is how operators, files and compilers speak of it:
``weighted_geometric_product[x=1,out=0+2].norm.vjp(out:x,w)``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from cliffnn.algebra import Algebra, Path
from cliffnn.expressions import CHANNELS, EXPRESSIONS, PATHS, Expression, find

Kind: TypeAlias = Literal["rows", "shared", "scalars"]


class Group(NamedTuple):
    """Numbers under one name.

    Attributes
    ----------
    kind : str
        ``"rows"``: a tensor ``(rows, size, channels)``, in the dtype of the multivectors; ``"shared"``: ``(size,
        channels)``, the same for all rows; ``"scalars"``: ``(rows, size)``, in the dtype of the arithmetic.
    indices : tuple of int
        What each of its numbers is called by: blades, grades or paths.
    """

    kind: Kind
    indices: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Derivative:
    """A vector-Jacobian product: of which outputs, with respect to which inputs."""

    of: tuple[str, ...]
    wrt: tuple[str, ...]


# Operations are equal if they are the same object: `operation` makes one for each text and algebra.
@dataclass(frozen=True, eq=False)
class Operation:
    """An expression in an algebra, or a derivative of one.

    Attributes
    ----------
    text : str
    algebra : Algebra
    expression : Expression
    grades : mapping of str to tuple of int
        What multivectors have, if not all: inputs by their names, the result as ``"out"``.
    shared : tuple of str
        The multivectors that all rows share.
    normalize : bool
        Whether the result is divided, grade by grade, by its root mean square over the channels.
    derivatives : tuple of Derivative
        One after the other.
    inputs, outputs : mapping of str to Group
        A derivative takes the inputs of what it differentiates, what that has saved, and a cotangent of each output.
    saved : tuple of str
        Inputs that are functions of others: nothing is differentiated with respect to them.
    row : int
        The number of an input that comes row by row.
    totals : mapping of str to int
        The outputs that are sums over all rows, gradients of what rows share, and their sizes.
    """

    text: str
    algebra: Algebra
    expression: Expression
    grades: Mapping[str, tuple[int, ...]]
    shared: tuple[str, ...]
    normalize: bool
    derivatives: tuple[Derivative, ...]
    inputs: dict[str, Group] = field(init=False)
    outputs: dict[str, Group] = field(init=False)
    saved: tuple[str, ...] = field(init=False)
    row: int = field(init=False)
    totals: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        inputs = {name: self._multivector(name) for name in self.expression.rows}
        inputs |= {name: Group("shared", self._each(what)) for name, what in self.expression.params.items()}
        outputs = {name: self._multivector(name) for name in self.results}
        if self.normalize:
            outputs["scales"] = Group("scalars", self.normed_grades)
        saved = tuple(outputs) if self.normalize and self.derivatives else ()
        inputs |= {name: outputs[name] for name in saved}
        for order, derivative in enumerate(self.derivatives, 1):
            differentiated = inputs
            inputs = inputs | {gradient_name(order, name): outputs[name] for name in derivative.of}
            outputs = {gradient_name(order, name): differentiated[name] for name in derivative.wrt}
        row = [group.kind for group in inputs.values()].index("rows")
        totals = {name: group.size for name, group in outputs.items() if group.kind == "shared"}
        known = {"inputs": inputs, "outputs": outputs, "saved": saved, "row": row, "totals": totals}
        for name, value in known.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"operation({self.text!r}, {self.algebra.name!r})"

    @property
    def order(self) -> int:
        """How often it was differentiated."""
        return len(self.derivatives)

    @property
    def results(self) -> tuple[str, ...]:
        """The multivectors that the expression gives."""
        return self.expression.results

    @property
    def paths(self) -> tuple[Path, ...]:
        """Those of the algebra that join grades which the factors, the first two multivectors, and the result have."""
        return self.algebra.paths_between(*(self.grades_of(name) for name in (*self.expression.rows[:2], "out")))

    @property
    def normed_grades(self) -> tuple[int, ...]:
        """The grades of the result that are normalised."""
        return tuple(k for k in self.algebra.normed_grades if k in self.grades_of("out"))

    def grades_of(self, name: str) -> tuple[int, ...]:
        return self.grades.get(name, self.algebra.grades)

    def blades_of(self, name: str) -> tuple[int, ...]:
        return self.algebra.blades_of(self.grades_of(name))

    def vjp(self, of: Iterable[str], wrt: Iterable[str]) -> Operation:
        """The vector-Jacobian product of some outputs, with respect to some inputs."""
        return operation(f"{self.text}.vjp({','.join(of)}:{','.join(wrt)})", self.algebra.name)

    def _each(self, what: str | int) -> tuple[int, ...]:
        """By what coefficients are called; see `Expression`."""
        if isinstance(what, int) or what == PATHS:
            return tuple(range(what if isinstance(what, int) else len(self.paths)))
        return (0,) if what == CHANNELS else self.grades_of(what)

    def _multivector(self, name: str) -> Group:
        return Group("shared" if name in self.shared else "rows", self.blades_of(name))


def gradient_name(order: int, name: str) -> str:
    """The cotangent of an output, or the gradient of an input, in a derivative of some order."""
    return f"grad{order if order > 1 else ''}_{name}"


def text(
    expression: str,
    grades: Mapping[str, tuple[int, ...] | None] | None = None,
    shared: Iterable[str] = (),
    normalize: bool = False,
) -> str:
    """The text of an operation.

    Parameters
    ----------
    expression : str
        Its name.
    grades : mapping
        Of inputs, and of the result as ``"out"``; None: all.
    shared : iterable of str
        Multivectors that all rows share.
    normalize : bool

    Examples
    --------
    >>> text("geometric_product", {"x": (1,), "out": (0, 2)}, normalize=True)
    'geometric_product[x=1,out=0+2].norm'
    """
    chosen = {name: "+".join(map(str, of)) for name, of in (grades or {}).items() if of is not None}
    for name in shared:
        chosen[name] = f"{chosen.get(name, '')}!"
    options = ",".join(f"{name}={value}" for name, value in chosen.items())
    return expression + (f"[{options}]" if options else "") + (".norm" if normalize else "")


_TEXT = re.compile(r"(\w+)(?:\[([^\]]*)\])?(\.norm)?((?:\.vjp\([\w,]*:[\w,]*\))*)")


@functools.cache
def operation(text: str, algebra: str) -> Operation:
    """The operation of a text, in an algebra."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"operation: got {text!r}, wanted a text as expression[x=0+1].norm.vjp(out:x)")
    name, options, norm, derivatives = match.groups()
    expression = find(name)
    if expression is None:
        raise ValueError(
            f"expression: got {name!r}, wanted one of {', '.join(EXPRESSIONS)}; an expression of your own is known "
            "once the module that defines it was imported, and only as it is defined now"
        )
    grades, shared = {}, []
    for option in options.split(",") if options else ():
        key, _, value = option.partition("=")
        if value.endswith("!"):
            shared.append(key)
        if numbers := value.removesuffix("!"):
            grades[key] = tuple(map(int, numbers.split("+")))
    found = re.findall(r"\.vjp\(([\w,]*):([\w,]*)\)", derivatives)
    steps = tuple(Derivative(*(tuple(filter(None, names.split(","))) for names in pair)) for pair in found)
    return Operation(text, Algebra(algebra), expression, grades, tuple(shared), norm is not None, steps)
