"""cliffnn beside other ways to compute the same: time, memory, growth. One command, on a GPU or a CPU.

    python -m benchmarks [--part grid small layers scaling] [--output FOLDER] [--warm N] [--flash-clifford PATH]
                         [--processor N]
    python -m benchmarks --plot FOLDER

Parts: ``grid`` is the operator (GELU of both factors, weighted product, norm) over rows x channels in Cl(2) and
Cl(3); ``small`` sizes where the host's work counts; ``layers`` the block and the linear map alone, with TF32;
``scaling`` curves over rows, channels and blades. On a CPU all sizes are small, and torch.compile takes part only if
``--contenders`` names it.

Each part becomes a JSON in the folder, written anew after each case; pictures are drawn from these (``--plot`` draws
them again, without a GPU). A time is that of the device (``kernel_ms``, replays of a CUDA graph over buffers that
rotate past the cache) and that of calls in a loop, the host's work included (``loop_ms``), the best of some loops in
which contenders take turns; with ``--processor`` all threads stay on one of the host's. Memory is the peak of a call
beyond what was allocated before it, inputs and the result's gradient among that. Before anything is measured ours is
checked at all sizes, and the command ends if a result or a gradient is wrong; another contender that is wrong is
reported as wrong.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import os
from pathlib import Path
from typing import Any

import torch

from benchmarks import cases, peers, suite, summary, timing, warm
from benchmarks.contenders import ASKED, ASKED_ON_CPU, OURS, Contenders
from benchmarks.environment import environment, save


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", nargs="+", choices=cases.PARTS, default=cases.PARTS)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"), metavar="FOLDER")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="beside ours; by default all there are")
    parser.add_argument("--flash-clifford", type=Path, metavar="PATH", help="a checkout of it")
    parser.add_argument("--warm", type=int, default=0, metavar="N", help="compile ahead in so many processes")
    parser.add_argument("--warm-seconds", type=float, default=300, metavar="S", help="for so long at most")
    parser.add_argument("--processor", type=int, metavar="N", help="for all threads")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw the pictures of results, measure nothing")
    arguments = parser.parse_args()
    if arguments.warm < 0:
        raise SystemExit(f"--warm: got {arguments.warm}, wanted a number of processes")
    if arguments.plot:
        draw(arguments.plot)
        return
    try:
        measure(arguments)
    finally:
        # what `release` froze would otherwise be complained about as leaked at the end
        gc.unfreeze()
    draw(arguments.output)


def measure(arguments: argparse.Namespace) -> None:
    # torch.compile would set this halfway; what was compiled before that would not be found in the next process
    os.environ.setdefault("TRITON_CACHE_DIR", str(Path.home() / ".triton" / "cache"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    contenders = chosen(peers.available(arguments.flash_clifford), arguments.contenders, device)
    found = {part: cases.part(part, device.type) for part in arguments.part}
    left_out = set()
    if arguments.warm:
        work = warm.tasks((case for part in found.values() for case in part), contenders)
        left_out = warm.warm(work, device.type, arguments.flash_clifford, arguments.warm, arguments.warm_seconds)
    timing.stay_on(arguments.processor)
    bandwidth = timing.copy_bandwidth(device.type)
    print(f"copy bandwidth {bandwidth / 1e12:.3f} TB/s", flush=True)
    for part in found.values():
        suite.check_ours(part, contenders, device)
    origin = {
        **environment(),
        "others": origins(arguments.flash_clifford),
        "copy_bandwidth": bandwidth,
    }
    for part, of_part in found.items():
        print(f"part {part}", flush=True)
        results: list[dict[str, Any]] = []
        content = {**origin, "part": part, "results": results}
        for result in suite.run(of_part, contenders, device, bandwidth, left_out):
            results.append(result)
            content["summary"] = summary.summary(results)
            content["growth"] = summary.growth(results)
            save(arguments.output / f"{part}.json", content)
        print("\n".join(summary.lines(content["summary"])), flush=True)


def chosen(available: Contenders, names: list[str] | None, device: torch.device) -> Contenders:
    """Ours, and those asked for."""
    if names is None:
        names = [name for name in available if name not in ASKED | (ASKED_ON_CPU if device.type == "cpu" else set())]
    unknown = set(names) - set(available)
    if unknown:
        raise SystemExit(f"--contenders: got {', '.join(sorted(unknown))}, wanted some of {', '.join(available)}")
    return {name: builders for name, builders in available.items() if name == OURS or name in names}


def origins(flash_clifford: Path | None) -> dict[str, str]:
    """Which versions of other libraries took part."""
    found = {peers.FLASH_CLIFFORD: f"files {peers.fingerprint(flash_clifford)}"} if flash_clifford else {}
    for name in ("cuequivariance", "cuequivariance_torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def draw(folder: Path) -> None:
    try:
        from benchmarks import plots
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        print(f"no matplotlib here: python -m benchmarks --plot {folder} draws the pictures where there is one")
        return
    for path in plots.draw(folder):
        print(f"drew {path}")


if __name__ == "__main__":
    main()
