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


@triton.jit
def cos(x):
    return tl.cos(x)


@triton.jit
def cosh(x):
    return 0.5 * (tl.exp(x) + tl.exp(-x))


@triton.jit
def exp(x):
    return tl.exp(x)


@triton.jit
def log(x):
    return tl.log(x)


@triton.jit
def reciprocal(x):
    return 1.0 / x


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def sin(x):
    return tl.sin(x)


@triton.jit
def sinh(x):
    # near 0 the two exponentials cancel
    return tl.where(tl.abs(x) < 1.0, x * _series(x * x, 1), 0.5 * (tl.exp(x) - tl.exp(-x)))


@triton.jit
def sqrt(x):
    return tl.sqrt(x)


@triton.jit
def tan(x):
    return tl.sin(x) / tl.cos(x)


@triton.jit
def tanh(x):
    # beyond 20 it is 1, in float64 too, and the exponentials would overflow
    bounded = tl.minimum(tl.maximum(x, -20.0), 20.0)
    return sinh(bounded) / cosh(bounded)


@triton.jit
def _series(s, INDEX: tl.constexpr):
    """The sum of s^j / (2j + INDEX)! over j, to the precision of float64 where s is at most 1 in absolute value."""
    total = tl.full(s.shape, 1.0, s.dtype)
    for step in tl.static_range(10):
        # the term of j is s / ((2j + INDEX - 1) (2j + INDEX)) times the one before
        last = 2 * (10 - step) + INDEX
        total = 1.0 + total * s / (last * (last - 1.0))
    for k in tl.static_range(2, INDEX + 1):
        total = total / k
    return total


@triton.jit
def stumpff(s, INDEX: tl.constexpr):
    """The sum of s^j / (2j + INDEX)! over j, by its series where s is small, else by recurrence."""
    small = tl.abs(s) < 1.0
    large = tl.where(small, 1.0, s).to(s.dtype)
    root = tl.sqrt(tl.abs(large))
    if INDEX % 2 == 1:
        value = tl.where(large > 0.0, sinh(root), tl.sin(root)) / root
    else:
        value = tl.where(large > 0.0, cosh(root), tl.cos(root))
    # a plain number would be a float32
    factorial = tl.full(s.shape, 1.0, s.dtype)
    for k in tl.static_range(INDEX):
        if k > 1:
            factorial = factorial * k
        if k % 2 == INDEX % 2:
            value = (value - 1.0 / factorial) / large
    return tl.where(small, _series(s, INDEX), value)
