"""The example FastAPI app as a process of the demo: prints its URL, ends with its starter."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading

import uvicorn


def main() -> None:
    """Serve on a free port until standard input closes or SIGTERM comes."""
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_end_with_starter, daemon=True).start()
    config = uvicorn.Config("examples.fastapi_app:app", log_level="warning", access_log=False)
    config.load()
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listening])


def _end_with_starter() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
