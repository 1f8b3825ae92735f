"""The README's example runs as pasted, and prints what the README says."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(README) if kind == language]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.skipif(sys.platform == "win32", reason="meterd runs on Linux and macOS")
def test_the_first_example_runs_as_pasted_and_prints_what_it_says() -> None:
    """Whoever reads only this far has to get what they were shown."""
    app, commands, output = blocks("python")[0], blocks("sh")[0], blocks("")[0]
    commands = commands.replace("8099", free_port()).replace("8000", free_port())
    with tempfile.TemporaryDirectory(prefix="mr") as home:
        Path(home, "app.py").write_text(app)
        environment = {
            **{name: value for name, value in os.environ.items() if "METERD" not in name},
            "HOME": home,
            "XDG_RUNTIME_DIR": "",
            "XDG_STATE_HOME": "",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        with subprocess.Popen(
            ["bash", "-c", commands],
            cwd=home,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as shell:
            assert shell.stdout is not None
            printed = _until_table_is_whole(shell)
            os.killpg(shell.pid, signal.SIGTERM)

    assert printed == output


def _until_table_is_whole(shell: subprocess.Popen[str]) -> str:
    """What is printed up to the total; the processes behind it still run."""
    assert shell.stdout is not None
    lines = []
    for line in shell.stdout:
        if line.startswith(("CLIENT", "acme-corp", "TOTAL")):
            lines.append(line)
        if line.startswith("TOTAL"):
            break
    return "".join(lines)


def test_every_page_the_readme_points_to_exists() -> None:
    """A dead link is the first thing a new user meets."""
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
