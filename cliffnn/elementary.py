"""The functions that generated torch code calls."""

import math

import torch
from torch import Tensor, abs, rsqrt
from torch import zeros_like as zero

__all__ = ["abs", "mean", "normal_cdf", "normal_pdf", "rsqrt", "sign", "zero"]


def mean(x: Tensor) -> Tensor:
    """Over the channels."""
    return x.mean(-1, keepdim=True)


def sign(form: Tensor, size: Tensor, tolerance: float) -> Tensor:
    """Of a quadratic form; zero where rounding errors would choose it, the sum of squares being ``size``."""
    return torch.where(form.abs() > tolerance * size, form.sign(), 0)


def normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf(x * math.sqrt(0.5)))


def normal_pdf(x: Tensor) -> Tensor:
    return math.sqrt(0.5 / math.pi) * torch.exp(-0.5 * x * x)
