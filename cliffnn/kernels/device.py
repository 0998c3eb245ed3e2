"""The functions that kernels call on the device."""

import triton
import triton.language as tl


@triton.jit
def normal_cdf(x):
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def normal_pdf(x):
    return 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit
def abs(x):
    return tl.abs(x)


@triton.jit
def rsqrt(x):
    return 1.0 / tl.sqrt(x)


@triton.jit
def zero(x):
    return tl.zeros_like(x)


@triton.jit
def sign(form, size, tolerance):
    """Of a quadratic form; zero where rounding errors would choose it, the sum of squares being ``size``."""
    least = tolerance * size
    return tl.where(form > least, 1.0, tl.where(form < -least, -1.0, 0.0)).to(form.dtype)


@triton.jit
def to_lanes(values, CHANNELS: tl.constexpr):
    """Repeat what each row has for each of its channels."""
    rows: tl.constexpr = values.shape[0]
    return tl.reshape(tl.broadcast_to(values[:, None], (rows, CHANNELS)), (rows * CHANNELS,))
