"""Error against the size of the training set: one run for each size, then one picture of all.

    python -m examples.sweep signed_volume_o3 --config configs/signed_volume_o3_small.yaml --sizes 64 256 1024

What follows the sizes goes to every run. A size whose run is finished is not run again. Table, picture and the records
of all runs are written to the folder of their folders.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from benchmarks.environment import save
from examples.common.cli import ROOT
from examples.common.report import BASELINES, OURS


def main(args: list[str] | None = None) -> dict[int, dict[str, float]]:
    """Run all sizes; return their figures."""
    parser = argparse.ArgumentParser(prog="sweep", description=__doc__.splitlines()[0] if __doc__ else None)
    names = sorted(path.stem for path in (ROOT / "examples").glob("*_*.py") if not path.stem.startswith("_"))
    parser.add_argument("experiment", choices=names)
    parser.add_argument("--config", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", required=True)
    parser.add_argument("--runs", default="runs")
    options, rest = parser.parse_known_args(args)

    module = importlib.import_module(f"examples.{options.experiment}")
    folder = Path(options.runs) / f"{options.experiment}_sweep"
    records = {}
    for size in sorted(options.sizes):
        run = f"{folder.name}/{size}"
        arguments = [f"--config={options.config}", f"--runs={options.runs}", f"--run_name={run}"]
        if not finished(folder, size):
            print(f"{options.experiment}: {size} training samples", file=sys.stderr)
            module.main(["fit", *arguments, f"--data.limit={size}", *rest])
        records[size] = json.loads(finished(folder, size)[-1].read_text())
    save(folder / "figures.json", {"samples": records})
    results = {size: record["figures"] for size, record in records.items()}
    draw(options.experiment, results, folder)
    return results


def finished(folder: Path, size: int) -> list[Path]:
    """The records of the runs with so many samples, oldest first."""
    found = folder.glob(f"{size}/version_*/figures.json")
    return sorted(found, key=lambda path: int(path.parent.name.removeprefix("version_")))


def draw(experiment: str, results: dict[int, dict[str, float]], folder: Path) -> None:
    """Write a table and a picture of the errors."""
    sizes = list(results)
    names = [name for name in results[sizes[0]] if name not in ("untrained", "equivariance") and "," not in name]
    lines = [["samples", *names], ["---:"] * (1 + len(names))]
    lines += [[str(size), *(f"{results[size][name]:.4g}" for name in names)] for size in sizes]

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    colours = iter(BASELINES)
    for name in names:
        reference = name in ("constant velocity", "mean of the training set")
        style = {"color": "black", "linestyle": ":"} if reference else {"marker": "o"}
        if not reference:
            style["color"] = OURS if name == "trained" else next(colours)
        label = "this network" if name == "trained" else name
        axis.plot(sizes, [results[size][name] for size in sizes], label=label, **style)  # type: ignore[arg-type]
    axis.set(xscale="log", yscale="log", xlabel="training samples", ylabel="test error", title=experiment)
    axis.legend(frameon=False)
    figure.savefig(folder / "error_against_size.png", dpi=130)
    plt.close(figure)
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    page = f"# {experiment}: error against training samples\n\n{table}\n\n![](error_against_size.png)\n"
    (folder / "report.md").write_text(page)
    print(f"{table}\n\nin {folder}")


if __name__ == "__main__":
    main()
