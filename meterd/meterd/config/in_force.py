"""The configuration in force: one holder, read by every service, told to who must follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.config.agency import Agency

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.errors import Mistake


class InForce:
    """What the daemon goes by now. Belongs to the event loop; `agency` is frozen."""

    def __init__(self) -> None:
        self.agency = Agency()
        self.version = 0
        """The stored version's number; 0: none was ever applied."""
        self.source = ""
        self.applied_at_unix_ns = 0
        self.refused: tuple[Mistake, ...] = ()
        """Of the file given at start, if it was refused."""
        self._followers: list[Callable[[Agency], None]] = []

    def follow(self, told: Callable[[Agency], None]) -> None:
        """Have `told` called with each configuration that comes into force from now on."""
        self._followers.append(told)

    def set(self, agency: Agency, version: int, source: str, applied_at_unix_ns: int) -> None:
        """Put a stored version into force and tell the followers."""
        self.agency = agency
        self.version = version
        self.source = source
        self.applied_at_unix_ns = applied_at_unix_ns
        for told in self._followers:
            told(agency)
