"""Figures of torch's counter: what the generated programs do, what torch counts for the same matrix products."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.layers import MVLinear, SGPNormBlock


def counted(function, *inputs):
    with FlopCounterMode(display=False) as counter:
        function(*inputs)
    return counter.get_total_flops()


def test_the_geometric_product_by_hand():
    """Four blades, each the sum of four products: 16 multiplications and 12 additions."""
    x = torch.randn(5, 7, 4, 3)
    assert counted(lambda x: F.geometric_product(x, x, "R2"), x) == 5 * 7 * 3 * (16 + 12)


def test_the_weighted_product_by_hand():
    """The same, and for each path a multiplication of the blades of the factor that has fewer."""
    algebra = Algebra("R2")
    weight = torch.randn(len(algebra.paths), 3)
    weights = sum(min(algebra.grade_sizes[i], algebra.grade_sizes[j]) for i, j, _ in algebra.paths)
    products = weights + 16 + 12
    assert counted(lambda x: F.weighted_geometric_product(x, x, weight, algebra), torch.randn(5, 4, 3)) == 15 * products


def test_a_backward_counts():
    x, y = torch.randn(2, 5, 4, 3, requires_grad=True)
    forward = counted(lambda: F.geometric_product(x, y, "R2"))
    # for each factor a product with the gradient
    assert counted(lambda: F.geometric_product(x, y, "R2").sum().backward()) == 3 * forward


@pytest.mark.parametrize("algebra", ["R2", "R3,0,1"])
def test_the_operators_of_the_linear_map_count_as_torch_does(algebra):
    """On a GPU they are operators of ours; here shapes alone run through them."""
    rows, ins, outs = 5, 3, 7
    x = torch.randn(rows, len(Algebra(algebra)), ins)
    layer = MVLinear(ins, outs, algebra)
    wanted = counted(lambda x: layer(x).sum().backward(), x.requires_grad_())
    x, weight, grad = (
        x.to("meta"),
        layer.weight.to("meta"),
        torch.empty(rows, len(Algebra(algebra)), outs, device="meta"),
    )

    sizes = Algebra(algebra).grade_sizes

    def by_operators():
        torch.ops.cliffnn.linear(x, weight, None, sizes)
        torch.ops.cliffnn.linear_backward(grad, x, weight, None, sizes, True)

    assert counted(by_operators) == wanted == 3 * 2 * rows * len(Algebra(algebra)) * ins * outs


def test_the_fully_connected_product_by_hand():
    """Products as of the weighted one, not added over paths; each path and blade of the result is a row of a matrix."""
    algebra = Algebra("R2")
    rows, ins, outs = 5, 3, 7
    x = torch.randn(rows, 4, ins, requires_grad=True)
    weight = torch.randn(len(algebra.paths), outs, ins, requires_grad=True)
    terms = sum(algebra.grade_sizes[k] for _, _, k in algebra.paths)
    products, matrices = 16 + (16 - terms), 2 * terms * outs
    run = F.fully_connected_geometric_product
    forward = counted(lambda: run(x, x.detach(), weight, algebra))
    assert forward == rows * ins * (products + matrices)
    # for x: 16 products with the other factor, added up to 4 blades
    of_x = rows * ins * (16 + (16 - 4) + matrices)
    assert counted(lambda: run(x, x.detach(), weight, algebra).sum().backward()) == 2 * forward + of_x
    # both factors share the products with matrices
    both = counted(lambda: run(x, x.clone(), weight, algebra).sum().backward())
    assert both == 2 * forward + of_x + rows * ins * (16 + (16 - 4))


def test_the_figures_of_a_module():
    block = SGPNormBlock(8, "R3")
    with FlopCounterMode(display=False) as counter:
        block(torch.randn(5, 8, 8))
    (product,) = (count for name, count in counter.get_flop_counts()["SGPNormBlock"].items() if "cliffnn" in str(name))
    assert 5 * 8 * 2 * 64 < product < 5 * 8 * 6 * 64


def test_what_the_profiler_shows():
    """It names the operator; its own table of formulas is closed."""
    x = torch.randn(5, 4, 3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True) as profile:
        F.geometric_product(x, x, "R2")
    (operator,) = (event for event in profile.key_averages() if event.key == "cliffnn::geometric_op")
    assert operator.flops == 0


@pytest.mark.parametrize("first", ["cliffnn.functional", "torch.utils.flop_counter"])
def test_either_may_be_imported_first(first):
    script = f"""
import sys, torch, {first}
from cliffnn import functional as F
assert ("torch.utils.flop_counter" in sys.modules) == ({first!r} == "torch.utils.flop_counter")
from torch.utils.flop_counter import FlopCounterMode
with FlopCounterMode(display=False) as counter:
    F.gelu(torch.randn(3, 4, 2), "R2")
assert counter.get_total_flops() == 3 * 2 * 4, counter.get_total_flops()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
