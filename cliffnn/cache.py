"""Generated source on disk: content-addressed, written atomically, verified when read."""

from __future__ import annotations

import functools
import gc
import hashlib
import importlib.metadata
import linecache
import os
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
            body = generate()
        text = f"{_header(path, body)}\n{body}"
        _write(path, text)
    # Triton reads the source of a function when it first compiles it, debuggers when they stop: the file may be gone
    linecache.cache[str(path)] = len(text), None, text.splitlines(keepends=True), str(path)
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


def _header(path: Path, body: str) -> str:
    """The line that a file of ours begins with: nobody else's, and no other file of ours under this name, has it."""
    return f"# sha256 {hashlib.sha256(f'{path.name} {body}'.encode()).hexdigest()}"


def _read(path: Path) -> str | None:
    """The source, or None if there is none or it is not, to the letter, what we once wrote."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        return None
    header, _, body = text.partition("\n")
    return text if header == _header(path, body) else None


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all; where it can't be written, say so."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text)
    except OSError as error:
        _warn_once(path.parent, error.strerror or str(error))


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
        f"the cache folder {path} cannot be written ({reason}): each process will generate its code anew; "
        f"set CLIFFNN_CACHE_DIR to a folder that can be",
        stacklevel=2,
    )


# A process forked while another thread generates would wait forever for a lock that nobody holds there.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
