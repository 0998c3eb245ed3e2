"""Layers on multivectors ``(..., blades, channels)``, for ``torch.nn.Sequential`` and beyond."""

from cliffnn.layers.block import SGPNormBlock
from cliffnn.layers.fully_connected import FCGP, FCGPNormBlock
from cliffnn.layers.gate import MVGELU
from cliffnn.layers.linear import MVLinear
from cliffnn.layers.norm import MVRMSNorm
from cliffnn.layers.product import SGP

__all__ = ["FCGP", "MVGELU", "SGP", "FCGPNormBlock", "MVLinear", "MVRMSNorm", "SGPNormBlock"]
