"""The demo: to the end, interrupted, and two at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.examples.running import ROOT, Running

DEMO = [sys.executable, "-m", "examples.demo"]


def leftovers(pids: set[int]) -> list[str]:
    """What is left of a demo's processes."""
    return [" ".join(psutil.Process(pid).cmdline()) for pid in pids if psutil.pid_exists(pid)]


def directories() -> set[Path]:
    """The temporary directories of all demos."""
    return set(Path("/tmp").glob("meterd-demo-*"))


@pytest.mark.timeout(240)
def test_two_demos_at_a_time_agree_to_the_token_and_leave_nothing_behind() -> None:
    """`make demo` is what a newcomer runs first, perhaps twice."""
    before = directories()
    demos = [
        subprocess.Popen(
            DEMO, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]

    said = [demo.communicate()[0] for demo in demos]

    for demo, output in zip(demos, said, strict=True):
        assert demo.returncode == 0, output
        assert "every token that was served is counted" in output
        assert "application/problem+json" in output
        assert "RateLimitError" in output
    assert directories() <= before


@pytest.mark.timeout(120)
def test_a_demo_that_is_interrupted_cleans_up() -> None:
    """Ctrl-C in the middle must leave no process and no directory."""
    demo = Running(DEMO, os.environ)
    demo.wait_for("a morning")
    children = {child.pid for child in psutil.Process(demo.process.pid).children(recursive=True)}
    directory = demo.wait_for("meterd.sock").split("unix:")[1].split("/meterd.sock")[0]

    demo.process.send_signal(signal.SIGINT)
    demo.process.wait(60)
    demo.end()

    # CPython ends itself by the signal where the interrupt hit it inside an import: to a
    # shell both are 130.
    assert demo.process.returncode in (130, -signal.SIGINT), demo.said
    assert children and not leftovers(children)
    assert not Path(directory).exists()
