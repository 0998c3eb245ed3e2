"""How functions of multivectors call the operator: arguments are checked, leading dimensions flattened."""

from __future__ import annotations

from torch import Tensor

from cliffnn.algebra import Algebra, GradesLike
from cliffnn.checks import (
    autocast,
    autocasting,
    broadcast,
    check_alike,
    check_eps,
    check_multivector,
    checked_paths,
    flattened,
    held_grades,
)
from cliffnn.expressions import CHANNELS, PATHS
from cliffnn.operation import Operation, operation, text
from cliffnn.ops import evaluate_unobserved, geometric_op, unobserved

# By what arguments are like, but for their number of rows: those that were found right, and the operation.
_found: dict[tuple, Operation] = {}


def apply(
    expression: str,
    algebra: Algebra,
    rows: dict[str, Tensor],
    params: dict[str, tuple[str, Tensor]] | None = None,
    normalize: bool = False,
    eps: float = 1e-6,
    grades: dict[str, GradesLike] | None = None,
) -> Tensor:
    """Evaluate an expression.

    Parameters
    ----------
    expression : str
        Its name.
    algebra : Algebra
    rows : dict of Tensor
        Multivectors, ``(..., blades, channels)``, by name.
    params : dict
        For each coefficient what there is one for (see `cliffnn.expressions.Expression`), and its values:
        ``(paths, channels)``, ``(grades, channels)`` or ``(channels,)``.
    normalize : bool
        Whether the result is divided by its root mean square.
    eps : float
        What norms add to what they divide by.
    grades : dict
        What multivectors hold, the result as ``"out"``, where not all.
    """
    tensors = [*rows.values(), *[value for _, value in (params or {}).values()]]
    alike = _likeness(expression, algebra, tensors, len(rows), normalize, eps, grades)
    if alike is not None and alike in _found:
        inputs = [tensor if tensor.ndim > 1 else tensor[None] for tensor in tensors]
        return evaluate_unobserved(_found[alike], inputs, eps)[0]
    checked = {name: held_grades(algebra, k, f"{name}_grades") for name, k in (grades or {}).items()}
    held = {name: k for name, k in checked.items() if k is not None}
    for name, row in rows.items():
        check_multivector(name, row, algebra, held.get(name))
    check_eps(eps)
    params = params or {}
    values = {name: value for name, (_, value) in params.items()}
    if autocasting(next(iter(rows.values())).device.type):
        rows, values = autocast(rows), autocast(values)
    check_alike({**rows, **values})
    lead, channels = broadcast(rows)
    paths = algebra.paths
    if held and len(rows) > 1:
        paths = checked_paths(algebra, *(held.get(name) for name in (*[*rows][:2], "out")))
    for name, row in rows.items():
        if params and row.shape[-1] != channels:
            raise ValueError(f"{name}: got {row.shape[-1]} channels, wanted {channels}, as the other has")
    for name, (each, _) in params.items():
        axis = each if each in (PATHS, CHANNELS) else "grades"
        count = len(paths if each == PATHS else held.get(each) or algebra.grades)
        wanted, axes = ((channels,), "(channels,)") if each == CHANNELS else ((count, channels), f"({axis}, channels)")
        if tuple(values[name].shape) != wanted:
            raise ValueError(
                f"{name}: got shape {tuple(values[name].shape)}, wanted {wanted}: {axes} of {algebra.name}"
            )
    flat = [flattened(row, lead, channels) for row in rows.values()]
    # a view that changes nothing costs host time, and again in the backward
    coefficients = [(v if v.ndim == 2 else v[None]).contiguous() for v in values.values()]
    what = text(expression, held, normalize=normalize)
    if alike is not None:
        _found[alike] = operation(what, algebra.name)
    out = geometric_op(what, algebra, [*flat, *coefficients], eps)
    return out if len(lead) == 1 else out.reshape(*lead, *out.shape[-2:])


def _likeness(
    expression: str,
    algebra: Algebra,
    tensors: list[Tensor],
    rows: int,
    normalize: bool,
    eps: float,
    grades: dict[str, GradesLike] | None,
) -> tuple | None:
    """What checks of the arguments depend on, so that those found right once need not be looked at again.

    None in all but the plain case, tensors ``(rows, blades, channels)`` with as many rows and channels as each other.
    """
    if not unobserved(tensors) or type(eps) is not float:
        return None
    first = tensors[0]
    if autocasting(first.device.type) or any(t.ndim != 3 or t.shape[::2] != first.shape[::2] for t in tensors[:rows]):
        return None
    like = [(t.shape[1:] if n < rows else t.shape, t.dtype, t.device) for n, t in enumerate(tensors)]
    alike = (expression, algebra, normalize, eps, *(grades or {}).items(), *like)
    try:
        hash(alike)
    except TypeError:
        return None
    return alike
