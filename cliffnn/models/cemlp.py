"""The perceptron of multivectors that Clifford group networks are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cliffnn.algebra import Algebra, AlgebraLike, GradesLike
from cliffnn.layers import MVLayerNorm, MVLinear, MVSiLU, SteerableGP


class CEMLP(nn.Sequential):
    """Clifford equivariant multilayer perceptron: in each layer linear, gate, steerable product, norm.

    Parameters
    ----------
    in_channels : int or None
        None: taken from the first input.
    hidden_channels, out_channels : int
        Of all layers but the last, and of the last.
    algebra : str, int, tuple or Algebra
    layers : int
    normalization : float or None
        See `SteerableGP`.
    device, dtype
        Of the parameters.
    grades : int, tuple of int or None
        That the input, the result and all between hold, as the even subalgebra; None: all.

    Raises
    ------
    ValueError, TypeError
        For channels or layers that are no positive int, an unknown algebra, an input of another shape.

    References
    ----------
    Ruhe, Brandstetter, Forré: Clifford Group Equivariant Neural Networks, arXiv:2305.11141.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.models import CEMLP
    >>> CEMLP(3, 16, 1, "R1,3")(torch.randn(5, 16, 3)).shape
    torch.Size([5, 16, 1])
    """

    def __init__(
        self,
        in_channels: int | None,
        hidden_channels: int,
        out_channels: int,
        algebra: AlgebraLike,
        layers: int = 2,
        normalization: float | None = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        grades: GradesLike = None,
    ):
        check_layers(layers)
        options = {"device": device, "dtype": dtype, "grades": grades}
        bias = grades is None or 0 in Algebra(algebra).checked_grades(grades)
        inputs = [in_channels, *[hidden_channels] * (layers - 1)]
        outputs = [*[hidden_channels] * (layers - 1), out_channels]

        def layer(inputs: int | None, outputs: int) -> nn.Sequential:
            linear = MVLinear(inputs, outputs, algebra, bias, **options)
            return nn.Sequential(linear, *product_block(outputs, algebra, normalization, **options))

        super().__init__(*map(layer, inputs, outputs))


def product_block(
    channels: int, algebra: AlgebraLike, normalization: float | None = 0.0, **options: Any
) -> list[nn.Module]:
    """A layer of `CEMLP` after its linear map."""
    return [
        MVSiLU(channels, algebra, **options),
        SteerableGP(channels, algebra, normalization=normalization, **options),
        MVLayerNorm(channels, algebra, **options),
    ]


def check_layers(layers: int) -> None:
    """Complain about what is no positive number."""
    if not isinstance(layers, int) or isinstance(layers, bool):
        raise TypeError(f"layers: got {layers!r} of type {type(layers).__name__}, wanted a positive int")
    if layers < 1:
        raise ValueError(f"layers: got {layers}, wanted a positive int")
