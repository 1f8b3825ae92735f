"""What one process remembers between calls: background responses, server-side histories, repeats.

Each memory is bounded in entries and in time and forgets its oldest first; forgetting costs
an estimate or a second count of a refusal, never a token that was used. Plain dictionaries
under the interpreter's own lock: these are touched by finalisers, which may take no lock.
"""

from __future__ import annotations

from typing import Generic, TypeVar

ENTRIES_MAX = 4096

Kept = TypeVar("Kept")


class Memory(Generic[Kept]):
    """A dictionary that forgets: the oldest beyond `entries_max`, and what is older than `keep_s`.

    Safe from any thread and from finalisers: every step is one dictionary operation.
    """

    __slots__ = ("_entries_max", "_held", "_keep_ns")

    def __init__(self, keep_s: int, entries_max: int = ENTRIES_MAX) -> None:
        self._held: dict[str, tuple[int, Kept]] = {}
        self._keep_ns = keep_s * 10**9
        self._entries_max = entries_max

    def __len__(self) -> int:
        return len(self._held)

    def put(self, key: str, value: Kept, now_ns: int) -> None:
        """Remember `value` from now on; the newest under a key replaces the former."""
        self._held.pop(key, None)
        while len(self._held) >= self._entries_max:
            try:
                self._held.pop(next(iter(self._held)), None)
            except (StopIteration, RuntimeError):  # another thread was at it
                break
        self._held[key] = (now_ns, value)

    def get(self, key: str, now_ns: int) -> Kept | None:
        """What is remembered under `key`, unless it is too old."""
        held = self._held.get(key)
        return held[1] if held is not None and now_ns - held[0] <= self._keep_ns else None

    def pop(self, key: str, now_ns: int) -> Kept | None:
        """Like `get`, and forget it: of two threads one alone gets it."""
        held = self._held.pop(key, None)
        return held[1] if held is not None and now_ns - held[0] <= self._keep_ns else None
