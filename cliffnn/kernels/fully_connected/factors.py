"""The gradients of both factors, where registers hold all blades: one kernel, printed for the product."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from cliffnn import cache
from cliffnn.codegen import file_name
from cliffnn.graded_product import GradedProduct
from cliffnn.kernels.fully_connected.source import factors_source
from cliffnn.kernels.fully_connected.tiles import HELD, LEAST, Tiles, factors_tiles, prepared
from cliffnn.kernels.linear import dot_precision


def shares_products(product: GradedProduct) -> bool:
    """Whether `fully_connected_factors` is for this: registers must hold all blades of both factors."""
    return LEAST * max(product.sizes[:2]) <= HELD


def fully_connected_factors(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    product: GradedProduct,
    gate: bool,
    tiles: Tiles | None = None,
) -> tuple[Tensor, Tensor]:
    """See `cliffnn.fully_connected.fully_connected_factors`."""
    rows, _, inputs = x.shape
    outputs = grad.shape[-1]
    results = torch.empty_like(x), torch.empty_like(y)
    if rows:
        precision = dot_precision(grad)
        tiles = tiles or factors_tiles(product, inputs, outputs, precision)
        run = prepared(_factors_kernel(product), product, inputs, outputs, tiles, precision, gate)
        grid = (-(-rows // tiles.rows) * -(-inputs // tiles.inputs), 1, 1)
        run(grid, (grad, x, y, weight.mT.contiguous(), *results), rows)
    return results


@functools.cache
def _factors_kernel(product: GradedProduct):
    return cache.load(file_name("fully connected factors", product.text), lambda: factors_source(product)).kernel
