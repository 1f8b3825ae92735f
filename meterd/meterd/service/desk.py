"""One producer's open lease stream, seen from the lender: where its answers are put."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meterd.ids import ProducerId
    from meterd_proto.v1 import quota_pb2

ANSWERS_WAITING_MAX = 4_096
"""A producer that reads its answers more slowly than that is cut off, and says hello again."""


@dataclass(eq=False, slots=True)
class Desk:
    """Where one producer is answered, until its stream ends or a newer one is there."""

    producer: ProducerId
    name: str
    pid: int
    is_open: bool = True
    _answers: asyncio.Queue[quota_pb2.LeaseResponse | None] = field(
        default_factory=lambda: asyncio.Queue(ANSWERS_WAITING_MAX)
    )

    def answer(self, response: quota_pb2.LeaseResponse) -> None:
        """Have something sent, unless the stream has ended."""
        if not self.is_open:
            return
        try:
            self._answers.put_nowait(response)
        except asyncio.QueueFull:
            self.close()

    def close(self) -> None:
        """End the stream: a newer one of its producer is there, or it doesn't read."""
        self.is_open = False
        while not self._answers.empty():
            self._answers.get_nowait()
        self._answers.put_nowait(None)

    async def next_answer(self) -> quota_pb2.LeaseResponse | None:
        """The next thing to send; None once the desk was closed."""
        return await self._answers.get()
