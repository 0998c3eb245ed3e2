"""Arrays on disk: written at once, sealed with a checksum that is verified on reading."""

from __future__ import annotations

import hashlib
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def load_or_make(path: Path, fingerprint: str, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays of a file; where it is not there or not whole, make them and store them.

    A folder that cannot be written costs the next run the making, and this one a warning.
    """
    data = read(path, fingerprint)
    if data is None:
        data = make()
        try:
            write(path, fingerprint, data)
        except OSError as error:
            warnings.warn(f"the data could not be stored in {path}: {error}", stacklevel=2)
    return data


def read(path: Path, fingerprint: str) -> Arrays | None:
    """Return the arrays of a file, or None if it is missing, truncated, changed, or of another recipe."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            data = {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile):
        return None
    seal = data.pop("seal", None)
    if seal is None or str(seal) != seal_of(fingerprint, data):
        return None
    return data


def write(path: Path, fingerprint: str, data: Arrays) -> None:
    """Write the arrays at once: a reader, or a second run beside this one, never sees half a file."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, seal=np.array(seal_of(fingerprint, data)), **data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def seal_of(fingerprint: str, data: Arrays) -> str:
    """Hash of the recipe's fingerprint and of the arrays' names, shapes and bytes."""
    digest = hashlib.sha256(fingerprint.encode())
    for name, array in sorted(data.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
