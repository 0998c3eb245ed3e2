"""Layers on multivectors ``(..., blades, channels)``, for ``torch.nn.Sequential`` and beyond."""

from cliffnn.layers.block import SGPNormBlock
from cliffnn.layers.dropout import MVDropout
from cliffnn.layers.embedding import MVEmbed
from cliffnn.layers.fully_connected import FCGP, FCGPNormBlock
from cliffnn.layers.gate import MVGELU, MVGate
from cliffnn.layers.invariants import Invariants
from cliffnn.layers.layer_norm import MVLayerNorm
from cliffnn.layers.linear import MVLinear
from cliffnn.layers.message_passing import CliffordMessagePassing
from cliffnn.layers.msilu import MSiLU
from cliffnn.layers.norm import MVRMSNorm
from cliffnn.layers.normalization import NormalizationLayer
from cliffnn.layers.pooling import MVPool
from cliffnn.layers.product import SGP
from cliffnn.layers.silu import MVSiLU
from cliffnn.layers.steerable import FullyConnectedSteerableGP, SteerableGP
from cliffnn.layers.versors import VersorLinear

__all__ = [
    "FCGP",
    "MVGELU",
    "SGP",
    "CliffordMessagePassing",
    "FCGPNormBlock",
    "FullyConnectedSteerableGP",
    "Invariants",
    "MSiLU",
    "MVDropout",
    "MVEmbed",
    "MVGate",
    "MVLayerNorm",
    "MVLinear",
    "MVPool",
    "MVRMSNorm",
    "MVSiLU",
    "NormalizationLayer",
    "SGPNormBlock",
    "SteerableGP",
    "VersorLinear",
]
