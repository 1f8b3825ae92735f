"""Load: a few callers that ask the app for one call after another, whatever becomes of it."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

KINDS = (
    "chat",
    "chat-stream",
    "responses-stream",
    "messages-stream",
    "messages-thread",
    "embeddings-thread",
)
"""What app.py can do."""

CLIENTS = ("acme-corp", "bigco-inc", "techstartup")
CALLERS = 8
CALL_S_MAX = 60.0
REST_S = 0.2
"""A caller whose call failed comes again so much later: the app is being killed."""


@dataclass(slots=True)
class Asked:
    """One request to the app, with moments of the monotonic clock."""

    uid: str
    kind: str
    began_ns: int
    ended_ns: int = 0
    """0: under way."""
    is_answered: bool = False
    """The app said that its call is over."""


class Load:
    """Callers in a thread of their own, paused and resumed from another."""

    def __init__(self, url: str, random: Random) -> None:
        self._url = url
        self._random = random
        self.asked: list[Asked] = []
        self._changed = threading.Condition()
        self._under_way = 0
        self._is_paused = True
        self._is_over = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")
        self._thread.start()

    @property
    def under_way(self) -> int:
        """Requests that have no answer yet."""
        with self._changed:
            return self._under_way

    @property
    def answered(self) -> int:
        """Requests that the app has answered."""
        with self._changed:
            return sum(one.is_answered for one in self.asked)

    def resume(self) -> None:
        """Ask on."""
        with self._changed:
            self._is_paused = False

    def pause(self) -> None:
        """Ask for nothing new, and wait until nothing is under way."""
        with self._changed:
            self._is_paused = True
        assert self.wait(lambda: not self._under_way), "a call does not end"

    def wait(self, is_so: Callable[[], bool], timeout_s: float = CALL_S_MAX) -> bool:
        """Wait until something is so, looked at after every request."""
        with self._changed:
            return self._changed.wait_for(is_so, timeout_s)

    def wait_for_answers(self, count: int) -> bool:
        """Wait for so many more answers."""
        end = self.answered + count
        return self.wait(lambda: sum(one.is_answered for one in self.asked) >= end)

    def end(self) -> None:
        """Stop for good."""
        self.pause()
        self._is_over = True
        self._thread.join(CALL_S_MAX)

    async def _run(self) -> None:
        # A connection a request: uvicorn's workers then share them out by chance.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with (
            httpx.AsyncClient(base_url=self._url, limits=limits, timeout=CALL_S_MAX) as client,
            asyncio.TaskGroup() as callers,
        ):
            for _ in range(CALLERS):
                callers.create_task(self._call_on(client))

    async def _call_on(self, client: httpx.AsyncClient) -> None:
        while not self._is_over:
            asked = self._begin()
            if asked is None or not await self._ask(client, asked):
                await asyncio.sleep(REST_S)

    def _begin(self) -> Asked | None:
        with self._changed:
            if self._is_paused:
                return None
            kind = self._random.choice(KINDS)
            asked = Asked(f"call-{len(self.asked)}", kind, time.monotonic_ns())
            self.asked.append(asked)
            self._under_way += 1
            return asked

    async def _ask(self, client: httpx.AsyncClient, asked: Asked) -> bool:
        headers = {
            "X-Client-ID": self._random.choice(CLIENTS),
            "X-Project-ID": asked.uid,
            "X-Provider-Do": _wish(self._random),
        }
        try:
            response = await client.post(f"/call/{asked.kind}", headers=headers)
            is_answered = response.status_code == 200
        except httpx.HTTPError:
            is_answered = False
        with self._changed:
            asked.ended_ns = time.monotonic_ns()
            asked.is_answered = is_answered
            self._under_way -= 1
            self._changed.notify_all()
        return is_answered


def _wish(random: Random) -> str:
    """How the provider answers: at once, slowly, chunk by chunk, or with a failure first."""
    return random.choice(
        (
            "",
            f"wait_ms={random.randrange(5, 200)}",
            f"delay_ms={random.randrange(1, 10)}",
            f"wait_ms={random.randrange(5, 100)},delay_ms={random.randrange(1, 10)}",
            "status=503,times=1",
        )
    )
