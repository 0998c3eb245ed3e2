"""flash-clifford's own layers beside ours: the same weights and inputs, results and gradients compared.

    python -m benchmarks.flash_clifford CHECKOUT [--output FILE]

On a GPU, or on a CPU where ``TRITON_INTERPRET=1`` runs their kernels; float32 without TF32. Their weights go through
`cliffnn.interop.from_flash_clifford`. What is compared are the result and the gradients of the input and, converted
likewise, of the weights. Not the bias's: theirs is a sum over all blades, where ours belongs to the scalar. Fails if a
relative error is above 2e-5.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import RESULTS, write
from benchmarks.peers import import_from
from cliffnn.interop import from_flash_clifford
from cliffnn.layers import FCGPNormBlock, SGPNormBlock

TOLERANCE = 2e-5
# The interpreter takes its time.
SIZES = {"cuda": (4096, 64), "cpu": (33, 16)}


def compare(layer: Any, dims: int, connected: bool, device: str) -> dict[str, float]:
    rows, channels = SIZES[device]
    theirs = layer.Layer(channels, dims=dims, use_fc=connected).to(device)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=channels**-0.5)
        theirs.linear_bias.zero_()
    block = (FCGPNormBlock if connected else SGPNormBlock)(channels, algebra=f"R{dims}", device=device)
    block.load_state_dict(from_flash_clifford(theirs.state_dict()))
    x = torch.randn(rows, 2**dims, channels, device=device, requires_grad=True)
    own = x.detach().transpose(0, 1).contiguous().requires_grad_()
    out, wanted = block(x), theirs(own)
    grad = torch.randn_like(out)
    named = dict(theirs.named_parameters())
    own_grad, *gradients = torch.autograd.grad(wanted, [own, *named.values()], grad.transpose(0, 1).contiguous())
    converted = dict(zip(named, gradients, strict=True))
    converted["linear_bias"] = torch.zeros_like(named["linear_bias"])
    expected = from_flash_clifford(converted)
    parameters = {name: p for name, p in block.named_parameters() if not name.endswith("bias")}
    got_x, *got = torch.autograd.grad(out, [x, *parameters.values()], grad)
    pairs = {"result": (out, wanted.transpose(0, 1)), "grad x": (got_x, own_grad.transpose(0, 1))}
    pairs |= {f"grad {name}": (one, expected[name]) for name, one in zip(parameters, got, strict=True)}
    return {name: float(((a - b).norm() / b.norm()).detach()) for name, (a, b) in pairs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="of flash-clifford")
    parser.add_argument("--output", type=Path, default=RESULTS / "flash_clifford.json")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise SystemExit("no CUDA device: flash-clifford's kernels run on one, or with TRITON_INTERPRET=1")
    _, layer = import_from(arguments.checkout, "ops", "modules.layer")
    results = {}
    for dims in (2, 3):
        for connected in (False, True):
            name = f"R{dims}, {'fully connected' if connected else 'channel by channel'}"
            results[name] = compare(layer, dims, connected, device)
            print(name, results[name], flush=True)
    write(arguments.output, tolerance=TOLERANCE, relative_errors=results)
    if worst := [name for name, errors in results.items() if not max(errors.values()) < TOLERANCE]:
        raise SystemExit(f"differs: {', '.join(worst)}")


if __name__ == "__main__":
    main()
