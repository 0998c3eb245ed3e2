"""What the public functions ask of their arguments; a complaint names the argument, what came and what was wanted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from cliffnn.algebra import Algebra, GradesLike, Path

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_alike(tensors: dict[str, Tensor]) -> None:
    """Complain about any that is not on the device of the first, and of its dtype."""
    first, x = next(iter(tensors.items()))
    for name, other in tensors.items():
        if not isinstance(other, Tensor):
            raise TypeError(f"{name}: got {type(other).__name__}, wanted a torch.Tensor")
        if other.device != x.device:
            raise ValueError(f"{name}: got a tensor on {other.device}, wanted {x.device}, where {first} is")
        if other.dtype != x.dtype:
            raise TypeError(f"{name}: got {other.dtype}, wanted {x.dtype}, the dtype of {first}")


def autocasting(device: str) -> bool:
    """Whether autocast is on; a device without memory knows no such thing."""
    return device != "meta" and torch.is_autocast_enabled(device)


def autocast(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Store in autocast's dtype; arithmetic is in float32 all the same."""
    return {
        name: t.to(torch.get_autocast_dtype(t.device.type)) if isinstance(t, Tensor) and t.dtype in DTYPES[1:] else t
        for name, t in tensors.items()
    }


def without_autocast(device: str) -> AbstractContextManager:
    """Torch's own matrix products in the dtype of their factors."""
    return torch.autocast(device, enabled=False) if autocasting(device) else nullcontext()


def same(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether shapes are equal; False, under a compiler, where only the data know."""
    # lengths first: a compiler would compare rows of one with channels of another
    if len(shape) != len(other):
        return False
    if not torch.compiler.is_compiling():
        return shape == other
    # it imports sympy
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    return all(guard_or_false(size == wanted) for size, wanted in zip(shape, other, strict=True))


def broadcast(rows: dict[str, Tensor]) -> tuple[torch.Size, int]:
    """The leading dimensions and the channels that all have in common; blades differ where grades do."""
    shapes = [torch.Size((*row.shape[:-2], row.shape[-1])) for row in rows.values()]
    if not all(same(shape, shapes[0]) for shape in shapes):
        try:
            shapes[0] = torch.broadcast_shapes(*shapes)
        except RuntimeError:
            got = " and ".join(str(tuple(row.shape)) for row in rows.values())
            raise ValueError(f"{', '.join(rows)}: got shapes {got}, wanted shapes that broadcast") from None
    return shapes[0][:-1], shapes[0][-1]


def check_multivector(name: str, x: Tensor, algebra: Algebra, grades: GradesLike = None) -> None:
    if grades is None:
        check_tensor(name, x, len(algebra), algebra.name)
    else:
        check_tensor(name, x, len(algebra.blades_of(grades)), f"grades {grades} of {algebra.name}")


def held_grades(algebra: Algebra, grades: GradesLike, name: str = "grades") -> tuple[int, ...] | None:
    """Ascending grades, None for all of them, or a complaint: one form for each choice."""
    if grades is None:
        return None
    held = algebra.checked_grades(grades, name)
    return None if held == algebra.grades else held


def gated_grades(algebra: Algebra, grades: GradesLike, name: str = "grades") -> tuple[int, ...] | None:
    """The same for a multivector that its scalar part gates."""
    held = held_grades(algebra, grades, name)
    if held is not None and 0 not in held:
        raise ValueError(f"{name}: got {grades!r}, wanted the scalar, grade 0, among them: it is the gate")
    return held


def checked_paths(algebra: Algebra, x: GradesLike, y: GradesLike, out: GradesLike) -> tuple[Path, ...]:
    """The paths of a product between such grades; a complaint if there is none."""
    paths = algebra.paths_between(x, y, out)
    if not paths:
        x, y = (algebra.grades if grades is None else grades for grades in (x, y))
        raise ValueError(f"out_grades: got {out}, wanted grades that products of {x} and {y} have in {algebra.name}")
    return paths


def check_tensor(name: str, x: Tensor, blades: int, of: str, axis: str = "blades") -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}, wanted a torch.Tensor")
    if x.dtype not in DTYPES:
        raise TypeError(f"{name}: got {x.dtype}, wanted one of {', '.join(map(str, DTYPES))}")
    if x.ndim < 2 or x.shape[-2] != blades or x.shape[-1] == 0:
        raise ValueError(
            f"{name}: got shape {tuple(x.shape)}, wanted (..., {blades} {axis}, channels), the {axis} of {of}"
        )


def check_shape(name: str, tensor: Tensor, wanted: tuple[int, ...], axes: str) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: got {type(tensor).__name__}, wanted a torch.Tensor")
    if tuple(tensor.shape) != wanted:
        raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, wanted {wanted}: {axes}")


def check_unmapped(name: str, index: Tensor) -> None:
    """Complain about an index for each sample of `torch.vmap`: rows are sorted by it, once for all samples."""
    if torch._C._functorch.is_batchedtensor(index):
        raise ValueError(f"{name}: got one for each sample of vmap, wanted one for all; or make all samples one graph")


def check_batch(batch: Tensor, name: str, x: Tensor, axes: str) -> None:
    """Complain about anything but the graph of each row of a tensor of that name and these axes, rows first."""
    if not isinstance(batch, Tensor) or batch.dtype != torch.int64:
        got = batch.dtype if isinstance(batch, Tensor) else type(batch).__name__
        raise TypeError(f"batch: got {got}, wanted a torch.Tensor of torch.int64")
    check_unmapped("batch", batch)
    rows, *_ = axes.split(", ")
    if x.ndim != axes.count(",") + 1 or batch.shape != x.shape[:1]:
        raise ValueError(
            f"batch: got shape {tuple(batch.shape)} for {name} of {tuple(x.shape)}, wanted ({rows},) for {name} of "
            f"({axes})"
        )
    if batch.device != x.device:
        raise ValueError(f"batch: got a tensor on {batch.device}, wanted {x.device}, where {name} is")


def check_graphs(batch: Tensor, name: str, count: int) -> None:
    """Complain about a number of graphs, of that name, that is none, or that does not hold those of ``batch``."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ValueError(f"{name}: got {count!r}, wanted a number of graphs")
    inside = ((batch >= 0) & (batch < count)).all()
    if batch.device.type != "cpu" or torch.compiler.is_compiling():
        # without waiting for the device; compilers would fix a number in the message
        torch._assert_async(inside, f"batch: got an index outside the graphs that {name} says")
    elif not inside:
        raise ValueError(f"batch: got an index outside the graphs 0 to {count - 1}")


def check_features(name: str, x: Tensor) -> None:
    if x.dtype not in DTYPES:
        raise TypeError(f"{name}: got {x.dtype}, wanted one of {', '.join(map(str, DTYPES))}")
    if x.ndim < 1 or x.shape[-1] == 0:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, wanted (..., channels)")


def checked_layout(x: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, wanted a torch.Tensor")
    if x.ndim < 2:
        raise ValueError(f"x: got shape {tuple(x.shape)}, wanted at least two dimensions, blades and channels")
    return x


def check_eps(eps: float) -> None:
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not eps >= 0:
        raise ValueError(f"eps: got {eps!r}, wanted a number of at least 0")


def flattened(row: Tensor, lead: torch.Size, channels: int) -> Tensor:
    """Contiguous, with one leading dimension; views that change nothing cost host time too."""
    if not same(row.shape[:-2], lead) or row.shape[-1] != channels:
        row = row.expand(*lead, row.shape[-2], channels)
    if len(lead) != 1:
        row = row.reshape(-1, *row.shape[-2:])
    return row.contiguous()
