"""A real meterd in a process of its own, on the last core, in temporary directories.

`metering` starts one on fresh data; `starting` takes directories that may have some already.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import pin

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Daemon:
    """Where a running daemon is found, its process id, and how long it took to serve."""

    target: str
    spool_root: Path
    data: Path
    pid: int
    ready_s: float
    """From the process's start to its word that it serves."""


@contextlib.contextmanager
def metering(config: str = "", *options: str, is_pinned: bool = True) -> Iterator[Daemon]:
    """Start meterd, wait until it serves, and stop it; everything is removed afterwards."""
    root = Path(tempfile.mkdtemp(prefix="mb"))
    try:
        with starting(root, config, *options, is_pinned=is_pinned) as daemon:
            yield daemon
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def starting(
    root: Path, config: str = "", *options: str, is_pinned: bool = True
) -> Iterator[Daemon]:
    """Start meterd on what lies in `root`, wait until it serves, and stop it."""
    spool, data = root / "spool", root / "data"
    spool.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "meterd.main", "--data", str(data),
        "--listen", f"unix:{root}/m.sock", "--spool-root", str(spool), *options,
    ]  # fmt: skip
    if config:
        (root / "meterd.toml").write_text(config)
        command += ["--config", str(root / "meterd.toml")]
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=(lambda: pin((os.cpu_count() or 1) - 1)) if is_pinned else None,
    ) as process:
        assert process.stderr is not None
        try:
            said = process.stderr.readline()
            if " is ready on " not in said:
                raise RuntimeError(said.strip() or "meterd did not start")
            ready_s = time.perf_counter() - start
            yield Daemon(f"unix:{root}/m.sock", spool, data, process.pid, ready_s)
        finally:
            process.terminate()
            process.wait(timeout=30)
