"""What importing the middleware costs an app: little, and nothing that it did not ask for."""

from __future__ import annotations

import statistics
import subprocess
import sys
import textwrap

import pytest

IMPORT_MS_MAX = 150

NEVER = ("grpc", "httpx", "httpx2", "starlette", "asyncio", "ssl", "pytest", "tiktoken")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_import_brings_no_grpc_no_http_library_and_no_event_loop() -> None:
    """asyncio and ssl alone are 30 ms; an app that needs them has them."""
    told = run(
        f"""
        import sys
        import meterd_middleware
        print(sorted(set({NEVER!r}) & sys.modules.keys()))
        """
    )

    assert told == "[]"


def test_a_meter_that_has_counted_nothing_has_started_nothing() -> None:
    told = run(
        """
        import os, sys, tempfile, threading
        from meterd_middleware import Meter
        directory = tempfile.TemporaryDirectory(prefix="m")
        root = directory.name + "/spool"
        meter = Meter(spool=root, target="unix:/nonexistent")
        print(threading.active_count(), os.path.exists(root), "grpc" in sys.modules)
        """
    )

    assert told == "1 False False"


@pytest.mark.parametrize("module", ["meterd_middleware", "meterd_middleware.testing"])
def test_the_import_takes_less_than_150_ms(module: str) -> None:
    """CPU time of the import alone, the median of five processes: a busy machine is no fault."""
    code = f"""
        import time
        started = time.process_time()
        import {module}
        print((time.process_time() - started) * 1000)
        """

    if module.endswith("testing"):  # pytest has imported itself by then
        code = code.replace("started =", "import pytest; started =")
    taken = statistics.median(float(run(code)) for _ in range(5))

    assert taken < IMPORT_MS_MAX
