"""Other libraries, where they are installed or pointed to. Nothing of them is part of this one."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.cases import Case
from benchmarks.contenders import Built, Contenders, contenders
from cliffnn import Algebra

FLASH_CLIFFORD = "flash-clifford"
CUEQUIVARIANCE = "cuequivariance"


def available(flash_clifford_at: Path | None) -> Contenders:
    """Every contender that can be had here."""
    found = contenders()
    if flash_clifford_at:
        found |= flash_clifford(flash_clifford_at)
    if importlib.util.find_spec("cuequivariance_torch"):
        found |= {CUEQUIVARIANCE: {"operator": cuequivariance}}
    return found


def flash_clifford(path: Path) -> Contenders:
    """flash-clifford from a checkout of it."""
    ops, layer = import_from(path, "ops", "modules.layer")
    operators = {"R2": ops.fused_gelu_sgp_norm_2d, "R3": ops.fused_gelu_sgp_norm_3d}

    def order(algebra: Algebra) -> list[int]:
        """Our paths (i, j, k), in the order that it has them: by i, k, j."""
        return sorted(range(len(algebra.paths)), key=lambda path: [algebra.paths[path][n] for n in (0, 2, 1)])

    def operator(case: Case, parameters: Sequence[Tensor]) -> Built:
        _needs(case.algebra, operators)
        algebra = Algebra(case.algebra)
        weight = parameters[0].detach()[order(algebra)].T.contiguous().requires_grad_()

        def restored(gradients: Sequence[Tensor]) -> Sequence[Tensor]:
            return (_reordered(gradients[0], order(algebra)),)

        run = operators[case.algebra]
        return Built(lambda x, y: run(x, y, weight), [weight], restored, blades_first=True)

    def block(case: Case, parameters: Sequence[Tensor]) -> Built:
        _needs(case.algebra, operators)
        algebra = Algebra(case.algebra)
        module = layer.Layer(case.channels, dims=algebra.dim).to(parameters[0].device)
        own = [module.linear_weight, module.linear_bias, module.gp_weight]
        matrices, _, weight = (parameter.detach() for parameter in parameters)
        with torch.no_grad():
            own[0].copy_(matrices.transpose(1, 2))
            own[2].copy_(weight[order(algebra)].T)

        def restored(gradients: Sequence[Tensor]) -> Sequence[Tensor | None]:
            # its bias is on all blades, so the gradient of it is another
            return gradients[0].transpose(1, 2), None, _reordered(gradients[2], order(algebra))

        return Built(module, own, restored, blades_first=True)

    return {FLASH_CLIFFORD: {"operator": operator, "block": block}}


def cuequivariance(case: Case, parameters: Sequence[Tensor]) -> Built:
    """The product as a segmented polynomial of cuequivariance, gates and norm in torch, on a GPU compiled."""
    import cuequivariance as cue
    import cuequivariance_torch as cuet

    algebra, (weight,) = Algebra(case.algebra), parameters
    gpu = weight.is_cuda
    if gpu and importlib.util.find_spec("cuequivariance_ops_torch") is None:
        raise ValueError("left out: its kernels, cuequivariance_ops_torch, are not installed")
    descriptor = cue.SegmentedTensorProduct.from_subscripts("c,c,c,c")
    for operand, segments in enumerate((len(algebra.paths), *3 * [len(algebra)])):
        descriptor.add_segments(operand, segments * [(case.channels,)])
    for a, b, c, sign, path in plain.paths_of_products(algebra):
        descriptor.add_path(path, a, b, c, c=float(sign))
    polynomial = cue.SegmentedPolynomial.eval_last_operand(descriptor)
    product = cuet.SegmentedPolynomial(polynomial, method="uniform_1d" if gpu else "naive").to(weight.device)

    def run(x: Tensor, y: Tensor) -> Tensor:
        (out,) = product([weight.reshape(1, -1), *(plain.gelu(factor, -2).flatten(1) for factor in (x, y))])
        return plain.rms_norm(out.view_as(x), algebra, -2)

    torch._dynamo.reset()
    return Built(torch.compile(run, dynamic=False) if gpu else run, parameters)


def _needs(algebra: str, known: Any) -> None:
    if algebra not in known:
        raise ValueError(f"left out: it has {' and '.join(known)} alone")


def _reordered(gradient: Tensor, order: list[int]) -> Tensor:
    result = torch.empty_like(gradient.T)
    result[order] = gradient.T
    return result


def import_from(path: Path, *names: str) -> list[ModuleType]:
    """Modules that a folder has at its top."""
    path = path.resolve()
    if not (path / "ops" / "__init__.py").is_file():
        raise SystemExit(f"--flash-clifford: {path} holds no ops/__init__.py, wanted a checkout of flash-clifford")
    sys.path.insert(0, str(path))
    try:
        modules = [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(path))
    if not Path(modules[0].__file__ or "").resolve().is_relative_to(path):
        raise SystemExit(f"--flash-clifford: another package named {names[0]} is imported already")
    return modules


def fingerprint(path: Path) -> str:
    """Hash of a checkout's Python files, for a copy that may have no git."""
    digest = hashlib.sha256()
    for folder in ("ops", "modules"):
        for file in sorted((path / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
