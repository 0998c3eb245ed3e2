"""Generated source on disk: content-addressed, written atomically, verified when read."""

from __future__ import annotations

import functools
import gc
import hashlib
import importlib.metadata
import linecache
import os
import re
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

_SUFFIX = ".py"
# What a file is called until it is whole.
_UNFINISHED = ".cliffnn-"
# The line that one of our files begins with.
_HEADER = re.compile(rb"# sha256 [0-9a-f]{64}\n")
# After so many seconds nobody is writing it any more.
_ABANDONED = 3600

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
            _modules[name] = _execute(folder() / _file_name(name), generate)
        return _modules[name]


class Entry(NamedTuple):
    """A file that we wrote: its size in bytes, and what has become of it.

    This version of the library reads it (``"current"``), another one does (``"other"``), or it is not what we wrote any
    more (``"damaged"``) and nobody will.
    """

    path: Path
    size: int
    state: Literal["current", "other", "damaged"]


def entries() -> list[Entry]:
    """What is in the folder, beside files that are none of ours."""
    found = []
    for path in sorted(folder().glob(f"*{_SUFFIX}")):
        beginning = _HEADER.match(_bytes(path))
        if beginning and not path.name.startswith("."):
            current = path.name == _file_name(path.stem.rpartition("_")[0])
            state: Any = "damaged" if _read(path) is None else "current" if current else "other"
            found.append(Entry(path, len(beginning.string), state))
    return found


def clear() -> int:
    """Remove what we wrote, and what we never finished writing; gives the number of files."""
    unfinished = folder().glob(f"{_UNFINISHED}*{_SUFFIX}")
    removed = 0
    for path in (*(entry.path for entry in entries()), *unfinished):
        # another process may have removed it
        with suppress(FileNotFoundError):
            if not path.name.startswith(_UNFINISHED) or time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()
                removed += 1
    return removed


def _file_name(name: str) -> str:
    """What is generated depends on the name and the generator, and so does where it is."""
    return f"{name}_{hashlib.sha256(f'{fingerprint()} {name}'.encode()).hexdigest()[:12]}{_SUFFIX}"


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
            if not gc.get_freeze_count():
                # what is alive counts as old from here on: else the collection would come now
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def _header(path: Path, body: str) -> str:
    """That of a file of ours: nobody else's, and no other file of ours under this name, has it."""
    return f"# sha256 {hashlib.sha256(f'{path.name} {body}'.encode()).hexdigest()}"


def _read(path: Path) -> str | None:
    """The source, or None if there is none or it is not, to the letter, what we once wrote."""
    try:
        text = _bytes(path).decode()
    except UnicodeDecodeError:
        return None
    header, _, body = text.partition("\n")
    return text if header == _header(path, body) else None


def _bytes(path: Path) -> bytes:
    """What is in a file; nothing, if it can't be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all; where it can't be written, say so."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text)
    except OSError as error:
        _warn_once(path.parent, error.strerror or str(error))


def _replace(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED, suffix=_SUFFIX)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
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
