"""The one wait there is: bounded, and never on an event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

from meterd_middleware.lease import Denied, Reservation
from meterd_proto.v1 import quota_pb2
from tests.quota.counterpart import Counterpart, Given

if TYPE_CHECKING:
    from collections.abc import Callable


class _Slow(Counterpart):
    """A daemon on another thread, which answers when it is told to, on real clocks."""

    def __post_init__(self) -> None:
        self.asked = threading.Event()
        super().__post_init__()
        self.leases._monotonic_ns = time.monotonic_ns

    def wake(self) -> None:
        self.woken += 1
        self.asked.set()

    def on_its_thread(self, act: Callable[[], object]) -> threading.Thread:
        """Do something once a call has asked."""

        def run() -> None:
            assert self.asked.wait(10)
            act()

        thread = threading.Thread(target=run)
        thread.start()
        return thread


def _patient() -> Given:
    return Given(on_unreachable="reject", lease_timeout_ms=10_000)


def test_a_first_call_waits_for_its_answer() -> None:
    """An exhausted client is refused from its first call on."""
    desk = _Slow(given=_patient(), tokens=9_000)
    thread = desk.on_its_thread(desk.pump)

    outcome = desk.try_call()
    thread.join()

    assert isinstance(outcome, Reservation)
    assert outcome.lease_id == 1


def test_a_wait_ends_with_its_time_and_the_next_calls_do_not_wait() -> None:
    """A daemon that hangs costs one call of a client 50 ms, once."""
    desk = _Slow(given=Given(on_unreachable="allow", lease_timeout_ms=1))

    first, second = desk.try_call(), desk.try_call()

    assert isinstance(first, Reservation)
    assert first.lease_id == 0
    assert isinstance(second, Reservation)
    assert desk.leases._holdings.accounts["acme"].whole is not None
    assert desk.leases._holdings.accounts["acme"].whole.is_unanswered
    desk.pump()
    assert desk.call().lease_id == 1


def test_a_wait_ends_when_the_daemon_is_found_to_be_away() -> None:
    """No socket to connect to is an answer, too."""
    desk = _Slow(given=_patient())
    thread = desk.on_its_thread(desk.leases.disconnected)

    outcome = desk.try_call()
    thread.join()

    assert isinstance(outcome, Denied)
    assert outcome.reason == "unreachable"


def test_the_first_call_of_a_process_waits_for_the_channel_to_be_made() -> None:
    """Importing grpc takes longer than an answer; without patience an exhausted client's first
    call in each process would pass."""
    desk = _Slow(given=Given(on_unreachable="reject", lease_timeout_ms=10_000), tokens=9_000)
    desk.leases.reset_after_fork()

    def connect() -> None:
        desk.leases.connecting()
        desk.leases.connected()
        desk.pump()

    thread = desk.on_its_thread(connect)
    outcome = desk.try_call()
    thread.join()

    assert isinstance(outcome, Reservation)
    assert outcome.lease_id == 1


async def test_an_event_loop_goes_on_while_a_call_waits() -> None:
    """Two hundred other requests are being served by it."""
    desk = _Slow(given=_patient(), tokens=9_000)

    waiting = asyncio.create_task(desk.leases.areserve("acme", "", "gpt-4o", 100, 400))
    await asyncio.to_thread(desk.asked.wait, 10)
    assert not waiting.done()
    await asyncio.to_thread(desk.pump)
    outcome = await waiting

    assert isinstance(outcome, Reservation)
    assert outcome.lease_id == 1
    assert not desk.leases._waiters


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    """A user who closes the page while the lease is asked for."""
    desk = _Slow(given=_patient(), tokens=9_000)
    waiting = asyncio.create_task(desk.leases.areserve("acme", "", "gpt-4o", 100, 400))
    await asyncio.to_thread(desk.asked.wait, 10)

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    desk.pump()
    desk.leases.close()
    desk.pump()

    assert not desk.leases._waiters
    assert not desk.leases._stream.leases


async def test_many_first_calls_at_once_are_one_question() -> None:
    """Sixty-four tasks start together: the lease is sized for all of them."""
    desk = _Slow(given=_patient(), tokens=0)
    calls = [
        asyncio.create_task(desk.leases.areserve("acme", "", "gpt-4o", 100, 400)) for _ in range(64)
    ]
    await asyncio.sleep(0)
    await asyncio.to_thread(desk.asked.wait, 10)

    desk.is_answering = False
    (request,) = await asyncio.to_thread(desk.pump)
    wanted = request.wanted
    desk.tokens = wanted.usual_tokens
    desk.leases.on_response(desk.answer(wanted))
    outcomes = await asyncio.gather(*calls)

    assert wanted.usual_tokens >= 64 * 500
    assert all(isinstance(each, Reservation) and each.lease_id == 1 for each in outcomes)


async def test_check_decides_as_a_call_would_and_holds_nothing() -> None:
    """`meter.check` and `refuse=` ask before the app has done any work."""
    desk = Counterpart(denies=True)
    desk.denial = quota_pb2.Denial(rule="client acme", remaining=100, valid_for_ms=60_000)

    refused = desk.leases.check("acme", "", "gpt-4o", 200)
    desk.denies, desk.tokens = False, 100
    fits = await desk.leases.acheck("acme", "", "gpt-4o", 100)

    assert isinstance(refused, Denied)
    assert (refused.rule, refused.requested) == ("client acme", 200)
    assert fits is None
    (lease,) = desk.leases._stream.leases.values()
    assert lease.available == 100
