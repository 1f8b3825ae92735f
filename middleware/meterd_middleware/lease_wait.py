"""One call's wait for the daemon's answer: bounded, woken by every answer for its client.

`block` and `sleep` are the same loop for threads and for event loops. A call gives up at its
deadline, which an answer that others used up moves on, a few times at most.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from meterd_middleware.holding import Holding

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd_middleware.lease import Denied, Reservation

ROUNDS_MAX = 4
"""Answers that a call may see used up by others before it stops waiting."""
_SECOND_NS = 10**9

T = TypeVar("T")


class Waiting(Protocol):
    """What a wait needs of `Leases`."""

    def now(self) -> int: ...
    def deadline_ns(self, asked_ns: int) -> int: ...
    def join(self, holding: Holding, notify: Callable[[], object], tokens: int) -> None: ...
    def leave(self, holding: Holding, notify: Callable[[], object], tokens: int) -> None: ...
    def give_up(
        self, holding: Holding, client: str, project: str, model: str, tokens: int
    ) -> Reservation | Denied: ...


class Wait(Generic[T]):
    """A call whose decision is `decide`: the holding, for as long as it has to wait."""

    def __init__(
        self,
        leases: Waiting,
        holding: Holding,
        tags: tuple[str, str, str],
        tokens: int,
        decide: Callable[[], T | Holding],
    ) -> None:
        self._leases = leases
        self._holding = holding
        self._tags = tags
        self._tokens = tokens
        self._decide = decide
        self._asked_ns = leases.now()
        self._rounds = ROUNDS_MAX

    def block(self) -> T | Reservation | Denied:
        """Wait in this thread."""
        answered = threading.Event()
        notify = answered.set
        self._leases.join(self._holding, notify, self._tokens)
        try:
            # Decided once more after joining, so that no answer is missed in between.
            while isinstance(found := self._decide(), Holding):
                left_s = self._left_s()
                if left_s <= 0 or not answered.wait(left_s):
                    return self._give_up(found)
                answered.clear()
            return found
        finally:
            self._leases.leave(self._holding, notify, self._tokens)

    async def sleep(self) -> T | Reservation | Denied:
        """Wait in this task; its event loop goes on."""
        import asyncio  # only an async app has paid for it already

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # trio's: it blocks, for lease_timeout_ms at most
            return self.block()
        answered = asyncio.Event()

        def notify() -> None:
            try:
                loop.call_soon_threadsafe(answered.set)
            except RuntimeError:  # the loop was closed under the call
                pass

        self._leases.join(self._holding, notify, self._tokens)
        try:
            while isinstance(found := self._decide(), Holding):
                left_s = self._left_s()
                try:
                    async with asyncio.timeout(left_s):
                        await answered.wait()
                except TimeoutError:
                    return self._give_up(found)
                answered.clear()
            return found
        finally:
            self._leases.leave(self._holding, notify, self._tokens)

    def _left_s(self) -> float:
        """Seconds left to wait, of a deadline that each answer in vain moves on."""
        now = self._leases.now()
        if self._rounds < ROUNDS_MAX and self._rounds > 0:
            self._asked_ns = now
        self._rounds -= 1
        return (self._leases.deadline_ns(self._asked_ns) - now) / _SECOND_NS

    def _give_up(self, holding: Holding) -> Reservation | Denied:
        return self._leases.give_up(holding, *self._tags, self._tokens)
