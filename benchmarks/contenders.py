"""Who computes the subjects: cliffnn, torch.compile, einsum; `benchmarks.peers` has the other libraries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

import cliffnn.functional as F
from benchmarks import plain
from benchmarks.cases import SUBJECTS, Case
from cliffnn import Algebra
from cliffnn.layers import MVLinear, SGPNormBlock

OURS = "cliffnn"
COMPILED = "torch.compile"
COMPILED_BLADES_FIRST = "torch.compile-blades-first"
EINSUM = "dense-einsum"
MATMUL = "batched-matmul"
# What takes minutes to compile takes part only if it is asked for, on a CPU and everywhere.
ASKED_ON_CPU, ASKED = {COMPILED}, {COMPILED_BLADES_FIRST}


@dataclass(frozen=True)
class Built:
    """A contender ready for a case.

    Attributes
    ----------
    run : callable
        Of the factors, ``(rows, blades, channels)`` or with the blades first.
    parameters : sequence of Tensor
        Leaves that ``run`` uses, in the contender's own layout.
    restored : callable
        Gives gradients of these in the layout of `Subject.parameters`; None for one that is defined otherwise.
    blades_first : bool
        The layout of factors and result.
    """

    run: Callable[..., Tensor]
    parameters: Sequence[Tensor]
    restored: Callable[[Sequence[Tensor]], Sequence[Tensor | None]] = tuple
    blades_first: bool = False

    def swapped(self, x: Tensor) -> Tensor:
        """From our layout to the contender's, or back."""
        return x.transpose(0, 1).contiguous() if self.blades_first else x


Builder: TypeAlias = Callable[[Case, Sequence[Tensor]], Built]
# By name, what a contender computes: a builder for each subject.
Contenders: TypeAlias = dict[str, dict[str, Builder]]


def ours_operator(case: Case, parameters: Sequence[Tensor]) -> Built:
    (weight,) = parameters
    return Built(lambda x, y: F.gelu_sgp_norm(x, y, weight, case.algebra), parameters)


def ours_block(case: Case, parameters: Sequence[Tensor]) -> Built:
    module = SGPNormBlock(case.channels, case.algebra, device=parameters[0].device)
    own = [module.linear.weight, module.linear.bias, module.weight]
    return Built(module, _filled(own, parameters))


def ours_linear(case: Case, parameters: Sequence[Tensor]) -> Built:
    module = MVLinear(case.channels, case.channels, case.algebra, bias=False, device=parameters[0].device)
    return Built(module, _filled([module.weight], parameters))


def compiled(case: Case, parameters: Sequence[Tensor], blades_first: bool = False) -> Built:
    """Compiled for this size alone, which gives torch.compile its best chance."""
    if len(Algebra(case.algebra)) > 8:
        raise ValueError("left out: more than 8 blades take torch.compile minutes")
    from torch._inductor import config

    # choices between tiles that were timed while other processes used the device are not to be believed
    config.autotune_local_cache = False
    # the code is the same for all sizes, and too many versions of it would send torch.compile back to eager mode
    torch._dynamo.reset()
    function = SUBJECTS[case.subject].plain(Algebra(case.algebra), 0 if blades_first else -2)
    fast = torch.compile(function, dynamic=False, fullgraph=True)
    return Built(lambda *factors: fast(*factors, *parameters), parameters, blades_first=blades_first)


def compiled_blades_first(case: Case, parameters: Sequence[Tensor]) -> Built:
    return compiled(case, parameters, blades_first=True)


def einsum(case: Case, parameters: Sequence[Tensor]) -> Built:
    """The product as a contraction with the whole Cayley table, its weights spread over it."""
    algebra, (weight,) = Algebra(case.algebra), parameters
    size = len(algebra)
    signs = torch.zeros(size, size, size, 1)
    path = torch.zeros(size, size, size, dtype=torch.long)
    for a, b, c, sign, index in plain.paths_of_products(algebra):
        signs[a, b, c], path[a, b, c] = sign, index
    signs, path = signs.to(weight.device), path.to(weight.device)

    def run(x: Tensor, y: Tensor) -> Tensor:
        out = torch.einsum("...ic,...jc,ijkc->...kc", plain.gelu(x, -2), plain.gelu(y, -2), signs * weight[path])
        return plain.rms_norm(out, algebra, -2)

    return Built(run, parameters)


def matmul(case: Case, parameters: Sequence[Tensor]) -> Built:
    """A batched matrix product over the blades, with a matrix for each blade from the start."""
    algebra = Algebra(case.algebra)
    grades = torch.tensor(algebra.grade_of_blades, device=parameters[0].device)
    matrices = parameters[0].detach()[grades].transpose(1, 2).contiguous().requires_grad_()

    def restored(gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        by_grade = torch.zeros_like(parameters[0]).index_add_(0, grades, gradients[0].transpose(1, 2))
        return (by_grade,)

    return Built(lambda x: torch.bmm(x, matrices), [matrices], restored, blades_first=True)


def contenders() -> Contenders:
    """All that need nothing but torch."""
    return {
        OURS: {"operator": ours_operator, "block": ours_block, "linear": ours_linear},
        COMPILED: {"operator": compiled, "block": compiled},
        COMPILED_BLADES_FIRST: {"operator": compiled_blades_first, "block": compiled_blades_first},
        EINSUM: {"operator": einsum},
        MATMUL: {"linear": matmul},
    }


def _filled(own: Sequence[Tensor | None], values: Sequence[Tensor]) -> list[Tensor]:
    """A module's parameters, with these values."""
    filled = [parameter for parameter in own if parameter is not None]
    with torch.no_grad():
        for parameter, value in zip(filled, values, strict=True):
            parameter.copy_(value)
    return filled
