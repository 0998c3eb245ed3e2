"""Generated source on disk: content-addressed, written atomically, verified when read."""

from __future__ import annotations

import atexit
import functools
import gc
import hashlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

_lock = threading.RLock()
_modules: dict[str, ModuleType] = {}


def folder() -> Path:
    """Where source is kept: ``$CLIFFNN_CACHE_DIR``, else ``cliffnn`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    named = os.environ.get("CLIFFNN_CACHE_DIR")
    return Path(named or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "cliffnn"))


@functools.cache
def _temporary_folder() -> Path:
    """A folder that lives as long as this process."""
    name = tempfile.mkdtemp(prefix="cliffnn-")
    atexit.register(shutil.rmtree, name, ignore_errors=True)
    return Path(name)


@functools.cache
def fingerprint() -> str:
    """Hash of all that could decide what is generated from an expression: our source and kingdon's version."""
    digest = hashlib.sha256(importlib.metadata.version("kingdon").encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def load(name: str, generate: Callable[[], str]) -> ModuleType:
    """The module ``name``, from memory, from disk if what is there is what was written, or generated.

    Parameters
    ----------
    name : str
        Says all that the source depends on beside the generator: expression, algebra, kind.
    generate : callable
        Gives the source; called only if it is found nowhere.
    """
    with _lock:
        if name not in _modules:
            key = hashlib.sha256(f"{fingerprint()} {name}".encode()).hexdigest()[:12]
            _modules[name] = _execute(folder() / f"{name}_{key}.py", generate)
        return _modules[name]


def _execute(path: Path, generate: Callable[[], str]) -> ModuleType:
    text = _read(path)
    if text is None:
        with _without_garbage_collection():
            text = generate()
        text = f"# sha256 {hashlib.sha256(text.encode()).hexdigest()}\n{text}"
        path = _write(path, text)
    module = ModuleType(f"cliffnn.generated_source.{path.stem}")
    module.__file__ = str(path)
    # Triton looks functions up through their module
    sys.modules[module.__name__] = module
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Generation makes many small tuples and no cycles; a collection among them walks all objects of torch, 0.2 s."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(path: Path) -> str | None:
    """The source, or None if there is none or it is not, to the letter, what we once wrote."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        return None
    header, _, body = text.partition("\n")
    return text if header == f"# sha256 {hashlib.sha256(body.encode()).hexdigest()}" else None


def _write(path: Path, text: str) -> Path:
    """Write a file whole or not at all, in the temporary folder if its own can't be written; say where it is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text)
    except OSError as error:
        _warn_once(path.parent, error.strerror or str(error))
        path = _temporary_folder() / path.name
        _replace(path, text)
    return path


def _replace(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".py")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        # mkstemp lets nobody else read, but users may share a folder
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@functools.cache
def _warn_once(path: Path, reason: str) -> None:
    warnings.warn(
        f"the cache folder {path} cannot be written ({reason}): generated code is kept in {_temporary_folder()} until "
        f"this process ends; set CLIFFNN_CACHE_DIR to a folder that can be",
        stacklevel=2,
    )
