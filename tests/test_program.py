"""Programs and their derivatives against sympy; the order in which a kernel computes them."""

import math

import pytest
import sympy
from kingdon.polynomial import Polynomial

from cliffnn.codegen import function_source, program_of
from cliffnn.expressions import EXPRESSIONS
from cliffnn.operation import operation
from cliffnn.program import Program
from cliffnn.schedule import lasting_first, postponed, scheduled
from cliffnn.shared_sums import with_shared_sums
from cliffnn.statements import CONSTANTS, Call


def program(expression, algebra, *derivatives):
    """Of an expression; a derivative is named by what it is with respect to, and is that of all outputs."""
    chosen = operation(expression, algebra)
    for wrt in derivatives:
        chosen = chosen.vjp(chosen.outputs, wrt)
    return Program.of(chosen)


def functions(name, argument):
    """The functions as sympy knows them; there is one channel."""
    return {
        "mean": argument,
        "reciprocal": 1 / argument,
        "sigmoid": 1 / (1 + sympy.exp(-argument)),
        "sqrt": sympy.sqrt(argument),
        "zero": sympy.Integer(0),
        "normal_cdf": (1 + sympy.erf(argument / sympy.sqrt(2))) / 2,
        "normal_pdf": sympy.exp(-(argument**2) / 2) / sympy.sqrt(2 * sympy.pi),
    }[name]


def evaluated(program):
    """Every output as a sympy expression of the inputs."""
    known = {symbol: sympy.Symbol(symbol) for group in program.inputs.values() for symbol in group}
    known["EPS"] = sympy.Symbol("EPS")
    for name, value in program.statements:
        if isinstance(value, Call):
            known[name] = functions(value.function, *(known[argument] for argument in value.arguments))
        else:
            known[name] = sum(sympy.Rational(m[0]) * sympy.prod(known[f] for f in m[1:]) for m in value.args)
    return {symbol: known[symbol] for group in program.outputs.values() for symbol in group}


@pytest.mark.parametrize("algebra", ["R1", "R0,1", "R0,0,1", "R2"])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_gradients_against_sympy(expression, algebra):
    spec = EXPRESSIONS[expression]
    wrt = (*spec.rows, *spec.params)
    forward, vjp = program(expression, algebra), program(expression, algebra, wrt)
    outputs, gradients = evaluated(forward), evaluated(vjp)
    scalar = sum(sympy.Symbol(f"grad_{name}") * value for name, value in outputs.items())
    # compared at a point, to more digits than rounding could lose
    symbols = sorted(scalar.free_symbols.union(*(value.free_symbols for value in gradients.values())), key=str)
    point = {symbol: sympy.Rational(2 * index + 1, 2 * index + 17) for index, symbol in enumerate(symbols)}
    for group in wrt:
        for symbol in forward.inputs[group]:
            error = (gradients[f"grad_{symbol}"] - sympy.diff(scalar, symbol)).subs(point)
            assert abs(sympy.N(error, 30, maxn=300)) < 1e-25, symbol


@pytest.mark.parametrize("wrt", [("x",), ("y",), ("w",), ("x", "w")])
def test_a_part_of_the_gradients_is_that_part(wrt):
    part = program("gelu_weighted_geometric_product", "R1", wrt)
    whole = program("gelu_weighted_geometric_product", "R1", ("x", "y", "w"))
    whole_values = evaluated(whole)
    for symbol, value in evaluated(part).items():
        assert sympy.expand(value - whole_values[symbol]) == 0
    assert part.operations < whole.operations


def test_second_derivative_of_a_program():
    """Programs are closed under differentiation."""
    forward, vjp = program("gelu", "R1"), program("gelu", "R1", ("x",))
    second = program("gelu", "R1", ("x",), ("x",))
    gradients, hessian = evaluated(vjp), evaluated(second)
    scalar = sum(sympy.Symbol(f"grad2_{name}") * value for name, value in gradients.items())
    outputs = [symbol for group in second.outputs.values() for symbol in group]
    for symbol, output in zip(forward.inputs["x"], outputs, strict=True):
        assert sympy.simplify(hessian[output] - sympy.diff(scalar, symbol)) == 0


@pytest.mark.parametrize("algebra", ["R2", "R1,1", "R0,0,1"])
def test_sums_that_gradients_share_are_the_same_gradients_with_fewer_operations(algebra):
    vjp = program("weighted_geometric_product", algebra, ("y", "w"))
    shared = with_shared_sums(vjp, vjp.inputs["y"], vjp.inputs["w"])
    assert shared.operations < vjp.operations
    wanted = evaluated(vjp)
    for symbol, got in evaluated(shared).items():
        assert sympy.expand(got - wanted[symbol]) == 0


def test_sums_of_one_gradient_alone_stay():
    vjp = program("weighted_geometric_product", "R2", ("x",))
    assert with_shared_sums(vjp, vjp.inputs["y"], vjp.inputs["w"]) is vjp


def alive_at_most(program, order):
    """The most names alive at once if terms are computed in this order."""
    last = {}
    for time, (_, operands) in enumerate(order):
        last.update(dict.fromkeys(operands, time))
    outputs = {symbol for group in program.outputs.values() for symbol in group}
    alive = {symbol for group in program.inputs.values() for symbol in group}
    most = len(alive)
    for time, (name, operands) in enumerate(order):
        alive.add(name)
        most = max(most, len(alive))
        alive -= {operand for operand in operands if last[operand] == time and operand not in outputs}
    return most


def terms(value):
    return [value.arguments] if isinstance(value, Call) else [m[1:] for m in value.args]


def with_what_is_stored(order):
    """An order whose inputs and outputs need no memory."""
    return lambda vjp: order(vjp, {*CONSTANTS}.union(*vjp.inputs.values(), *vjp.outputs.values()))


@pytest.mark.parametrize("order", [scheduled, with_what_is_stored(lasting_first), with_what_is_stored(postponed)])
@pytest.mark.parametrize("algebra", ["R2", "R3", "R1,3"])
def test_the_schedule_is_complete_and_saves_registers(algebra, order):
    vjp = program("gelu_weighted_geometric_product", algebra, ("x", "y", "w"))
    order = order(vjp)
    plain = [(name, operands) for name, value in vjp.statements for operands in terms(value)]
    ours = [(t.name, t.value.arguments if isinstance(t.value, Call) else t.value[1:]) for t in order]
    assert sorted(ours) == sorted(plain)
    assert len({t.name for t in order if t.first}) == sum(t.first for t in order)
    finished = {symbol for group in vjp.inputs.values() for symbol in group}
    remaining = {name: len(terms(value)) for name, value in vjp.statements}
    for name, operands in ours:
        assert finished.issuperset(operands), f"{name} is computed from what is not there yet"
        remaining[name] -= 1
        if not remaining[name]:
            finished.add(name)
    assert alive_at_most(vjp, ours) < 0.9 * alive_at_most(vjp, plain)


def test_source_reads_as_algebra():
    source = function_source("forward", program("weighted_geometric_product", "R2"))
    assert "wx112_1 = w5 * x1\n    wx112_2 = w5 * x2\n" in source
    assert "out3 = addcmul(out3, wx112_2, y1, value=-1)" in source
    assert "x0, x1, x2, x3, = x" in source


@pytest.mark.parametrize("algebra", ["R2", "R1,1", "R2,0,1"])
def test_one_sum_over_the_channels_is_enough_for_derivatives_of_every_order(algebra):
    """No mean is computed from another one."""
    chosen = operation("gelu_weighted_geometric_product.norm", algebra)
    for _ in range(3):
        chosen = chosen.vjp([name for name in chosen.outputs if name != "scales"], ["x", "y", "w"])
        for recompute in (False, True):
            assert len(program_of(chosen, recompute).means) == 1


def test_means_of_multiples():
    """mean(m a b + 2 m m b - a b), with m = mean(a), as a polynomial in means that no mean is part of."""
    a, b, m = (Polynomial.fromname(name) for name in "abm")
    statements = (
        ("m", Call("mean", ("a",))),
        ("product", m * a + 2 * m * m),
        ("whole", Polynomial.fromname("product") * b - a * b),
        ("out", Call("mean", ("whole",))),
    )
    flat = Program({"x": ("a", "b")}, {"out": ("out",)}, statements, "a").flattened()
    assert len(flat.means) == 1
    values = {"a": [1.0, 2.0, 4.0], "b": [3.0, -1.0, 5.0]}
    mean = lambda numbers: sum(numbers) / 3  # noqa: E731
    m_value = mean(values["a"])
    wanted = mean([(m_value * x + 2 * m_value**2) * y - x * y for x, y in zip(*values.values(), strict=True)])
    for name, value in flat.statements:
        if isinstance(value, Call):
            values[name] = [mean(values[value.arguments[0]])] * 3
        else:
            terms = [[c * math.prod(values[f][n] for f in factors) for c, *factors in value.args] for n in range(3)]
            values[name] = [sum(of_channel) for of_channel in terms]
    assert values["out"][0] == pytest.approx(wanted)
