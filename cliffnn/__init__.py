"""Equivariant neural networks of Clifford algebra: fused, on any algebra, on GPU and CPU."""

from importlib import import_module
from typing import Any

from cliffnn.algebra import Algebra

__all__ = ["Algebra", "functional", "geometric_op", "interop", "layers", "models", "testing", "warmup"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a part when it is asked for: an algebra alone needs no torch."""
    if name in ("functional", "interop", "layers", "models", "testing"):
        return import_module(f"cliffnn.{name}")
    if name == "geometric_op":
        return import_module("cliffnn.geometric").geometric_op
    if name == "warmup":
        return import_module("cliffnn.ahead").warmup
    raise AttributeError(f"module 'cliffnn' has no attribute {name!r}")
