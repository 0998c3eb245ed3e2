"""Other orders of the dimensions, as other libraries have them."""

from __future__ import annotations

import einops
from torch import Tensor

from cliffnn.checks import checked_layout


def to_channels_first(x: Tensor) -> Tensor:
    """``(..., blades, channels)`` to ``(..., channels, blades)``, as CGENN and GATr have it.

    Raises
    ------
    ValueError, TypeError
        If ``x`` is no tensor of two dimensions or more.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> F.to_channels_first(torch.zeros(10, 8, 32)).shape
    torch.Size([10, 32, 8])
    """
    return einops.rearrange(checked_layout(x), "... blades channels -> ... channels blades")


def from_channels_first(x: Tensor) -> Tensor:
    """``(..., channels, blades)`` to ``(..., blades, channels)``, the inverse of `to_channels_first`.

    Raises
    ------
    ValueError, TypeError
        If ``x`` is no tensor of two dimensions or more.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> F.from_channels_first(torch.zeros(10, 32, 8)).shape
    torch.Size([10, 8, 32])
    """
    return einops.rearrange(checked_layout(x), "... channels blades -> ... blades channels")


def to_blades_first(x: Tensor) -> Tensor:
    """``(..., blades, channels)`` to ``(blades, ..., channels)``, as flash-clifford has it.

    Raises
    ------
    ValueError, TypeError
        If ``x`` is no tensor of two dimensions or more.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> F.to_blades_first(torch.zeros(10, 8, 32)).shape
    torch.Size([8, 10, 32])
    """
    return einops.rearrange(checked_layout(x), "... blades channels -> blades ... channels")


def from_blades_first(x: Tensor) -> Tensor:
    """``(blades, ..., channels)`` to ``(..., blades, channels)``, the inverse of `to_blades_first`.

    Raises
    ------
    ValueError, TypeError
        If ``x`` is no tensor of two dimensions or more.

    Examples
    --------
    >>> import torch, cliffnn.functional as F
    >>> F.from_blades_first(torch.zeros(8, 10, 32)).shape
    torch.Size([10, 8, 32])
    """
    return einops.rearrange(checked_layout(x), "blades ... channels -> ... blades channels")
