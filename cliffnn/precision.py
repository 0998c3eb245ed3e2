"""In which precision arithmetic is done, and what counts as zero in it."""

from __future__ import annotations

import torch


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Arithmetic is at least in float32, whatever the storage."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def sign_tolerance(dtype: torch.dtype) -> float:
    """How small q may be, relative to the sum of squares, before its sign counts as zero.

    The gradient of abs(q) changes sign on the null cone, where massless particles live. There rounding errors would
    choose the sign, of a gradient that a small norm blows up; zero is a subgradient too.

    Parameters
    ----------
    dtype : torch.dtype
        That the multivectors whose q it is were rounded to.
    """
    return max(4 * torch.finfo(compute_dtype(dtype)).eps, torch.finfo(dtype).eps)
