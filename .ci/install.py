"""Make `.venv` with everything of constraints.txt and the three distributions in it.

Needs python3 alone. Safe to run twice and two at a time: a lock keeps the second waiting,
and a stamp of all that decides the outcome makes it return at once, without the network.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".installed"
DISTRIBUTIONS = ("proto", "middleware", "meterd")


def main() -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 - run by whatever python3 there is
        print(
            f"meterd needs Python 3.11 or newer; python3 is {sys.version.split()[0]}",
            file=sys.stderr,
        )
        return 1
    with (ROOT / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = _fingerprint()
        if STAMP.exists() and STAMP.read_text() == wanted:
            return 0
        return _install(wanted)


def _fingerprint() -> str:
    """What the environment is made of; the checkout's place counts, since installs are editable."""
    digest = hashlib.sha256(f"{ROOT}\n{sys.version}\n".encode())
    decisive = (
        ".ci/install.py",
        "constraints.txt",
        *(f"{d}/pyproject.toml" for d in DISTRIBUTIONS),
    )
    for name in decisive:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def _install(wanted: str) -> int:
    print("installing into .venv (once; a minute or two) …", file=sys.stderr, flush=True)
    STAMP.unlink(missing_ok=True)
    try:
        venv.create(VENV, with_pip=True, clear=not (VENV / "bin" / "python").exists())
    except subprocess.CalledProcessError:
        print(
            "python3 could not put pip into a virtual environment: install your system's "
            "venv package (Debian: python3-venv) and run this again",
            file=sys.stderr,
        )
        return 1
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    environment = {**os.environ, "PIP_NO_INPUT": "1"}
    steps = (
        [*pip, "install", "--require-hashes", "--no-deps", "-r", str(ROOT / "constraints.txt")],
        [*pip, "install", "--no-index", "--no-deps", "--no-build-isolation"]
        + [part for d in DISTRIBUTIONS for part in ("-e", str(ROOT / d))],
    )
    for step in steps:
        done = subprocess.run(step, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stdout + done.stderr, file=sys.stderr)
            print("the installation failed; nothing was marked as installed", file=sys.stderr)
            return done.returncode
    _make_the_checkout_importable()
    STAMP.write_text(wanted)
    return 0


def _make_the_checkout_importable() -> None:
    """So that `python benchmarks/call.py` finds its neighbours from whatever directory."""
    for packages in VENV.glob("lib/python*/site-packages"):
        (packages / "meterd_workspace.pth").write_text(f"{ROOT}\n")


if __name__ == "__main__":
    sys.exit(main())
