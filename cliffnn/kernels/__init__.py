"""Operations run as Triton kernels: the same function as `cliffnn.generated`, with the same arguments.

On tensors of a CPU they run under Triton's interpreter (``TRITON_INTERPRET=1``), for tests.
"""

from cliffnn.kernels.launch import run

__all__ = ["run"]
