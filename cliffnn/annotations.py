"""What the signature of a function of multivectors says: the grades that each holds, by its annotations, and names."""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
from collections.abc import Callable
from typing import Any

from cliffnn.algebra import Algebra

# What annotates coefficients; annotations of the future are source.
PATHS = ("paths", "'paths'", '"paths"')
# Of grades.
NAMES = ("scalar", "vector", "bivector", "trivector", "quadvector", "pentavector", "hexavector")


def input_name(name: str, position: int) -> str:
    """What generated source calls a parameter: nothing of its own begins like this, or is a single letter.

    Numbers of blades follow, so a name that ends with a number would be ambiguous.
    """
    if re.fullmatch(r"[A-Za-z]", name):
        return name
    letters = re.fullmatch(r"[A-Za-z]+(_[A-Za-z]+)*([0-9]*)", name)
    return f"input_{position}_" if letters is None else f"in_{name}_" if letters[2] else f"in_{name}"


def parameters_of(function: Callable) -> dict[str, Any]:
    """The parameters that have no value yet, and their annotations."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{name}: got a parameter of any number of arguments, wanted one for each multivector")
        if parameter.default is parameter.empty:
            if parameter.kind is parameter.KEYWORD_ONLY:
                raise TypeError(f"{name}: got a parameter that goes by keyword only, wanted one that has a position")
            found[name] = None if parameter.annotation is parameter.empty else parameter.annotation
    if not found:
        raise TypeError(f"{function.__name__}: got a function without parameters, wanted one of multivectors")
    return found


def annotated_grades(annotation: Any, algebra: Algebra, name: str) -> tuple[int, ...] | None:
    """The grades that an annotation names."""
    if isinstance(annotation, str):
        # annotations of the future are source
        with contextlib.suppress(ValueError, SyntaxError):
            annotation = ast.literal_eval(annotation)
    parts = annotation if isinstance(annotation, (tuple, list)) else (annotation,)
    named: dict[str, tuple[int, ...]] = {name: (k,) for k, name in enumerate(NAMES) if k <= algebra.dim}
    named |= {f"pseudo{name}": (algebra.dim - k,) for k, name in enumerate(NAMES) if k <= algebra.dim}
    named |= {"even": algebra.grades[::2], "odd": algebra.grades[1::2], "multivector": algebra.grades}
    found: set[int] = set()
    for part in parts:
        if isinstance(part, str) and part in named:
            found.update(named[part])
        elif isinstance(part, int) and not isinstance(part, bool) and part in algebra.grades:
            found.add(part)
        else:
            wanted = f"wanted grades of {algebra}: {', '.join(named)}, numbers up to {algebra.dim}, or a tuple of them"
            raise ValueError(f"{name}: got the annotation {part!r}, {wanted}")
    return tuple(sorted(found)) if tuple(sorted(found)) != algebra.grades else None
