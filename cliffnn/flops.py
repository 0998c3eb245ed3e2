"""What `torch.utils.flop_counter` counts for the operators: an addition as one, a multiplication as one.

As torch does, which counts two for each multiply-add of a matrix product. Roots, error functions, gates within fully
connected products and sums over rows or channels count as nothing.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from math import prod
from types import ModuleType

import torch

import cliffnn.fully_connected  # defines the operators
import cliffnn.linear  # noqa: F401
from cliffnn.codegen import program_of
from cliffnn.graded_product import GradedProduct
from cliffnn.operation import operation

_COUNTER = "torch.utils.flop_counter"


@functools.cache
def _operations(text: str, algebra: str) -> int:
    """Multiplications and additions for each row and channel."""
    return sum(program_of(operation(text, algebra)).operations)


def _geometric_op(inputs: Sequence[torch.Size], text: str, algebra: str, *_, **__) -> int:
    kinds = [group.kind for group in operation(text, algebra).inputs.values()]
    shape = next(shape for shape, kind in zip(inputs, kinds, strict=True) if kind == "rows")
    return shape[0] * shape[-1] * _operations(text, algebra)


def _linear(x: torch.Size, weight: torch.Size, *_, **__) -> int:
    return 2 * prod(x) * weight[1]


def _linear_backward(grad: torch.Size, x: torch.Size | None, weight: torch.Size | None, *_, **__) -> int:
    return 2 * prod(grad) * sum(factor[-1] for factor in (x, weight) if factor is not None)


@functools.cache
def _products(product: str) -> tuple[int, int]:
    """Pairs of blades, and blades of all paths' products: each a product of a row with a matrix."""
    of = GradedProduct.of(product)
    return len(of.terms), sum(of.path_sizes)


def _fully_connected(x: torch.Size, _: torch.Size, weight: torch.Size, product: str, *__, **___) -> int:
    pairs, blades = _products(product)
    return x[0] * weight[2] * (2 * pairs - blades + 2 * blades * weight[1])


def _fully_connected_weight(grad: torch.Size, x: torch.Size, _: torch.Size, product: str, *__, **___) -> int:
    pairs, blades = _products(product)
    return x[0] * x[2] * (2 * pairs - blades + 2 * blades * grad[2])


def _fully_connected_factor(
    grad: torch.Size, other: torch.Size, weight: torch.Size, product: str, left: bool, *_, **__
) -> int:
    pairs, blades = _products(product)
    own = GradedProduct.of(product).sizes[0 if left else 1]
    return grad[0] * weight[2] * (2 * pairs - own + 2 * blades * weight[1])


def _fully_connected_factors(
    grad: torch.Size, x: torch.Size, y: torch.Size, weight: torch.Size, product: str, *_, **__
) -> int:
    pairs, blades = _products(product)
    return grad[0] * weight[2] * (4 * pairs - x[1] - y[1] + 2 * blades * weight[1])


def _register(counter: ModuleType) -> None:
    operators = torch.ops.cliffnn
    counter.register_flop_formula(operators.geometric_op)(_geometric_op)
    counter.register_flop_formula(operators.linear)(_linear)
    counter.register_flop_formula(operators.linear_backward)(_linear_backward)
    counter.register_flop_formula(operators.fully_connected)(_fully_connected)
    counter.register_flop_formula(operators.fully_connected_factor)(_fully_connected_factor)
    counter.register_flop_formula(operators.fully_connected_factors)(_fully_connected_factors)
    counter.register_flop_formula(operators.fully_connected_weight)(_fully_connected_weight)


class _Finder(importlib.abc.MetaPathFinder):
    """Registers the formulas when the counter is imported, which costs more than all of cliffnn."""

    def find_spec(self, name, path=None, target=None):
        if name != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        loader = spec.loader
        assert loader is not None
        execute = loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register(module)

        loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if _COUNTER in sys.modules:
    _register(sys.modules[_COUNTER])
else:
    sys.meta_path.insert(0, _Finder())
