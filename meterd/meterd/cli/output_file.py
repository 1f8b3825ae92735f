"""A file that is there whole or not at all: written beside its place, then moved into it."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from meterd.cli.console import WrongValue

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; it takes its place when the block ends without an error.

    Raises:
        WrongValue: its directory doesn't exist, or nothing can be made in it.
    """
    check_place(path)
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise WrongValue("--output", str(path), f"a file that can be made ({reason})") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def check_place(path: Path) -> None:
    """Whether a file can have this name; asked before the daemon is.

    Raises:
        WrongValue: it is a directory, or lies in none.
    """
    if path.is_dir():
        raise WrongValue("--output", str(path), "a file, it is a directory")
    if not path.parent.is_dir():
        raise WrongValue("--output", str(path), "a file in a directory that exists")


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current
