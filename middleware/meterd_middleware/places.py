"""Places: where in the app's own code a call comes from, as `app/jobs.py:41`.

Walks the stack upward past the SDK, the standard library and ourselves. Whether a file is
the app's is decided once per file, so that a walk costs a dictionary look per frame.
"""

from __future__ import annotations

import os
import sys
import sysconfig

UNKNOWN = "unknown place"
"""No frame of the app is on the stack: the SDK runs the call in a task or thread of its own."""

FRAMES_MAX = 200
_FILES_MAX = 4096

_OURSELVES = os.path.dirname(__file__) + os.sep  # noqa: PTH120  no Path on this way
_LIBRARIES = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_NOT_THE_APP = ("<", _OURSELVES, *(path + os.sep for path in _LIBRARIES if path))
_is_app: dict[str, bool] = {}


def app_place() -> str:
    """The innermost frame of the app's own code on this thread's stack, or `UNKNOWN`."""
    frame = sys._getframe(1)
    for _ in range(FRAMES_MAX):
        name = frame.f_code.co_filename
        known = _is_app.get(name)
        if known is None:
            known = _belongs_to_app(name)
        if known:
            return f"{_short(name)}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return UNKNOWN


def _belongs_to_app(name: str) -> bool:
    is_app = not (
        name.startswith(_NOT_THE_APP) or "site-packages" in name or "dist-packages" in name
    )
    if len(_is_app) < _FILES_MAX:
        _is_app[name] = is_app
    return is_app


def _short(name: str) -> str:
    """Relative to the working directory; else the last two parts, which name file and package."""
    here = os.getcwd() + os.sep  # noqa: PTH109
    if name.startswith(here):
        return name[len(here) :]
    return "/".join(name.rsplit("/", 2)[-2:])
