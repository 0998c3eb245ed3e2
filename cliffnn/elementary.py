"""The functions that generated torch code calls."""

import math

import torch
from torch import Tensor, abs, cos, cosh, exp, log, reciprocal, rsqrt, sigmoid, sin, sinh, sqrt, tan, tanh
from torch import zeros_like as zero

__all__ = [
    "abs",
    "cos",
    "cosh",
    "exp",
    "log",
    "mean",
    "normal_cdf",
    "normal_pdf",
    "reciprocal",
    "rsqrt",
    "sigmoid",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "stumpff",
    "tan",
    "tanh",
    "zero",
]


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


def stumpff(s: Tensor, index: int) -> Tensor:
    """Stumpff's function: the sum of s^j / (2j + index)! over j, by its series where s is small, else by recurrence."""
    series = torch.full_like(s, 1 / math.factorial(index + 20))
    for j in range(9, -1, -1):
        series = series * s + 1 / math.factorial(index + 2 * j)
    small = s.abs() < 1
    # the root's derivative is not finite at 0; nothing is differentiated here, but 0 / 0 would be NaN
    s = torch.where(small, 1, s)
    root = s.abs().sqrt()
    if index % 2:
        value = torch.where(s > 0, root.sinh(), root.sin()) / root
    else:
        value = torch.where(s > 0, root.cosh(), root.cos())
    for k in range(index % 2, index, 2):
        value = (value - 1 / math.factorial(k)) / s
    return torch.where(small, series, value)
