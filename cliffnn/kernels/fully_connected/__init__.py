"""The fully connected geometric product on tensor cores: products of paths are formed on chip, never written.

What is computed is a product of matrices for each path and blade, or for each path and all blades of a grade, one of
which is formed from pairs of blades while it is read; which pairs, tables say. So the same kernels, and few
instructions, serve every algebra. Gradients of both factors come from one kernel where the registers hold all blades,
printed for the product; else from the gradient times all matrices (`Mix`).
"""

from cliffnn.kernels.fully_connected.factors import fully_connected_factors, shares_products
from cliffnn.kernels.fully_connected.forward import fully_connected
from cliffnn.kernels.fully_connected.mixed import Mix
from cliffnn.kernels.fully_connected.tiles import Tiles
from cliffnn.kernels.fully_connected.weight import fully_connected_weight

__all__ = [
    "Mix",
    "Tiles",
    "fully_connected",
    "fully_connected_factors",
    "fully_connected_weight",
    "shares_products",
]
