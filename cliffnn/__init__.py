"""Equivariant neural networks of Clifford algebra: fused, on any algebra, on GPU and CPU."""

from importlib import import_module
from types import ModuleType

from cliffnn.algebra import Algebra

__all__ = ["Algebra", "functional", "interop", "layers", "models", "testing"]
__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    """Import a part when it is asked for: an algebra alone needs no torch."""
    if name in ("functional", "interop", "layers", "models", "testing"):
        return import_module(f"cliffnn.{name}")
    raise AttributeError(f"module 'cliffnn' has no attribute {name!r}")
