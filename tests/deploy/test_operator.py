"""What an operator asks over gRPC, and the status of what can't be: one clear sentence each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias

import grpc
import pytest

from meterd import errors
from meterd.hooks import Announcements
from meterd.service.records import TRANSACTIONS_WAITING_MAX, Shown, Tail
from meterd.service.status import status_of
from meterd.store.sqlite import open_store
from meterd_proto.v1 import admin_pb2, admin_pb2_grpc, rollup_pb2, rollup_pb2_grpc
from tests.deploy.asking import WITHIN_S, apply, channel, rollup, ship, status, used
from tests.support.builders import usage, wire
from tests.support.clock import ManualClock
from tests.support.daemon import start_daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon

Admin: TypeAlias = admin_pb2_grpc.AdminServiceStub

CONFIG = """\
[agency]
timezone = "America/New_York"
[plans.starter]
type = "retainer"
fee = "500"
included_tokens = "2M"
overage = "none"
[plans.managed]
type = "cost_plus"
markup = "30%"
[clients.acme-corp]
plan = "starter"
[clients.bigco-inc]
plan = "managed"
"""


@pytest.fixture
def daemon(place: Path) -> Iterator[Daemon]:
    """A daemon with a client on a retainer and one without a quota."""
    with start_daemon(place, config=CONFIG) as daemon:
        yield daemon


def asked(daemon: Daemon, ask: Callable[[Admin], object]) -> tuple[grpc.StatusCode, str]:
    """How a request ends: its status and sentence."""
    with channel(daemon) as opened:
        try:
            ask(Admin(opened))
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def grant(client: str, tokens: int, why: str = "launch week") -> Callable[[Admin], object]:
    """A request for more tokens."""
    request = admin_pb2.GrantRequest(client=client, tokens=tokens, why=why, who="ann")
    return lambda admin: admin.Grant(request, timeout=WITHIN_S)


def records(client: str, first: str, last: str) -> Callable[[Admin], object]:
    """A request for the rows of some days."""
    request = admin_pb2.RecordsRequest(client=client, from_day=first, to_day=last)
    return lambda admin: list(admin.Records(request, timeout=WITHIN_S))


@pytest.mark.parametrize(
    ("ask", "code", "said"),
    [
        (grant("acme-corp", 0), "INVALID_ARGUMENT", "0 tokens can't be granted"),
        (grant("acme-corp", -5), "INVALID_ARGUMENT", "-5 tokens can't be granted"),
        (grant("acme-corp", 2**62), "INVALID_ARGUMENT", "can't be granted"),
        (grant("acme-corp", 5, " "), "INVALID_ARGUMENT", "say why"),
        (grant("acme-corp", 5, "x" * 3_000), "INVALID_ARGUMENT", "at most 2000 characters"),
        (grant("", 5), "INVALID_ARGUMENT", "name the client"),
        (grant("bigco-inc", 5), "FAILED_PRECONDITION", "has no quota"),
        (grant("stranger", 5), "FAILED_PRECONDITION", "has no quota"),
        (records("", "2026-11-01", "2026-11-02"), "INVALID_ARGUMENT", "name the client"),
        (records("a", "2026-11-31", "2026-12-02"), "INVALID_ARGUMENT", "is no day"),
        (records("a", "2026-11-02", "2026-11-01"), "INVALID_ARGUMENT", "lies before 2026-11-02"),
        (records("a", "2026-11-01", "2026-11-02"), "OK", ""),
    ],
)
def test_what_cannot_be_asked_is_one_sentence_and_the_right_status(
    daemon: Daemon, ask: Callable[[Admin], object], code: str, said: str
) -> None:
    """`meterctl` prints it as it is."""
    found, sentence = asked(daemon, ask)

    assert found.name == code
    assert said in sentence


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (rollup_pb2.RollupRequest(period="2026-13"), "'2026-13' is no month"),
        (rollup_pb2.RollupRequest(by=[rollup_pb2.DIMENSION_UNSPECIFIED]), "by client, project"),
        (rollup_pb2.RollupRequest(by=[rollup_pb2.DIMENSION_DAY] * 2), "and day once"),
    ],
)
def test_a_rollup_of_what_is_no_month_or_key_is_refused(
    daemon: Daemon, request_: rollup_pb2.RollupRequest, said: str
) -> None:
    """INVALID_ARGUMENT: asking again gets the same answer."""
    with channel(daemon) as opened:
        stub = rollup_pb2_grpc.RollupServiceStub(opened)
        with pytest.raises(grpc.RpcError) as raised:
            list(stub.Query(request_, timeout=WITHIN_S))

    assert isinstance(raised.value, grpc.Call)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in (raised.value.details() or "")


def test_a_forgotten_client_leaves_its_sums(daemon: Daemon) -> None:
    """Its name is replaced; the month's total is what it was."""
    ship(daemon, used("stranger", datetime.now(UTC)))
    request = admin_pb2.ForgetRequest(client="stranger")

    with channel(daemon) as opened:
        answer = Admin(opened).Forget(request, timeout=WITHIN_S)

    found = rollup(daemon)
    assert set(found) == {"", answer.replaced_by}
    assert found[""].tokens == 1_000
    listed = asked(daemon, lambda admin: admin.Forget(admin_pb2.ForgetRequest(client="acme-corp")))
    assert listed[0] is grpc.StatusCode.FAILED_PRECONDITION
    nobody = asked(daemon, lambda admin: admin.Forget(admin_pb2.ForgetRequest(client="nobody")))
    assert nobody[0] is grpc.StatusCode.NOT_FOUND


def test_what_came_too_late_waits_until_it_is_accepted(daemon: Daemon) -> None:
    """Named by `status` and the rollup's header, in no sum before."""
    moment = datetime.now(UTC) - timedelta(days=60)
    month = f"{moment - timedelta(hours=5):%Y-%m}"
    ship(daemon, used("acme-corp", moment))
    assert rollup(daemon, month)[""].tokens == 0
    assert [(late.client, late.records) for late in status(daemon).late_clients] == [
        ("acme-corp", 1)
    ]

    with channel(daemon) as opened:
        request = admin_pb2.AcceptLateRequest(client="acme-corp")
        accepted = Admin(opened).AcceptLate(request, timeout=WITHIN_S)

    assert (accepted.records, accepted.tokens) == (1, 1_000)
    assert rollup(daemon, month)[""].tokens == 1_000
    assert status(daemon).late_records == 0


def test_costs_are_in_dollars_until_somebody_says_what_a_dollar_is(daemon: Daemon) -> None:
    """The exact cost is converted, unrounded; the header names the currency."""
    euros = CONFIG.replace("[agency]", '[agency]\ncurrency = "EUR"')
    ship(daemon, used("acme-corp", datetime.now(UTC), 1_000_000))
    dollars = Decimal(rollup(daemon)[""].cost)

    assert apply(daemon, euros).applied
    assert (_currency(daemon), Decimal(rollup(daemon)[""].cost)) == ("USD", dollars)
    assert apply(daemon, euros + '[[exchange_rates]]\nrate = "0.9215"\n').applied

    assert _currency(daemon) == "EUR"
    assert Decimal(rollup(daemon)[""].cost) == dollars * Decimal("0.9215")


def _currency(daemon: Daemon) -> str:
    with channel(daemon) as opened:
        stub = rollup_pb2_grpc.RollupServiceStub(opened)
        first, *_ = stub.Query(rollup_pb2.RollupRequest(), timeout=WITHIN_S)
    return first.header.currency


async def test_a_reader_too_slow_for_its_tail_is_told_how_much_it_missed(place: Path) -> None:
    """Bounded: the newest are kept, what was skipped is counted, nobody waits for it."""
    clock, announcements = ManualClock(), Announcements()
    store = await open_store(place, clock)
    try:
        with Tail(store, announcements, "") as tail:
            for number in range(TRANSACTIONS_WAITING_MAX + 10):
                announcements.announce("acme-corp", f"event {number}")

            event = await anext(tail.events(Shown("USD", Decimal(1))))

        assert (event.event, event.skipped) == ("event 10", 10)
    finally:
        await store.close()


async def test_a_tail_of_one_client_hears_of_no_other(place: Path) -> None:
    """Records and events alike; what concerns everybody concerns it too."""
    clock, announcements = ManualClock(), Announcements()
    store = await open_store(place, clock)
    try:
        with Tail(store, announcements, "acme-corp") as tail:
            announcements.announce("bigco-inc", "not for us")
            announcements.announce("", "for all")
            await store.commit(wire(usage("bigco-inc"), usage("acme-corp")))
            events = tail.events(Shown("USD", Decimal(1)))

            first, second = await anext(events), await anext(events)

        assert first.event == "for all"
        assert (second.client, second.input_tokens) == ("acme-corp", 1_000)
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.NotFound("x"), grpc.StatusCode.NOT_FOUND),
        (errors.ConfigurationRefused(()), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.InvalidSetting("a", 1, "b"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.BatchBroken("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.SequenceGap("x"), grpc.StatusCode.OUT_OF_RANGE),
        (errors.NotIdentified("x"), grpc.StatusCode.UNAUTHENTICATED),
        (errors.NotAllowed("x"), grpc.StatusCode.PERMISSION_DENIED),
        (errors.NotPossibleNow("x"), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.StorageFault("x"), grpc.StatusCode.UNAVAILABLE),
        (errors.StoreBusy("x"), grpc.StatusCode.UNAVAILABLE),
        (ValueError("x"), grpc.StatusCode.INTERNAL),
    ],
)
def test_every_error_has_the_status_that_says_what_to_do_next(
    error: Exception, code: grpc.StatusCode
) -> None:
    """Refused: change something. Unavailable: send the same again. Else: our bug."""
    assert status_of(error) is code
