"""Terms and lines of a kernel for the norm by grade, on the names of blades; `cliffnn.norm` in Triton."""

from __future__ import annotations

from cliffnn.algebra import Algebra


def blades_of(algebra: Algebra, grade: int) -> range:
    blades = algebra.grade_slices[grade]
    return range(blades.start, blades.stop)


def quadratic_form(algebra: Algebra, grade: int, name: str) -> str:
    signs = {1: "+", -1: "-"}
    return " ".join(
        f"{signs[algebra.quadratic_form[b]]} {name}{b} * {name}{b}"
        for b in blades_of(algebra, grade)
        if algebra.quadratic_form[b]
    ).removeprefix("+ ")


def inner(algebra: Algebra, grade: int, grad: str = "grad") -> str:
    return " + ".join(f"{grad}{b} * out{b}" for b in blades_of(algebra, grade))


def gradient_before_norm(algebra: Algebra, grade: int) -> list[str]:
    """scale (g - sign(q) m out mean(sum g out)), over the names ``grad_out``.

    A sign that rounding errors decide counts as zero, see `cliffnn.norm.sign_tolerance`.
    """
    blades = blades_of(algebra, grade)
    metric = {b: algebra.quadratic_form[b] for b in blades}
    lines = [f"pull{grade} = sum{grade} / channels"]
    if set(metric.values()) - {0} != {1}:
        squares = " + ".join(f"out{b} * out{b}" for b in blades if metric[b])
        lines += [
            f"form{grade} = {quadratic_form(algebra, grade, 'out')}",
            f"least{grade} = TOLERANCE * ({squares})",
            f"pull{grade} = tl.where(form{grade} > least{grade}, pull{grade}, "
            f"tl.where(form{grade} < -least{grade}, -pull{grade}, 0.0))",
        ]
    for b in blades:
        sign = {1: "-", -1: "+"}.get(metric[b])
        pulled = f" {sign} out{b} * pull{grade}" if sign else ""
        lines.append(f"grad_out{b} = scale{grade} * (grad_out{b}{pulled})")
    return lines
