"""How large activations get through stacked blocks, at initialisation.

    python -m benchmarks.growth [--output FILE]

The norm sees no null blades. In a degenerate algebra they grow from block to block; in an indefinite one, blades of
both signs can grow together while their difference stays. The figure is the root mean square over the null blades
(over all blades, if there are none) after ten blocks by that after one, to the power 1/9: growth per block.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

from benchmarks.environment import RESULTS, write
from cliffnn import Algebra
from cliffnn.layers import SGPNormBlock

ALGEBRAS = ("R2", "R3", "R5", "R0,2", "R1,1", "R1,3", "R4,1", "R2,0,1", "R3,0,1", "R1,1,1")
BLOCKS, CHANNELS, ROWS, SEEDS = 10, 64, 200, 5


def growth(algebra: Algebra, seed: int) -> float:
    torch.manual_seed(seed)
    x = torch.randn(ROWS, len(algebra), CHANNELS)
    null = [b for b, m in enumerate(algebra.quadratic_form) if m == 0]
    sizes = []
    with torch.no_grad():
        for _ in range(BLOCKS):
            x = SGPNormBlock(CHANNELS, algebra)(x)
            sizes.append((x[:, null] if null else x).square().mean().sqrt().item())
    return (sizes[-1] / sizes[0]) ** (1 / (BLOCKS - 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "growth-cpu.json")
    arguments = parser.parse_args()
    results = {
        name: round(statistics.mean(growth(Algebra(name), seed) for seed in range(SEEDS)), 3) for name in ALGEBRAS
    }
    for name, value in results.items():
        print(f"{name:8} {value:.3f} per block")
    write(arguments.output, growth_per_block=results)


if __name__ == "__main__":
    main()
