"""What a process decides by itself, from what was lent to it."""

from __future__ import annotations

import gc
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from meterd_middleware.lease import Denied, LeasedReservation
from meterd_proto.v1 import quota_pb2
from tests.quota.counterpart import MINUTE, SECOND, Counterpart, Given

if TYPE_CHECKING:
    from types import FrameType


def test_a_first_call_asks_and_the_next_ones_do_not() -> None:
    """The round trip is the first call's alone."""
    desk = Counterpart(tokens=100_000)

    for _ in range(20):
        desk.call().settle(100, 50)

    assert len(desk.sent("wanted")) == 1


def test_a_reply_is_taken_for_1024_tokens_before_there_are_replies() -> None:
    """`max_tokens` of 64,000 is what hardly any call uses."""
    desk = Counterpart(tokens=100_000)

    assert desk.call(100, 64_000).tokens == 1_124
    assert desk.call(100, None).tokens == 1_124
    assert desk.call(100, 300).tokens == 400


def test_a_reply_is_taken_for_the_95th_percentile_of_the_last_64() -> None:
    """61 small replies and three large ones: the 61st of 64 decides."""
    desk = Counterpart(tokens=10_000_000)
    for reply in [9_000] * 64 + [200] * 61 + [5_000] * 3:
        desk.call(100, 64_000).settle(100, reply)

    assert desk.call(100, 64_000).tokens == 300
    assert desk.call(100, 50).tokens == 150


def test_replies_are_kept_by_client_and_model() -> None:
    """A model that writes novels says nothing of another."""
    desk = Counterpart(tokens=10_000_000)
    for _ in range(64):
        desk.call(100, 64_000, model="novelist").settle(100, 30_000)

    assert desk.call(100, 64_000, model="classifier").tokens == 1_124
    assert desk.call(100, 64_000, client="other", model="novelist").tokens == 1_124
    assert desk.call(100, 64_000, model="novelist").tokens == 30_100


def test_the_ceiling_mode_reserves_all_that_the_reply_may_have() -> None:
    """Then no call can use more than was held for it."""
    desk = Counterpart(tokens=1_000_000, ceiling=True)
    desk.call().release()

    assert desk.call(100, 64_000).tokens == 64_100


def test_a_client_without_limit_is_never_asked_for_again_while_its_answer_holds() -> None:
    """Nothing limits it: no lease, no reservation, nothing to settle."""
    desk = Counterpart(hard=False)

    for _ in range(100):
        assert desk.call().lease_id == 0

    assert len(desk.sent("wanted")) == 1


def test_a_denial_is_kept_and_names_the_quota() -> None:
    """A client that is refused a thousand times a second asks the daemon once."""
    desk = Counterpart(denies=True)
    desk.denial = quota_pb2.Denial(
        rule="client acme", plan="starter", limit=2_000, used=1_900, leased=0, remaining=100,
        valid_for_ms=60_000, quota_version=7, period_end_unix_ns=5,
    )  # fmt: skip

    refused = [desk.try_call(100, 400) for _ in range(1_000)]

    assert refused[-1] == Denied(
        client="acme", project="", model="gpt-4o", rule="client acme", plan="starter",
        limit=2_000, used=1_900, leased=0, remaining=100, requested=500, period_start_unix_ns=0,
        period_end_unix_ns=5, quota_version=7, holders="", reason="quota",
    )  # fmt: skip
    assert len(desk.sent("wanted")) == 1


def test_a_smaller_call_asks_again_after_a_denial() -> None:
    """The last tokens of a quota can be used by whoever fits them."""
    desk = Counterpart(denies=True)
    desk.denial = quota_pb2.Denial(remaining=100, valid_for_ms=60_000)
    assert isinstance(desk.try_call(100, 400), Denied)

    desk.denies, desk.tokens = False, 90

    assert desk.call(40, 50).lease_id


@pytest.mark.parametrize("what", ["time", "revocation", "revocation of all", "connection"])
def test_a_denial_ends_with(what: str) -> None:
    """By its time, by a change, or because a change may have been missed."""
    desk = Counterpart(denies=True)
    assert isinstance(desk.try_call(), Denied)
    desk.denies = False

    if what == "time":
        desk.clock.advance(MINUTE)
    elif what == "revocation":
        desk.revoke("acme")
    elif what == "revocation of all":
        desk.revoke()
    else:
        desk.leases.disconnected()
        desk.leases.connected()

    assert desk.call().lease_id


def test_a_lease_is_renewed_in_the_background_before_it_runs_out() -> None:
    """No call after the first has to wait, however many there are."""
    desk = Counterpart(tokens=10_000)
    desk.call().settle(100, 100)
    desk.is_answering = False

    while len(desk.sent("wanted")) < 2:
        desk.call().settle(100, 400)
        desk.pump()

    assert sum(lease.available for lease in desk.leases._stream.leases.values()) > 500


def test_what_is_asked_for_grows_with_what_is_used() -> None:
    """A busy process is lent what it uses in half a minute, not a call's worth at a time."""
    desk = Counterpart(tokens=100_000)
    desk.call()
    first = desk.sent("wanted")[0].wanted

    for _ in range(300):
        desk.clock.advance(SECOND // 100)
        desk.call().settle(100, 400)

    assert first.tokens == 500
    assert desk.sent("wanted")[-1].wanted.usual_tokens > 3 * first.usual_tokens


def test_a_call_that_does_not_fit_gives_back_the_rest_before_it_asks() -> None:
    """The daemon then finds it: the last tokens are not split between two pockets."""
    desk = Counterpart(tokens=800)
    desk.call(100, 400).settle(100, 400)
    desk.tokens = 5_000

    desk.call(100, 900)
    desk.pump()

    kinds = [request.WhichOneof("message") for request in desk.received]
    assert kinds[-3:] == ["reduced", "wanted", "released"] or kinds[-3:] == [
        "reduced",
        "released",
        "wanted",
    ]
    assert desk.sent("reduced")[0].reduced.tokens == 500


def test_expiry_stops_new_reservations_and_nothing_else() -> None:
    """A stream may outlive its lease: it settles in it all the same."""
    desk = Counterpart(tokens=10_000, term_ms=60_000)
    held = desk.call()
    desk.clock.advance(2 * MINUTE)

    later = desk.call()
    held.settle(100, 300)
    desk.leases.record_appended(held.lease_id, 12)
    desk.pump()

    assert later.lease_id != held.lease_id
    released = desk.sent("released")[-1].released
    assert (released.lease_id, released.last_sequence) == (held.lease_id, 12)


def test_a_lease_is_released_only_when_its_last_call_has_ended() -> None:
    """Until then its tokens are spoken for."""
    desk = Counterpart(tokens=10_000)
    first, second = desk.call(), desk.call()
    first.settle(100, 100)

    desk.revoke()
    desk.pump()
    reduced = desk.sent("reduced")[-1].reduced

    assert reduced.tokens == 200 + second.tokens
    assert not desk.sent("released")
    second.settle(100, 100)
    desk.pump()
    assert desk.sent("released")[-1].released.lease_id == first.lease_id


def test_a_closed_lease_gives_back_what_ends_smaller_than_it_was_held() -> None:
    """One long stream must not keep what the sixty beside it did not use."""
    desk = Counterpart(tokens=100_000)
    short = [desk.call() for _ in range(60)]
    long = desk.call()
    desk.revoke()

    for call in short:
        call.settle(10, 10)
    desk.pump()

    assert desk.sent("reduced")[-1].reduced.tokens == 60 * 20 + long.tokens


def test_what_lies_idle_goes_back() -> None:
    """Another process may need it."""
    desk = Counterpart(tokens=10_000)
    desk.call().settle(100, 100)

    desk.clock.advance(11 * MINUTE)
    desk.pump()
    desk.pump()

    assert len(desk.sent("released")) == 1


def test_everything_goes_back_at_the_end() -> None:
    """A process that closes holds nothing."""
    desk = Counterpart(tokens=10_000)
    for client in ("a", "b", "c"):
        desk.call(client=client).settle(1, 1)

    desk.leases.close()
    desk.pump()

    assert len(desk.sent("released")) == 3
    assert not desk.leases._stream.leases


@pytest.mark.parametrize("plan_says", ["nothing", "allow", "reject"])
@pytest.mark.parametrize("meter_says", ["allow", "reject"])
def test_the_plan_decides_what_happens_without_the_daemon(meter_says: str, plan_says: str) -> None:
    """The Meter's value holds until the plan is known."""
    desk = Counterpart(tokens=500, given=Given(on_unreachable=meter_says))
    if plan_says != "nothing":
        desk.on_unreachable = quota_pb2.OnUnreachable.Value(f"ON_UNREACHABLE_{plan_says.upper()}")
    held = desk.call() if plan_says != "nothing" else None
    desk.leases.disconnected()

    outcome = desk.try_call(100, 5_000)

    allows = (meter_says if plan_says == "nothing" else plan_says) == "allow"
    if allows:
        assert not isinstance(outcome, Denied)
        assert outcome.lease_id == 0
    else:
        assert isinstance(outcome, Denied)
        assert outcome.reason == "unreachable"
    assert held is None or held.lease_id


def test_what_was_lent_is_used_while_the_daemon_is_away() -> None:
    """That is what it was lent beforehand for."""
    desk = Counterpart(tokens=1_500, given=Given(on_unreachable="reject"))
    desk.on_unreachable = quota_pb2.ON_UNREACHABLE_REJECT
    calls = [desk.call()]
    desk.leases.disconnected()

    calls += [desk.call(), desk.call()]

    assert all(call.lease_id == 1 for call in calls)
    assert isinstance(desk.try_call(), Denied)


def test_quotas_by_project_are_decided_by_project() -> None:
    """One project's end is not another's."""
    desk = Counterpart(tokens=10_000, for_project=True)
    desk.call(project="chatbot")
    desk.denies = True
    desk.denial = quota_pb2.Denial(valid_for_ms=60_000, for_project=True)

    assert isinstance(desk.try_call(project="writer"), Denied)
    assert desk.call(project="chatbot").lease_id == 1


def test_a_reservation_counts_its_first_end_alone() -> None:
    """Close, garbage collection and the terminal event all try."""
    desk = Counterpart(tokens=10_000)
    held = desk.call()

    held.settle(100, 100)
    held.release()
    held.settle(5_000, 5_000)
    del held
    desk.pump()

    (lease,) = desk.leases._stream.leases.values()
    assert (lease.settled, lease.reserved, lease.in_flight) == (200, 0, 0)


def test_two_threads_that_end_a_reservation_at_once_move_it_once() -> None:
    """Both may pass the first look before either has noted anything."""
    desk = Counterpart(tokens=10_000)
    held = desk.call()
    assert isinstance(held, LeasedReservation)

    held.settle(100, 100)
    desk.leases._holdings.ended.append(held)
    desk.pump()

    (lease,) = desk.leases._stream.leases.values()
    assert (lease.settled, lease.in_flight) == (200, 0)


def test_a_reservation_that_is_dropped_gives_its_tokens_back() -> None:
    """A leak is impossible by construction: losing the object is an end, too."""
    desk = Counterpart(tokens=10_000)
    cycle: list[object] = [desk.call()]
    cycle.append(cycle)

    del cycle
    gc.collect()
    desk.pump()

    (lease,) = desk.leases._stream.leases.values()
    assert (lease.available, lease.reserved, lease.in_flight) == (10_000, 0, 0)


def test_a_decision_inside_a_decision_does_not_hang() -> None:
    """A signal handler may make a call while its thread is deciding one."""
    desk = Counterpart(tokens=10_000)
    desk.call()
    inner: list[object] = []
    clock = desk.clock.monotonic_ns
    desk.leases._monotonic_ns = lambda: inner.append(desk.try_call()) or clock()  # type: ignore[func-returns-value]

    outer = desk.try_call()

    assert not isinstance(outer, Denied)
    assert outer.lease_id == 1
    assert all(getattr(each, "lease_id", None) == 0 for each in inner)


def test_an_exception_from_a_signal_handler_leaks_nothing() -> None:
    """Celery's soft time limit strikes anywhere; here at each point of a decision in turn."""
    desk = Counterpart(tokens=10_000_000)
    desk.call().release()

    struck = sum(_struck_at(desk, point) for point in range(1, 100))
    gc.collect()
    desk.pump()

    assert struck > 10
    lease = next(iter(desk.leases._stream.leases.values()))
    assert (lease.reserved, lease.in_flight) == (0, 0)
    assert desk.call().lease_id


class _Strikes(BaseException):
    """What a signal handler raises."""


def _struck_at(desk: Counterpart, point: int) -> bool:
    """Strike at the n-th place where CPython looks for signals: around calls, not in between."""
    seen = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal seen
        ours = "meterd_middleware" in frame.f_code.co_filename
        # What strikes inside __del__ is ignored by Python, and the time limit with it.
        if ours and frame.f_code.co_name not in ("__del__", "settle"):
            seen += 1
            if seen == point:
                raise _Strikes

    sys.setprofile(profile)
    try:
        desk.try_call()
    except _Strikes:
        return True
    finally:
        sys.setprofile(None)
    return False


def test_a_forked_child_starts_with_nothing() -> None:
    """It is a new producer: what is lent to its parent is its parent's."""
    desk = Counterpart(tokens=10_000)
    held = desk.call()

    desk.leases.reset_after_fork()
    held.settle(100, 100)
    desk.leases.connected()

    assert desk.call().lease_id == 2
    assert len(desk.leases._stream.leases) == 1


def test_a_hello_says_all_that_is_held() -> None:
    """What was lost with the connection comes right by it."""
    desk = Counterpart(tokens=10_000)
    open_call, closed_call = desk.call(client="a"), desk.call(client="b")
    desk.revoke("b")
    closed_call.settle(100, 100)
    desk.leases.tick()
    desk.leases.disconnected()

    desk.leases.connected()
    request = desk.leases.hello(quota_pb2.LeaseHello(last_sequence=9))

    (held,) = request.hello.held
    assert (held.lease_id, held.tokens, held.client) == (open_call.lease_id, 10_000, "a")
    assert held.expires_in_ms > 0


def test_a_grant_that_nobody_awaits_goes_straight_back() -> None:
    """An answer to a question of an earlier connection."""
    desk = Counterpart()

    desk.leases.on_response(
        quota_pb2.LeaseResponse(grant=quota_pb2.Lease(request=99, lease_id=5, tokens=10))
    )
    desk.pump()

    assert [request.released.lease_id for request in desk.sent("released")] == [5]


def test_a_host_that_slept_trusts_no_lease_of_before() -> None:
    """Its monotonic clock stood still while the period may have ended."""
    desk = Counterpart(tokens=10_000)
    desk.call().settle(1, 1)

    desk.clock.wall_ns += 60 * MINUTE
    desk.pump()
    desk.pump()

    assert len(desk.sent("released")) == 1


def test_strangers_cannot_make_the_process_grow() -> None:
    """Ids come from the outside where headers are trusted."""
    desk = Counterpart(hard=False)
    from meterd_middleware.holdings import ACCOUNTS_MAX

    for number in range(ACCOUNTS_MAX + 10):
        desk.call(client=f"stranger-{number}")

    assert len(desk.leases._holdings.accounts) <= ACCOUNTS_MAX


def test_figures_hold_with_many_threads() -> None:
    """Eight threads, one lease: nothing is drawn twice, nothing is lost."""
    desk = Counterpart(tokens=8 * 500 * 500)

    def work() -> None:
        for _ in range(500):
            desk.call().settle(100, 300)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    desk.pump()

    leases = desk.leases._stream.leases.values()
    assert sum(lease.settled for lease in leases) == 8 * 500 * 400
    assert all((lease.reserved, lease.in_flight) == (0, 0) for lease in leases)
    assert all(lease.available == lease.tokens - lease.settled for lease in leases)
