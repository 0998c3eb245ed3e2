"""What every result says of where it came from."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def environment(gpu: bool | None = None) -> dict[str, Any]:
    """Device, versions, commit and command; None: the GPU, if there is one."""
    import torch

    if gpu is None:
        gpu = torch.cuda.is_available()
    versions = {}
    for name in ("torch", "triton", "kingdon"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "device": torch.cuda.get_device_name()
        if gpu
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
        "command": _command(),
    }


def _command() -> str:
    """As it was typed, but for where results go, and for paths, which mean nothing elsewhere."""
    spec = sys.modules["__main__"].__spec__
    words = ["python", *(["-m", spec.name.removesuffix(".__main__")] if spec else [Path(sys.argv[0]).name])]
    options = iter(sys.argv[1:])
    for option in options:
        if option == "--output":
            next(options, None)
        elif not option.startswith("--output="):
            words.append("PATH" if os.sep in option and Path(option).exists() else option)
    return shlex.join(words)


def _commit() -> str | None:
    """Of this repository, or as a copy without one is told."""
    if told := os.environ.get("CLIFFNN_COMMIT"):
        return told
    run = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write(path: Path, **results: Any) -> None:
    """Write results with their environment as JSON."""
    save(path, {**environment(), **results})
    print(f"wrote {path}")


def save(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
