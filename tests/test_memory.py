"""What forward and backward allocate on a GPU: results, gradients, and little else."""

import pytest
import torch

from benchmarks.timing import peak_bytes
from cliffnn import Algebra
from cliffnn import functional as F
from cliffnn.layers import SGPNormBlock

pytestmark = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def peak_tensors(function, inputs, grad):
    """The peak of forward and backward beyond inputs and the result's gradient, in units of the latter's size."""
    return peak_bytes(lambda *inputs: torch.autograd.grad(function(*inputs), inputs, grad), inputs) / grad.nbytes


@needs_gpu
@pytest.mark.parametrize(("algebra", "rows", "channels"), [("R2", 32768, 128), ("R3", 8192, 128), ("R1,3", 8192, 128)])
def test_the_operator_keeps_five_percent_beside_results_and_gradients(algebra, rows, channels):
    blades, paths = len(Algebra(algebra)), len(Algebra(algebra).paths)
    x, y, grad = (torch.randn(rows, blades, channels, device="cuda") for _ in range(3))
    inputs = [tensor.requires_grad_() for tensor in (x, y, torch.randn(paths, channels, device="cuda"))]
    # the result, and the gradients of both factors
    assert peak_tensors(lambda *tensors: F.gelu_sgp_norm(*tensors, algebra), inputs, grad) <= 3 * 1.05


@needs_gpu
def test_a_block_keeps_four_tensors_and_a_little():
    """One tensor is 64 MiB here, so 4.375 of them are 280."""
    block = SGPNormBlock(512, "R3").cuda()
    x, grad = (torch.randn(4096, 8, 512, device="cuda") for _ in range(2))
    inputs = [x.requires_grad_(), *block.parameters()]
    assert peak_tensors(lambda x, *_: block(x), inputs, grad) <= 4.375
