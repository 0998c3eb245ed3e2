"""The public functions: checks, then one operator.

Multivectors are tensors ``(..., blades, channels)`` of float64, float32, bfloat16 or float16; blades in the order of
`Algebra.blades`. Arithmetic is in float32, for float64 in float64. Gradients are right to every order.
"""

from __future__ import annotations

from cliffnn import flops  # noqa: F401  # registers formulas
from cliffnn.dropout import dropout
from cliffnn.gates import gate, gelu
from cliffnn.grades import embed, extract, grade
from cliffnn.invariants import invariants
from cliffnn.layouts import from_blades_first, from_channels_first, to_blades_first, to_channels_first
from cliffnn.mixing import linear
from cliffnn.msilu import msilu
from cliffnn.normalization import layer_norm, normalize, rms_norm
from cliffnn.points import embed_points, extract_points
from cliffnn.pooling import pool
from cliffnn.products import (
    fully_connected_geometric_product,
    gelu_fcgp_norm,
    gelu_sgp_norm,
    geometric_product,
    weighted_geometric_product,
)
from cliffnn.silu import silu
from cliffnn.steerable import steerable_geometric_product
from cliffnn.versors import versor_linear

__all__ = [
    "dropout",
    "embed",
    "embed_points",
    "extract",
    "extract_points",
    "from_blades_first",
    "from_channels_first",
    "fully_connected_geometric_product",
    "gate",
    "gelu",
    "gelu_fcgp_norm",
    "gelu_sgp_norm",
    "geometric_product",
    "grade",
    "invariants",
    "layer_norm",
    "linear",
    "msilu",
    "normalize",
    "pool",
    "rms_norm",
    "silu",
    "steerable_geometric_product",
    "to_blades_first",
    "to_channels_first",
    "versor_linear",
    "weighted_geometric_product",
]
