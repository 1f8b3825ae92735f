"""What waits for the writer: batches and jobs, each with the future that its sender awaits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from meterd.ids import Sequence
    from meterd.store.batch import UnreadBatch
    from meterd.store.engine import Engine

T = TypeVar("T")


class Waiting(Generic[T]):
    """A request that waits for its transaction, and the future that its sender awaits."""

    __slots__ = ("answer", "fault", "future", "is_alone", "is_hurried")

    def __init__(
        self, future: asyncio.Future[T], *, is_alone: bool = False, is_hurried: bool = False
    ) -> None:
        self.future = future
        self.is_alone = is_alone
        self.is_hurried = is_hurried
        self.answer: T | None = None
        self.fault: BaseException | None = None

    def run(self, engine: Engine) -> T:
        """Do what was asked, within the transaction."""
        raise NotImplementedError


class Job(Waiting[T]):
    """A function that waits."""

    __slots__ = ("job",)

    def __init__(
        self,
        job: Callable[[Engine], T],
        future: asyncio.Future[T],
        *,
        is_alone: bool,
        is_hurried: bool,
    ) -> None:
        super().__init__(future, is_alone=is_alone, is_hurried=is_hurried)
        self.job = job

    def run(self, engine: Engine) -> T:
        return self.job(engine)


class BatchJob(Waiting["Sequence"]):
    """A batch that waits."""

    __slots__ = ("batch",)

    def __init__(self, batch: UnreadBatch, future: asyncio.Future[Sequence]) -> None:
        super().__init__(future)
        self.batch = batch

    def run(self, engine: Engine) -> Sequence:
        return engine.ledger.add(self.batch.read())

    def set_aside(self, reason: str) -> bool:
        """Go on with the batch's one record as bytes for the quarantine; False: it has more."""
        try:
            kept = self.batch.set_aside(reason)
        except Exception:  # the bug reaches even here: its sender is told, and keeps the segment
            return False
        if kept is None:
            return False
        self.batch = kept
        return True


def has_batch(waiting: list[Waiting[object]]) -> bool:
    """Whether a batch is among them that wasn't refused: one behind a fault is only a gap."""
    return any(isinstance(request, BatchJob) and request.fault is None for request in waiting)
