"""Equivariant neural networks of Clifford algebra: fused, on any algebra, on GPU and CPU."""

from cliffnn.algebra import Algebra

__all__ = ["Algebra"]
__version__ = "0.1.0"
