"""Weights and tensors of other libraries: CGENN, flash-clifford, e3nn. None of them has to be installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

import cliffnn.functional as F
from cliffnn.algebra import Algebra
from cliffnn.checks import check_features
from cliffnn.layers import (
    CliffordMessagePassing,
    FullyConnectedSteerableGP,
    MVLayerNorm,
    MVLinear,
    MVSiLU,
    NormalizationLayer,
    SteerableGP,
)
from cliffnn.models import CEMLP, CGENN, LorentzCGENN

__all__ = ["from_cgenn", "from_flash_clifford", "from_irreps", "to_irreps"]

State = Mapping[str, Tensor]


def from_cgenn(module: nn.Module, state: State) -> dict[str, Tensor]:
    """A state for one of our modules from the state of its counterpart in CGENN.

    ===================================================  =============================================================
    ours                                                 its counterpart
    ===================================================  =============================================================
    `MVLinear`, `MVSiLU`, `MVLayerNorm`                  of the same names
    `NormalizationLayer`                                 of the same name
    `SteerableGP`, `FullyConnectedSteerableGP`           ``SteerableGeometricProductLayer``, ``FullyConnected...``
    `CliffordMessagePassing` of `CGENN`                  ``EGCL``
    `CEMLP`, `CGENN`                                     ``CEMLP``, ``NBodyCGGNN``
    `O3SignedVolume`, `O5ConvexHull`, `O5Regression`     ``O3CGMLP``, ``ConvexHullCGMLP``, ``O5CGMLP``
    `LorentzCGENN`                                       ``LorentzCGGNN``
    ===================================================  =============================================================

    CGENN orders paths by the grades of the left factor, of the result and of the right factor. Weights of a grade mean
    the same in any order of the basis vectors; inputs must follow that of `Algebra`.

    Parameters
    ----------
    module : Module
        That the state is for; its channels may still wait for the first input.
    state : mapping of str to Tensor
        The counterpart's ``state_dict()``; buffers of its algebra are passed over.

    Returns
    -------
    dict of str to Tensor
        For ``module.load_state_dict``.

    Raises
    ------
    ValueError
        If the state lacks an entry, or has one that the module has no place for.

    References
    ----------
    github.com/DavidRuhe/clifford-group-equivariant-neural-networks.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.interop import from_cgenn
    >>> from cliffnn.layers import MVSiLU
    >>> state = {"a": torch.ones(1, 16, 4), "b": torch.zeros(1, 16, 4)}
    >>> layer = MVSiLU(16, "R3")
    >>> layer.load_state_dict(from_cgenn(layer, state))
    <All keys matched successfully>
    """
    source = _Source({name: value for name, value in state.items() if "algebra" not in name.split(".")})
    converted = _convert(module, source, "")
    if source.left:
        raise ValueError(f"state: got entries that {type(module).__name__} has no place for: {', '.join(source.left)}")
    return converted


class _Source:
    """A state that remembers what was taken from it."""

    def __init__(self, state: State):
        self.state = state
        self.left = dict.fromkeys(state)

    def take(self, name: str) -> Tensor:
        if name not in self.state:
            raise ValueError(f"state: got no {name!r}, wanted what a state of CGENN has")
        self.left.pop(name, None)
        return self.state[name].detach()


def _convert(module: nn.Module, source: _Source, prefix: str) -> dict[str, Tensor]:
    """By the module's type; what is not listed has its own tensors as they are, and children of the same names."""
    for kind, rule in _RULES.items():
        if isinstance(module, kind):
            return rule(module, source, prefix)
    own = {name: source.take(prefix + name) for name in _tensors(module)}
    return own | _children(module, source, {name: f"{prefix}{name}." for name, _ in module.named_children()})


def _children(module: nn.Module, source: _Source, prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """Of the children named, each from under its prefix."""
    return {
        f"{name}.{key}": value
        for name, prefix in prefixes.items()
        for key, value in _convert(module.get_submodule(name), source, prefix).items()
    }


def _tensors(module: nn.Module) -> list[str]:
    """The entries of the module's own in its state."""
    buffers = [name for name in module._buffers if name not in module._non_persistent_buffers_set]
    return [name for name, value in [*module._parameters.items(), *((b, ...) for b in buffers)] if value is not None]


def _linear(module: nn.Module, source: _Source, prefix: str) -> dict[str, Tensor]:
    weight = source.take(f"{prefix}weight")
    converted = {"weight": weight.permute(2, 0, 1) if weight.ndim == 3 else weight[None]}
    if isinstance(module, MVLinear) and module.bias is not None:
        converted["bias"] = source.take(f"{prefix}bias").flatten()
    return converted


def _silu(module: nn.Module, source: _Source, prefix: str) -> dict[str, Tensor]:
    return {"weight": source.take(f"{prefix}a")[0].T, "bias": source.take(f"{prefix}b")[0].T}


def _layer_norm(module: nn.Module, source: _Source, prefix: str) -> dict[str, Tensor]:
    return {"weight": source.take(f"{prefix}a")[0]}


def _normalization(module: nn.Module, source: _Source, prefix: str) -> dict[str, Tensor]:
    return {"weight": source.take(f"{prefix}a").T}


def _product(module: nn.Module, source: _Source, prefix: str) -> dict[str, Tensor]:
    assert isinstance(module, (SteerableGP, FullyConnectedSteerableGP))
    weight = _ordered(source.take(f"{prefix}weight").movedim(-1, 0), module.algebra)
    names = [name for name, _ in module.named_children()]
    return {"weight": weight} | _children(module, source, {name: f"{prefix}{name}." for name in names})


def _cemlp(module: nn.Module, source: _Source, prefix: str) -> dict[str, Tensor]:
    return _children(module, source, {name: f"{prefix}layers.{name}." for name, _ in module.named_children()})


def _message_passing(module: nn.Module, source: _Source, prefix: str) -> dict[str, Tensor]:
    """The first linear map of the messages is split: what it does to nodes, and to edges."""
    assert isinstance(module, CliffordMessagePassing)
    assert isinstance(module.message, nn.Sequential)
    first = _linear(MVLinear(1, 1, module.algebra), source, f"{prefix}edge_model.layers.0.0.")
    inputs = [first["weight"].shape[2] - (module.edge_channels or 0), module.edge_channels or 0]
    receiver, edge = first["weight"].split(inputs, 2)
    converted = {"bias": first["bias"], "receiver.weight": receiver}
    if module.edge is not None:
        converted["edge.weight"] = edge
    # a block without its linear map, then whole blocks
    names = [f"0.{index}" for index in (1, 2, 3)] + [str(index) for index in range(1, len(module.message) - 2)]
    prefixes = {f"message.{n}": f"{prefix}edge_model.layers.{name}." for n, name in enumerate(names)}
    return converted | _children(module, source, prefixes | {"update": f"{prefix}node_model."})


def _cgenn(module: nn.Module, source: _Source, prefix: str) -> dict[str, Tensor]:
    names = {"embedding": "embedding", "layers": "layers", "projection": "projection.0"}
    return _children(module, source, {ours: f"{prefix}{theirs}." for ours, theirs in names.items()})


def _lorentz(module: nn.Module, source: _Source, prefix: str) -> dict[str, Tensor]:
    names = {"embedding_h": "embedding_h", "embedding_x": "embedding_x", "layers": "CGLs", "decoder": "graph_dec"}
    return _children(module, source, {ours: f"{prefix}{theirs}." for ours, theirs in names.items()})


_RULES: dict[type[nn.Module], Callable[[nn.Module, _Source, str], dict[str, Tensor]]] = {
    MVLinear: _linear,
    MVSiLU: _silu,
    MVLayerNorm: _layer_norm,
    NormalizationLayer: _normalization,
    SteerableGP: _product,
    FullyConnectedSteerableGP: _product,
    CliffordMessagePassing: _message_passing,
    CEMLP: _cemlp,
    CGENN: _cgenn,
    LorentzCGENN: _lorentz,
}


def from_flash_clifford(state: State) -> dict[str, Tensor]:
    """A state for `SGPNormBlock` from the state of a ``Layer`` of flash-clifford.

    If the layer was fully connected, ``weight`` is ``(paths, out_channels, in_channels)``, that of a fully connected
    product.

    Parameters
    ----------
    state : mapping of str to Tensor
        Its ``state_dict()``.

    Returns
    -------
    dict of str to Tensor
        For ``load_state_dict``: ``linear.weight``, ``linear.bias`` and ``weight``.

    Raises
    ------
    ValueError
        If the bias is not zero: that library adds it to every blade, which is not equivariant and has no counterpart
        here; or if an entry is missing or of a shape that is not of Cl(2) or Cl(3).

    References
    ----------
    github.com/maxxxzdn/flash-clifford.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.interop import from_flash_clifford
    >>> from cliffnn.layers import SGPNormBlock
    >>> state = {"gp_weight": torch.randn(16, 20), "linear_weight": torch.randn(4, 16, 16)}
    >>> state["linear_bias"] = torch.zeros(1, 1, 16)
    >>> SGPNormBlock(16, "R3").load_state_dict(from_flash_clifford(state))
    <All keys matched successfully>
    """
    names = ("linear_weight", "linear_bias", "gp_weight")
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueError(f"state: got no {', '.join(missing)}, wanted what a Layer of flash-clifford has")
    linear, bias, weight = (state[name].detach() for name in names)
    if bias.any():
        raise ValueError(
            "state: got a linear_bias that is not zero; flash-clifford adds it to every blade, which is not "
            "equivariant, and a bias off the scalar has no counterpart here"
        )
    algebra = Algebra(max(len(linear) - 1, 1))
    weight = weight if weight.ndim == 3 else weight.T
    if algebra.dim not in (2, 3) or len(weight) != len(algebra.paths):
        raise ValueError(
            f"state: got linear_weight {tuple(linear.shape)} and gp_weight {tuple(state['gp_weight'].shape)}, wanted "
            "those of Cl(2), with 3 grades and 10 paths, or Cl(3), with 4 and 20"
        )
    # it multiplies from the right
    weight = weight.mT if weight.ndim == 3 else weight
    return {"linear.weight": linear.mT, "linear.bias": bias.flatten(), "weight": _ordered(weight, algebra)}


def _ordered(weight: Tensor, algebra: Algebra) -> Tensor:
    """Weights by paths (i, j, k), ordered by i, k, j, in the order of `Algebra.paths`."""
    order = sorted(range(len(algebra.paths)), key=lambda p: [algebra.paths[p][n] for n in (0, 2, 1)])
    if len(weight) != len(order):
        raise ValueError(f"weight: got {len(weight)} paths, wanted the {len(order)} of {algebra.name}")
    result = torch.empty_like(weight)
    result[order] = weight
    return result


def to_irreps(x: Tensor) -> Tensor:
    r"""Multivectors of Cl(3) as irreducible representations of O(3), ``Cx0e + Cx1o + Cx1e + Cx0o`` for C channels.

    Scalar, vector, bivector and trivector are scalar, vector, pseudovector and pseudoscalar. The pseudovector is the
    axis that the bivector turns around, :math:`(b_{23}, -b_{13}, b_{12})`.

    Parameters
    ----------
    x : Tensor
        ``(..., 8, channels)``.

    Returns
    -------
    Tensor
        ``(..., 8 * channels)``: irreps one after the other, in each the channels, in each the components x, y, z, as
        e3nn has it.

    Raises
    ------
    ValueError, TypeError
        If ``x`` is no multivector of Cl(3).

    References
    ----------
    Geiger, Smidt: e3nn: Euclidean Neural Networks, arXiv:2207.09453.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.interop import to_irreps
    >>> to_irreps(torch.arange(8.0)[:, None])  # 1, e1, e2, e3, e12, e13, e23, e123
    tensor([ 0.,  1.,  2.,  3.,  6., -5.,  4.,  7.])
    """
    parts = [F.extract(x, k, _CL3) for k in _CL3.grades]
    parts[2] = _dual(parts[2])
    return torch.cat([part.mT.flatten(-2) for part in parts], -1)


def from_irreps(x: Tensor) -> Tensor:
    """The inverse of `to_irreps`.

    Parameters
    ----------
    x : Tensor
        ``(..., 8 * channels)``, as e3nn has ``Cx0e + Cx1o + Cx1e + Cx0o``.

    Returns
    -------
    Tensor
        ``(..., 8, channels)``.

    Raises
    ------
    ValueError, TypeError
        If ``x`` is no floating tensor of that shape.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.interop import from_irreps, to_irreps
    >>> x = torch.randn(5, 8, 16)
    >>> torch.equal(from_irreps(to_irreps(x)), x)
    True
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, wanted a torch.Tensor")
    if not x.ndim or not x.shape[-1] or x.shape[-1] % len(_CL3):
        raise ValueError(f"x: got shape {tuple(x.shape)}, wanted (..., {len(_CL3)} * channels)")
    check_features("x", x)
    channels = x.shape[-1] // len(_CL3)
    parts = x.split([size * channels for size in _CL3.grade_sizes], -1)
    blades = [part.unflatten(-1, (channels, size)).mT for part, size in zip(parts, _CL3.grade_sizes, strict=True)]
    blades[2] = _dual(blades[2])
    return torch.cat(blades, -2)


_CL3 = Algebra("R3")


def _dual(x: Tensor) -> Tensor:
    """Blades e12, e13, e23 to the axes x, y, z that they turn around, and back."""
    first, second, third = x.split(1, -2)
    return torch.cat([third, -second, first], -2)
