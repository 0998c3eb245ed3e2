"""What a tile is multiplied with, formed while it is read."""

from __future__ import annotations

import triton
import triton.language as tl

from cliffnn.kernels.device import normal_cdf


@triton.jit
def product_of(x_ptr, y_ptr, terms_ptr, terms, size, x_at, y_at, mask, STRIDE: tl.constexpr):
    """Products of one path: signed sums over the pairs of blades in its table, of which ``size`` blades have each."""
    total = tl.zeros(mask.shape, tl.float32)
    for term in range(terms):
        code = tl.load(terms_ptr + term * size)
        sign = ((code >> 16) - 1).to(tl.float32)
        x = tl.load(x_ptr + (x_at + (code & 255) * STRIDE), mask, 0.0).to(tl.float32)
        y = tl.load(y_ptr + (y_at + (code >> 8 & 255) * STRIDE), mask, 0.0).to(tl.float32)
        total += sign * x * y
    return total


@triton.jit
def gate(x_ptr, at, mask):
    """What `gelu` multiplies the blades of a multivector with."""
    return normal_cdf(tl.load(x_ptr + at, mask, 0.0).to(tl.float32))
