"""The provider's own ledger: one row a request it answered, readable while it runs.

Counts are in the words of a usage record: `input_tokens` and `output_tokens` are wholes, the
others parts of them, whatever the dialect's fields were called. Safe to read from any thread.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of one answer, as this provider would bill them."""

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_long_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.input_tokens + other.input_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.cache_write_long_tokens + other.cache_write_long_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(slots=True)
class ServedCall:
    """One request and how its answer went. Changed by the server alone, until `ending` is set."""

    number: int
    request_id: str
    """`X-Request-ID` (or `X-Request`) as received; empty: none."""
    dialect: str
    method: str
    path: str
    model: str
    """The response's model: the requested one without its wish."""
    is_stream: bool
    status: int
    counts: Counts
    """What the whole answer costs; nothing for an error or a free path."""
    response_id: str = ""
    asked_for_usage: bool = False
    received_headers: dict[str, str] = field(default_factory=dict)
    """Lower-case names; the last of several wins."""
    received_body: bytes = b""
    sent_body: bytes = b""
    """The body as it went onto the wire, content-encoding included, chunk framing not."""
    sent_output_tokens: int = 0
    """Of `counts.output_tokens`, what was on the wire when it ended."""
    ending: str = ""
    """"" while it runs, then "finished", "abandoned" (the caller left), "cut" (by wish)."""


class Ledger:
    """What was served, in order of arrival."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._served: list[ServedCall] = []

    @property
    def served(self) -> list[ServedCall]:
        """Every request so far, running ones too; a copy of the list."""
        with self._changed:
            return list(self._served)

    def open(self, call: ServedCall) -> None:
        """Enter a request that is about to be answered."""
        with self._changed:
            self._served.append(call)
            self._changed.notify_all()

    def note_sent(self, call: ServedCall, body: bytes, output_tokens: int) -> None:
        """Note that a part of the body has been written."""
        with self._changed:
            call.sent_body += body
            call.sent_output_tokens += output_tokens
            self._changed.notify_all()

    def close(self, call: ServedCall, ending: str) -> None:
        """Note how it ended."""
        with self._changed:
            call.ending = ending
            self._changed.notify_all()

    def wait_until(
        self, is_true: Callable[[list[ServedCall]], bool], timeout_s: float = 10
    ) -> list[ServedCall]:
        """Wait until what was served satisfies a predicate; raises TimeoutError with the state."""
        with self._changed:
            if not self._changed.wait_for(lambda: is_true(self._served), timeout_s):
                states = [(c.number, c.path, c.status, c.ending) for c in self._served]
                raise TimeoutError(f"the provider's ledger still says {states}")
            return list(self._served)

    def counts(self, *, ending: str | None = None) -> Counts:
        """The sum over all requests, or over those that ended so."""
        total = Counts()
        for call in self.served:
            if ending is None or call.ending == ending:
                total += call.counts
        return total

    def by_model(self) -> dict[str, Counts]:
        """Sums a model, of requests that cost anything."""
        sums: defaultdict[str, Counts] = defaultdict(Counts)
        for call in self.served:
            if call.counts.tokens:
                sums[call.model] += call.counts
        return dict(sums)

    def by_request_id(self) -> dict[str, Counts]:
        """Sums for each `X-Request-ID`, of requests that cost anything."""
        sums: defaultdict[str, Counts] = defaultdict(Counts)
        for call in self.served:
            if call.counts.tokens:
                sums[call.request_id] += call.counts
        return dict(sums)

    def clear(self) -> None:
        """Forget everything, for a test that counts from here on."""
        with self._changed:
            self._served.clear()

    def to_json(self) -> dict[str, object]:
        """What `GET /ledger` answers: rows without bodies, and the sums."""
        rows = []
        for call in self.served:
            row = asdict(call)
            del row["received_body"], row["sent_body"]
            rows.append(row)
        return {
            "served": rows,
            "by_model": {name: asdict(sums) for name, sums in self.by_model().items()},
            "by_request_id": {name: asdict(sums) for name, sums in self.by_request_id().items()},
            "total": asdict(self.counts()),
        }
