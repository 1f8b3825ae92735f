"""A real meterd in a process of its own, on the last core, in temporary directories."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import pin

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Daemon:
    """Where a running daemon is found, and its process id."""

    target: str
    spool_root: Path
    data: Path
    pid: int


@contextlib.contextmanager
def metering(config: str = "", *options: str) -> Iterator[Daemon]:
    """Start meterd, wait until it serves, and stop it; everything is removed afterwards."""
    root = Path(tempfile.mkdtemp(prefix="mb"))
    spool, data = root / "spool", root / "data"
    spool.mkdir()
    command = [
        sys.executable, "-m", "meterd.main", "--data", str(data),
        "--listen", f"unix:{root}/m.sock", "--spool-root", str(spool), *options,
    ]  # fmt: skip
    if config:
        (root / "meterd.toml").write_text(config)
        command += ["--config", str(root / "meterd.toml")]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: pin((os.cpu_count() or 1) - 1),
    ) as process:
        assert process.stderr is not None
        try:
            if not process.stderr.readline():
                raise RuntimeError("meterd did not start")
            yield Daemon(f"unix:{root}/m.sock", spool, data, process.pid)
        finally:
            process.terminate()
            process.wait(timeout=30)
            shutil.rmtree(root, ignore_errors=True)
