"""Functions of multivectors that the library writes for every algebra, as its users write one for theirs.

A `geometric_op` belongs to one algebra. A family defines one for each algebra and choice of whole numbers, when it is
first asked for; its name tells them, so another process, which loads a compiled program say, can define it too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from cliffnn.algebra import Algebra
from cliffnn.expressions import FINDERS
from cliffnn.geometric import GeometricOp, _text

# From an algebra, and whole numbers, to a function of multivectors.
Definition = Callable[..., Callable]

_FAMILIES: dict[str, Definition] = {}


def family(define: Definition) -> Definition:
    """Register a family under the name of its definition."""
    _FAMILIES[define.__name__] = define
    return define


@functools.cache
def member(name: str, algebra: Algebra, options: tuple[int, ...]) -> GeometricOp:
    """The operator of a family for an algebra and numbers."""
    function = _FAMILIES[name](algebra, *options)
    function.__name__ = "_".join(map(str, (name, algebra.p, algebra.q, algebra.r, *options)))
    return GeometricOp(function, algebra)


def text_of(name: str, algebra: str, options: tuple[int, ...], shared: tuple[str, ...] = ()) -> str:
    """The text of its operation, for `cliffnn.ops.evaluate`; ``shared`` are the multivectors that have no rows."""
    op = member(name, Algebra(algebra), options)
    return _text(op._key, tuple(parameter in shared for parameter in op.grades))[0]


# torch.compile calls this function where it would trace others: see `cliffnn.algebra`.
text_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _find(name: str) -> None:
    match = re.fullmatch(r"([a-z_]+?)((?:_\d+){3,})_[0-9a-f]{12}", name)
    if match and match[1] in _FAMILIES:
        p, q, r, *options = map(int, match[2].split("_")[1:])
        member(match[1], Algebra((p, q, r)), tuple(options))._traced  # noqa: B018


FINDERS.append(_find)
