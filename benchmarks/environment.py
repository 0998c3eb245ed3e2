"""What every result says of where it came from."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def environment(gpu: bool | None = None) -> dict[str, Any]:
    """Device, versions and commit; None: the GPU, if there is one."""
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
    }


def _commit() -> str | None:
    """Of this repository, or as a copy without one is told."""
    if told := os.environ.get("CLIFFNN_COMMIT"):
        return told
    run = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write(path: Path, command: str, **results: Any) -> None:
    """Write results with their environment as JSON."""
    save(path, {**environment(), "command": command, **results})
    print(f"wrote {path}")


def save(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
