"""Layers on multivectors ``(..., blades, channels)``, for ``torch.nn.Sequential`` and beyond."""

from cliffnn.layers.block import SGPNormBlock
from cliffnn.layers.gate import MVGELU
from cliffnn.layers.layer_norm import MVLayerNorm
from cliffnn.layers.linear import MVLinear
from cliffnn.layers.message_passing import CliffordMessagePassing
from cliffnn.layers.norm import MVRMSNorm
from cliffnn.layers.normalization import NormalizationLayer
from cliffnn.layers.product import SGP
from cliffnn.layers.silu import MVSiLU
from cliffnn.layers.steerable import FullyConnectedSteerableGP, SteerableGP

__all__ = [
    "MVGELU",
    "SGP",
    "CliffordMessagePassing",
    "FullyConnectedSteerableGP",
    "MVLayerNorm",
    "MVLinear",
    "MVRMSNorm",
    "MVSiLU",
    "NormalizationLayer",
    "SGPNormBlock",
    "SteerableGP",
]
