"""Sections of a derivative: together they are the derivative, each with few coefficients."""

import itertools
import math
import random
import re

import pytest
import torch

import cliffnn
from cliffnn import generated
from cliffnn.codegen import program_of
from cliffnn.geometric import _text
from cliffnn.kernels.sections import KEPT, sections
from cliffnn.operation import operation
from cliffnn.statements import Call, operands

FUSED, STEERABLE = "gelu_weighted_geometric_product.norm", "steerable_geometric_product"
# Of one channel.
FUNCTIONS = {
    "mean": lambda x: x,
    "abs": abs,
    "sqrt": math.sqrt,
    "reciprocal": lambda x: 1 / x,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "sign": lambda form, size: math.copysign(1, form),
    "normal_cdf": lambda x: (1 + math.erf(x / math.sqrt(2))) / 2,
    "normal_pdf": lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi),
}


def derivative(text, algebra, wrt):
    chosen = operation(text, algebra)
    return chosen.vjp(chosen.results, wrt)


def cut(chosen):
    """The program of a derivative, its sections, and the coefficients."""
    program = program_of(chosen)
    coefficients = {s for n, g in chosen.inputs.items() if g.kind == "shared" for s in program.inputs.get(n, ())}
    factors = {f"grad_{name}": program.inputs.get(name, ()) for name in chosen.inputs}
    return program, sections(program, [*chosen.totals], factors, coefficients), coefficients


def value_of(value, known):
    if isinstance(value, Call):
        return FUNCTIONS[value.function](*(known[argument] for argument in value.arguments))
    return math.fsum(float(m[0]) * math.prod(known[factor] for factor in m[1:]) for m in value.args)


CASES = [
    (FUSED, ("x", "y", "w")),
    (FUSED, ("y", "w")),
    (FUSED, ("x",)),
    (FUSED, ("w",)),
    (STEERABLE, ("x", "y", "z", "w", "a")),
    ("weighted_geometric_product", ("x", "y", "w")),
    ("geometric_product", ("x", "y")),
    ("layer_norm", ("x", "a")),
]


@pytest.mark.parametrize("algebra", ["R3", "R1,3"])
@pytest.mark.parametrize(
    ("text", "wrt"), CASES, ids=lambda value: ",".join(value) if isinstance(value, tuple) else value
)
def test_together_they_are_the_derivative(text, wrt, algebra):
    program, found, _ = cut(derivative(text, algebra, wrt))
    random.seed(0)
    given = {symbol: random.uniform(0.5, 1.5) for group in program.inputs.values() for symbol in group}
    given |= {"EPS": 1e-6, "TOLERANCE": 0.0}
    wanted, got = dict(given), {}
    for name, value in program.statements:
        wanted[name] = value_of(value, wanted)
    kept: dict[str, float] = {}
    for section in found:
        # inputs, and what sections before have left, and nothing else
        known = given | {name: kept[name] for name in section.inputs.get(KEPT, ()) if name in kept}
        for name, value in section.statements:
            known[name] = value_of(value, known)
        kept |= {name: known[name] for name in section.outputs.get(KEPT, ())}
        got |= known
    outputs = [symbol for group in program.outputs.values() for symbol in group]
    assert got.keys() >= {*outputs}
    for symbol in outputs:
        assert got[symbol] == pytest.approx(wanted[symbol], rel=1e-9, abs=1e-9), symbol
    stored = [name for section in found for name in section.outputs if name != KEPT]
    assert sorted(stored) == sorted(program.outputs)


@pytest.mark.parametrize("text", [FUSED, "weighted_geometric_product"])
def test_a_section_needs_the_coefficients_of_a_grade(text):
    chosen = derivative(text, "R3", ("x", "y", "w"))
    _, found, coefficients = cut(chosen)
    counts = [len(coefficients & section.used) for section in found]
    of_grades = sorted(sum(path[0] == k for path in chosen.paths) for k in range(4))
    assert sorted(count for count in counts if count) == sorted(2 * of_grades)
    # nothing of x's gradient waits in y's
    assert [name for section in found for name in section.outputs if name != KEPT] == ["grad_x", "grad_y", "grad_w"]


def test_sums_over_rows_do_not_wait_for_the_end():
    chosen = derivative(FUSED, "R3", ("x", "y", "w"))
    program, found, _ = cut(chosen)
    summed = {*program.outputs["grad_w"]}
    per_section = [len(summed & {name for name, _ in section.statements}) for section in found]
    assert sum(per_section) == len(summed)
    assert per_section[-1] == 0
    assert any(name.startswith("by_w") for section in found for name, _ in section.statements)
    # what they are sums of is of one section each, so that it is not alive in the next
    for section, following in itertools.pairwise(found):
        left = {o for _, value in following.statements for o in operands(value)} & {n for n, _ in section.statements}
        assert not any(name.startswith("by_w") for name in left)


def random_inputs(text, algebra, rows, channels):
    """Of an operation's derivative, with what was saved."""
    forward = operation(text, algebra)
    shapes = {"rows": lambda n: (rows, n, channels), "shared": lambda n: (n, channels)}
    inputs = [torch.randn(shapes[g.kind](g.size), dtype=torch.float64) for g in forward.inputs.values()]
    results = generated.run(forward, inputs, 1e-6)
    return [*inputs, *(results if forward.normalize else ()), torch.randn_like(results[0])]


def assert_kernels_right(text, algebra, wrt, rows, channels):
    kernels = pytest.importorskip("cliffnn.kernels")
    chosen, inputs = derivative(text, algebra, wrt), random_inputs(text, algebra, rows, channels)
    got, wanted = kernels.run(chosen, inputs, 1e-6), generated.run(chosen, inputs, 1e-6)
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)


no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="no interpreter where there is a GPU")


@no_gpu
@pytest.mark.parametrize("wrt", [("x", "y", "w"), ("x", "w"), ("y",), ("w",)], ids=",".join)
@pytest.mark.parametrize(("algebra", "rows", "channels"), [("R1,3", 3, 5), ("R3,0,1", 2, 300), ("R5", 3, 3)])
def test_kernels_in_sections(algebra, rows, channels, wrt):
    """Wide rows come in blocks of channels, narrow ones several in a tile, some of which do not exist."""
    assert_kernels_right(FUSED, algebra, wrt, rows, channels)


@no_gpu
@pytest.mark.parametrize("text", [STEERABLE, "layer_norm", "normalize", "silu"])
def test_kernels_of_layers_in_sections(text):
    expression = operation(text, "R1,3").expression
    assert_kernels_right(text, "R1,3", (*expression.rows, *expression.params), 3, 5)


@cliffnn.geometric_op("R1,3")
def quotient(x, y, w: "paths"):  # noqa: F821
    return sum(w[i, j, k] * (x.grade(i) * y.grade(j)).grade(k) for i, j, k in w) / (1 + (x * x.reverse()).grade(0)) ** 2


@no_gpu
def test_rows_beyond_the_last_add_nothing():
    """Where rows that do not exist give no number, and one section divides, sums over rows in others leave them out."""
    source = pytest.importorskip("cliffnn.kernels.source")

    text, _ = _text(quotient._key, (False, False))
    chosen = derivative(text, "R1,3", ("x", "y", "w"))
    kernel = source.Kernel(chosen, tuple(chosen.outputs), apart=True)
    singular = [any(getattr(v, "function", "") == "reciprocal" for _, v in part.statements) for part in kernel.parts]
    adding = [any(name.startswith("grad_w") for name, _ in part.statements) for part in kernel.parts]
    assert any(adds and not divides for adds, divides in zip(adding, singular, strict=True))
    lines = [line for line in source.kernel_source(kernel).splitlines() if re.match(r" *grad_w\d+ [+-]= ", line)]
    assert lines
    assert all("tl.where(valid, " in line for line in lines)
