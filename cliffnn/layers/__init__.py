"""Layers on multivectors ``(..., blades, channels)``, for ``torch.nn.Sequential`` and beyond."""

from cliffnn.layers.block import SGPNormBlock
from cliffnn.layers.dropout import MVDropout
from cliffnn.layers.embedding import MVEmbed
from cliffnn.layers.fully_connected import FCGP, FCGPNormBlock
from cliffnn.layers.gate import MVGELU, MVGate
from cliffnn.layers.invariants import Invariants
from cliffnn.layers.linear import MVLinear
from cliffnn.layers.norm import MVRMSNorm
from cliffnn.layers.pooling import MVPool
from cliffnn.layers.product import SGP

__all__ = [
    "FCGP",
    "MVGELU",
    "SGP",
    "FCGPNormBlock",
    "Invariants",
    "MVDropout",
    "MVEmbed",
    "MVGate",
    "MVLinear",
    "MVPool",
    "MVRMSNorm",
    "SGPNormBlock",
]
