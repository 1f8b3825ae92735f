"""Taking one event to a hook: a command with JSON on its stdin, or a signed webhook."""

from __future__ import annotations

import asyncio
import hmac
import os
import signal
import urllib.error
import urllib.request
from hashlib import sha256
from typing import TYPE_CHECKING

from meterd.errors import Unavailable

if TYPE_CHECKING:
    from meterd.config.agency import Hook

KEY_HEADER = "Idempotency-Key"
SIGNATURE_HEADER = "X-Meterd-Signature"
OUTPUT_SHOWN_MAX = 200


class NotDelivered(Unavailable):
    """A hook didn't take an event; one clause says why. It is tried again."""


async def deliver(hook: Hook, key: str, body: bytes) -> None:
    """Deliver an event once.

    A command gets it on stdin, its key as METERD_EVENT_ID, and has taken it if it exits
    with 0. A webhook gets it as a POST with `Idempotency-Key` and `X-Meterd-Signature:
    sha256=HMAC` over the body, and has taken it if it answers 2xx.

    Raises:
        NotDelivered: it wasn't taken in time.
    """
    if hook.command:
        await _run(hook, key, body)
    else:
        await asyncio.to_thread(_post, hook, key, body)


def signature(secret: str, body: bytes) -> str:
    """What proves to a webhook that the body is ours: HMAC-SHA256 with the shared secret."""
    return f"sha256={hmac.new(secret.encode(), body, sha256).hexdigest()}"


async def _run(hook: Hook, key: str, body: bytes) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            *hook.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "METERD_EVENT_ID": key},
            start_new_session=True,
        )
    except OSError as error:
        raise NotDelivered(f"{hook.command[0]} can't be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(hook.timeout_ms / 1000):
            _, said = await process.communicate(body)
    except TimeoutError:
        raise NotDelivered(f"{hook.command[0]} took over {hook.timeout_ms} ms") from None
    finally:
        if process.returncode is None:
            _kill_group(process.pid)
            await process.wait()
    if process.returncode:
        last = said.decode(errors="replace").strip()[-OUTPUT_SHOWN_MAX:]
        raise NotDelivered(f"{hook.command[0]} exited with {process.returncode}: {last}")


def _kill_group(leader: int) -> None:
    """End a command with all that it started; it leads a session of its own."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it ended just now


def _post(hook: Hook, key: str, body: bytes) -> None:
    request = urllib.request.Request(
        hook.url,
        data=body,
        method="POST",
        headers={
            "Content-Type": "application/json",
            "User-Agent": "meterd",
            KEY_HEADER: key,
            SIGNATURE_HEADER: signature(hook.secret, body),
        },
    )
    try:
        # A redirect would be followed as a GET without the body; urllib raises for other
        # statuses beyond 299 by itself.
        with _OPENER.open(request, timeout=hook.timeout_ms / 1000):
            return
    except urllib.error.HTTPError as error:
        error.close()
        raise NotDelivered(f"the webhook answered {error.code}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise NotDelivered(f"the webhook can't be reached: {reason}") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect as the error it is."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)
