"""What the exchange needs of others: somewhere to put records, somebody who decides.

In an app these are the `Shipper` and the `Leases`; in the agency's own tests two small
classes of `testing.py`. Nothing else stands between metering and the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from meterd_middleware.lease import Denied, Reservation
    from meterd_middleware.spool import OpenCall
    from meterd_middleware.usage import UsageRecord


class Sink(Protocol):
    """Where records go."""

    def open_call(self, call: OpenCall) -> int:
        """Write that a call is about to be sent; its number, 0 if it could not be written."""
        ...

    def append(self, record: UsageRecord, closes: int = 0) -> int:
        """Write a finished record; its sequence, 0 if it was refused and counted."""
        ...

    def append_later(self, record: UsageRecord, closes: int = 0) -> None:
        """Hand over a finished record from a finaliser: no lock, no I/O."""
        ...

    def note_untagged(self, place: str) -> None:
        """Count a call that names no client, by its place in the app's code."""
        ...

    def note_fault(self, kind: str, message: str) -> None:
        """Count a fault of the middleware that was kept from the app."""
        ...

    def flush(self, timeout: float) -> bool:
        """Wait until everything appended is durable in meterd; False after `timeout` seconds."""
        ...

    def close(self, timeout: float) -> None:
        """Ship what can be shipped within `timeout` seconds, then end the thread."""
        ...


class Quota(Protocol):
    """Who decides whether a call may start."""

    def reserve(
        self,
        client: str,
        project: str,
        model: str,
        input_tokens: int,
        max_output_tokens: int | None,
    ) -> Reservation | Denied:
        """Hold tokens for a call, or say why it may not start."""
        ...

    async def areserve(
        self,
        client: str,
        project: str,
        model: str,
        input_tokens: int,
        max_output_tokens: int | None,
    ) -> Reservation | Denied:
        """The same, awaiting the first lease of a client."""
        ...

    def check(self, client: str, project: str, model: str, tokens: int) -> Denied | None:
        """Why a call of `tokens` would be refused, or None."""
        ...

    async def acheck(self, client: str, project: str, model: str, tokens: int) -> Denied | None:
        """The same, awaiting the first lease of a client."""
        ...
