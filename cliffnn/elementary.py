"""The elementary functions that generated torch code calls."""

import math

import torch
from torch import Tensor


def normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf(x * math.sqrt(0.5)))


def normal_pdf(x: Tensor) -> Tensor:
    return math.sqrt(0.5 / math.pi) * torch.exp(-0.5 * x * x)
