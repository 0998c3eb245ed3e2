"""What all layers share: the algebra, and channels that may wait for the first input."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter, is_lazy

from cliffnn.algebra import Algebra, AlgebraLike
from cliffnn.checks import autocasting, check_eps


class MVLayer(LazyModuleMixin, nn.Module):
    """A layer on multivectors ``(..., blades, channels)``.

    A number of channels that is None is taken from the first input, as torch's lazy modules do; `parameter` then
    gives an uninitialised parameter, and `parameter_shapes` says its shape once the channels are known.
    """

    def __init__(self, algebra: AlgebraLike | None):
        super().__init__()
        if algebra is None:
            raise TypeError(f"{type(self).__name__}: algebra: got None, wanted an algebra, as algebra='R3'")
        self.algebra = Algebra(algebra)

    def grades_of(self, name: str) -> tuple[int, ...] | None:
        """The grades that an input holds, by its name; None: all."""
        return getattr(self, "grades", None)

    def parameter(self, shape: tuple[int | None, ...], device: Any, dtype: torch.dtype | None) -> nn.Parameter:
        if None in shape:
            return cast(Any, UninitializedParameter)(device=device, dtype=dtype)
        return nn.Parameter(torch.empty(cast(tuple[int, ...], shape), device=device, dtype=dtype))

    def finish_init(self) -> None:
        """To call last in ``__init__``: a layer that knows its channels is no longer lazy."""
        if not self.has_uninitialized_params():
            self.reset_parameters()
            self._end_laziness()

    def infer_channels(self, x: Tensor) -> None:
        """Set the channel counts that are still None: from loaded parameters, else from the first input."""

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter of this layer itself."""
        return {}

    def reset_parameters(self) -> None:
        """Draw the initial values anew."""

    def initialize_parameters(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        """Called by torch before the first forward."""
        check_input(self, "x", x, None)
        self.infer_channels(x)
        own = {name: p for name, p in self._parameters.items() if p is not None}
        loaded = {name: p.detach().clone() for name, p in own.items() if not is_lazy(p)}
        for name, shape in self.parameter_shapes().items():
            if name in loaded and tuple(loaded[name].shape) != shape:
                raise ValueError(
                    f"{type(self).__name__}: {name}: got a state of shape {tuple(loaded[name].shape)}, wanted {shape}"
                )
            if name in own and name not in loaded:
                with torch.no_grad():
                    cast(UninitializedParameter, own[name]).materialize(shape)
        if len(loaded) < len(own):
            self.reset_parameters()
            with torch.no_grad():
                for name, value in loaded.items():
                    own[name].copy_(value)

    def _replicate_for_data_parallel(self) -> Any:
        # torch asks lazy modules to change their class, and refuses those that have not
        lazy = self.has_uninitialized_params()
        return super()._replicate_for_data_parallel() if lazy else nn.Module._replicate_for_data_parallel(self)

    def _end_laziness(self) -> None:
        self._initialize_hook.remove()
        self._load_hook.remove()
        del self._initialize_hook, self._load_hook


def checked_channels(name: str, value: int | None) -> int | None:
    """A positive number of channels, or None where the first input shall tell."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: got {value!r} of type {type(value).__name__}, wanted a positive int or None")
    if value <= 0:
        raise ValueError(f"{name}: got {value}, wanted a positive int or None")
    return value


def checked_eps(value: float) -> float:
    """A number of at least zero."""
    check_eps(value)
    return float(value)


def grades_repr(**grades: tuple[int, ...] | None) -> str:
    """What a layer says of the grades that were chosen."""
    return "".join(f", {name}={held}" for name, held in grades.items() if held is not None)


def check_input(layer: MVLayer, name: str, x: Tensor, channels: int | None, parameter: Tensor | None = None) -> None:
    """Complain, by the argument's name, about anything but ``(..., blades, channels)`` that the parameter fits."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}, wanted a torch.Tensor")
    if not x.is_floating_point():
        raise TypeError(f"{name}: got {x.dtype}, wanted a floating dtype")
    grades = layer.grades_of(name)
    blades = len(layer.algebra.blades_of(grades))
    if x.ndim < 2 or x.shape[-2] != blades or x.shape[-1] == 0 or (channels is not None and x.shape[-1] != channels):
        wanted = "channels" if channels is None else f"{channels} channels"
        of = "" if grades is None else f"grades {grades} of "
        raise ValueError(
            f"{name}: got shape {tuple(x.shape)}, wanted (..., {blades} blades, {wanted}) in {of}{layer.algebra.name}"
        )
    if parameter is None:
        return
    if x.device != parameter.device:
        raise ValueError(f"{name}: got a tensor on {x.device}, wanted {parameter.device}, where the parameters are")
    if x.dtype != parameter.dtype and not autocasting(x.device.type):
        raise TypeError(f"{name}: got {x.dtype}, wanted {parameter.dtype}, the dtype of the parameters")
