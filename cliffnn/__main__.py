"""The command line: ``cliffnn cache list``, ``cliffnn cache clear``, ``cliffnn cache path``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from cliffnn import __version__, cache


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(prog="cliffnn")
    parser.add_argument("--version", action="version", version=f"cliffnn {__version__}")
    parts = parser.add_subparsers(required=True, metavar="cache")
    about = "generated code on disk, in $CLIFFNN_CACHE_DIR, else in cliffnn in $XDG_CACHE_HOME or ~/.cache"
    commands = parts.add_parser("cache", help=about, description=about).add_subparsers(required=True)
    for command in (_list, _clear, _path):
        commands.add_parser(command.__name__[1:], help=command.__doc__).set_defaults(run=command)
    run = parser.parse_args(arguments).run
    try:
        run()
        sys.stdout.flush()
    except BrokenPipeError:
        # who reads has seen enough, as `head` has; nor may the interpreter complain when it closes the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _list() -> None:
    """show each file, its size, and whether this version reads it, another one, or none since it is damaged"""
    entries = cache.entries()
    for path, size, state in entries:
        print(f"{size:9,d}  {state:7}  {path.name}")
    print(f"{sum(entry.size for entry in entries):9,d}  bytes in {len(entries)} files in {cache.folder()}")


def _clear() -> None:
    """remove what cliffnn wrote, and nothing else"""
    print(f"removed {cache.clear()} files from {cache.folder()}")


def _path() -> None:
    """print the folder"""
    print(cache.folder())


if __name__ == "__main__":
    main()
