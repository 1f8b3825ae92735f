"""The lender over real gRPC and a real ledger: what is lent, to whom, and what is refused."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import pytest

from meterd.service.threshold_watch import LOOKS_LEFT_OUT
from meterd.store.values import Grant, PeriodIndex
from meterd_proto.v1 import quota_pb2
from tests.quota.served import Served, Talk, serving
from tests.support.builders import producer_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

HARD = """
[plans.tier]
type = "retainer"
fee = "500"
included_tokens = "10k"
limit = "hard"
overage = "none"

[clients.acme]
plan = "tier"
"""
SOFT = HARD.replace('limit = "hard"', 'limit = "soft"').replace(
    'overage = "none"', 'overage_per_million = "60"'
)


@pytest.fixture
async def hard() -> AsyncIterator[Served]:
    async with serving(HARD) as served:
        yield served


async def settled(served: Served, leased: int) -> None:
    """Ask until so much is lent."""
    async with asyncio.timeout(20):
        while (await served.status("acme"))[0].leased != leased:
            pass


async def hung_up(served: Served, talk: Talk) -> None:
    """Cut a producer's stream, and ask until the service has noticed."""
    talk.call.cancel()
    async with asyncio.timeout(20):
        while talk.producer in served.servicer._lender.desks:
            await served.status("acme")


async def test_nothing_is_lent_beyond_the_quota(hard: Served) -> None:
    """What one holds, another can't have."""
    one, other = await hard.talk("web-1"), await hard.talk("web-2")

    lease = await one.lease(9_000)
    denial = await other.denial(2_000)

    assert lease.tokens == 9_000
    assert (denial.limit, denial.used, denial.leased, denial.remaining) == (10_000, 0, 9_000, 1_000)
    assert denial.rule == "client acme"
    assert denial.plan == "tier"
    assert denial.holders == "web@host-1 (pid 71) holds 9,000"
    assert denial.valid_for_ms <= 1_000


async def test_pieces_shrink_towards_the_end(hard: Served) -> None:
    """At most its part of half of what is left, but always what the waiting call needs."""
    one, other = await hard.talk("web-1"), await hard.talk("web-2")

    first = await one.lease(10, usual_tokens=1_000_000)
    second = await other.lease(10, usual_tokens=1_000_000)
    third = await one.lease(10, usual_tokens=1_000_000)
    last = await one.lease(2_000, usual_tokens=1_000_000)

    assert (first.tokens, second.tokens, third.tokens, last.tokens) == (5_000, 1_250, 937, 2_000)


async def test_tokens_return_by_release_once_the_ledger_has_the_last_record(hard: Served) -> None:
    """Before that, what the record used could be lent a second time."""
    talk = await hard.talk()
    lease = await talk.lease(8_000)

    await talk.release(lease.lease_id, last_sequence=1)
    early = await talk.denial(8_000)
    await hard.use(1_500, lease_id=lease.lease_id)
    await settled(hard, 0)
    late = await talk.lease(8_500)

    assert (early.used, early.leased) == (0, 8_000)
    assert late.tokens == 8_500


async def test_what_is_settled_counts_once(hard: Served) -> None:
    """A record moves tokens from leased to used; the sum stays."""
    talk = await hard.talk()
    lease = await talk.lease(6_000)

    await hard.use(2_000, lease_id=lease.lease_id)
    (quota,) = await hard.status("acme")

    assert (quota.used, quota.leased, quota.remaining) == (2_000, 4_000, 4_000)


async def test_idle_leases_are_called_back_for_who_needs_them(hard: Served) -> None:
    """A client with tokens left is not refused because another process sits on them."""
    idle, busy = await hard.talk("web-1"), await hard.talk("web-2")
    lease = await idle.lease(9_000)

    asking = asyncio.create_task(busy.lease(5_000))
    revoked = (await idle.next()).revocation
    await idle.reduce(lease.lease_id, 0)

    assert revoked.client == "acme"
    assert revoked.quota_version > lease.quota_version
    assert (await asking).tokens == 5_000


class _HastyLoop:
    """An event loop whose timers come before their time: uvloop's do, by up to a millisecond."""

    def __getattr__(self, name: str) -> object:
        return getattr(asyncio, name)

    def get_running_loop(self) -> _HastyLoop:
        return self

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def call_at(self, _: float, act: Callable[..., object], *args: object) -> None:
        asyncio.get_running_loop().call_soon(act, *args)

    call_later = call_at


async def test_a_question_that_was_parked_is_always_answered(
    hard: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timer a moment too early once left it parked for ever: its calls went on undecided."""
    idle, busy = await hard.talk("web-1"), await hard.talk("web-2")
    await idle.lease(9_000)
    monkeypatch.setattr("meterd.service.lender.asyncio", _HastyLoop())

    denial = await busy.denial(5_000)

    assert denial.holders == "web@host-1 (pid 71) holds 9,000"


async def test_a_refusal_names_who_vanished_with_the_tokens(hard: Served) -> None:
    """The operator sees which host to look for."""
    gone, talk = await hard.talk("web-1"), await hard.talk("web-2")
    await gone.lease(9_000)
    await hung_up(hard, gone)

    denial = await talk.denial(2_000)

    assert denial.holders == "web@host-1 (pid 71, not connected) holds 9,000"


async def test_what_vanished_for_an_hour_is_taken_back(
    hard: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """The one case in which a hard quota may be exceeded, and it is logged."""
    gone = await hard.talk("web-1")
    await gone.lease(9_000)
    await hung_up(hard, gone)

    hard.clock.advance(timedelta(minutes=59))
    await hard.servicer._lender.end_vanished()
    (before,) = await hard.status("acme")
    hard.clock.advance(timedelta(minutes=2))
    await hard.servicer._lender.end_vanished()
    await settled(hard, 0)

    assert before.leased == 9_000
    assert "was not heard of for an hour and holds 9000 tokens of acme" in caplog.text


async def test_a_producer_that_ended_holds_nothing(hard: Served) -> None:
    """Its goodbye, or that of who adopted its spool."""
    talk = await hard.talk()
    lease = await talk.lease(9_000)
    sequence = await hard.use(500, lease_id=lease.lease_id)

    await hard.store.goodbye(producer_id("web-1"), sequence, 0)

    await settled(hard, 0)


async def test_a_raised_plan_calls_back_what_was_said(hard: Served) -> None:
    """Pushed at once, to every producer."""
    talk = await hard.talk()
    denial = await talk.denial(11_000)

    await hard.apply(HARD.replace("10k", "20k"))
    revocation = (await talk.next()).revocation
    lease = await talk.lease(11_000)

    assert revocation.client == "acme"
    assert revocation.quota_version > denial.quota_version
    assert lease.tokens == 11_000


async def test_a_change_that_is_not_theirs_disturbs_nobody(hard: Served) -> None:
    """An address was corrected; no process asks anew."""
    talk = await hard.talk()
    await talk.lease(1_000)

    await hard.apply(HARD + 'name = "Acme Corporation"\n')

    assert (await talk.ask(1_000)).HasField("grant")
    assert talk.call.done() is False
    desk = hard.servicer._lender.desks[talk.producer]
    assert desk._answers.empty()


async def test_a_grant_lets_through_at_once(hard: Served) -> None:
    """`meterctl grant acme 5k --why ...`"""
    talk = await hard.talk()
    await talk.denial(12_000)
    period = PeriodIndex(2026 * 12 + 10)

    await hard.store.grant(
        Grant(client="acme", period=period, tokens=5_000, why="launch", who="kim", at_ms=0)
    )
    hard.servicer.granted("acme")
    await talk.next()

    assert (await talk.lease(12_000)).tokens == 12_000
    assert (await hard.status("acme"))[0].limit == 15_000


async def test_a_new_period_starts_with_a_whole_quota(hard: Served) -> None:
    """No job resets anything; leases end with the period that they were lent in."""
    hard.clock.step(datetime(2026, 11, 30, 23, 50, tzinfo=UTC))
    talk = await hard.talk()
    lease = await talk.lease(9_000)
    denial = await talk.denial(9_000)

    hard.clock.advance(timedelta(minutes=11))
    fresh = await talk.lease(9_000)
    sequence = await hard.use(700, lease_id=lease.lease_id)
    (quota,) = await hard.status("acme")

    assert lease.expires_in_ms == 600_000
    assert denial.valid_for_ms <= 600_000
    assert fresh.tokens == 9_000
    assert sequence == 1
    assert (quota.period, quota.used, quota.leased) == ("2026-12", 0, 9_000)


async def test_a_soft_quota_refuses_nobody() -> None:
    """Overage is what it is for; `limit` is soft where nothing is said."""
    async with serving(SOFT) as served:
        talk = await served.talk()
        await served.use(50_000)

        lease = await talk.lease(1_000)
        (quota,) = await served.status("acme")

    assert (lease.lease_id, lease.mode) == (0, quota_pb2.LIMIT_MODE_SOFT)
    assert (quota.limit, quota.used, quota.remaining, quota.cap) == (10_000, 50_000, 0, 0)


async def test_a_soft_quota_refuses_beyond_its_cap() -> None:
    """Overage, up to there."""
    async with serving(SOFT.replace("[clients", 'cap = "15k"\n[clients')) as served:
        talk = await served.talk()
        await served.use(12_000)

        lease = await talk.lease(3_000)
        denial = await talk.denial(1)

    assert lease.tokens == 3_000
    assert (denial.limit, denial.rule) == (15_000, "client acme")


LEVELS = (
    HARD.replace("10k", "5M")
    + """
[[clients.acme.quotas]]
project = "chatbot"
tokens = "2k"
limit = "hard"

[[clients.acme.quotas]]
model = "gpt-5*"
tokens = "3k"
limit = "hard"

[[quotas]]
tokens = "20k"
limit = "hard"
"""
)


@pytest.mark.parametrize(
    ("tags", "tokens", "rule"),
    [
        ({"project": "chatbot", "model": "gpt-4o"}, 2_001, "client acme, project chatbot"),
        ({"project": "writer", "model": "gpt-5-mini"}, 3_001, "client acme, model gpt-5*"),
        ({"project": "chatbot", "model": "gpt-5"}, 2_500, "client acme, project chatbot"),
        ({"project": "writer", "model": "gpt-4o"}, 20_001, "agency"),
    ],
)
async def test_a_call_must_fit_every_level_and_the_tightest_is_named(
    tags: dict[str, str], tokens: int, rule: str
) -> None:
    """One list of quotas: agency, client, project, model."""
    async with serving(LEVELS) as served:
        talk = await served.talk()
        denial = await talk.denial(tokens, **tags)
        fits = await talk.lease(2_000 if tokens == 2_500 else tokens - 1, 0, "acme", **tags)

    assert denial.rule == rule
    assert (fits.for_project, fits.for_model) == (True, True)
    assert (fits.project, fits.model) == (tags["project"], tags["model"])


async def test_the_agency_net_holds_over_everybody() -> None:
    """Calls that name no client, and clients nobody listed, too."""
    async with serving(LEVELS) as served:
        talk = await served.talk()
        await served.use(8_000, client="unattributed")
        await talk.lease(9_000, client="stranger", model="gpt-4o")

        denial = await talk.denial(4_000, model="gpt-4o")

    assert (denial.rule, denial.limit, denial.used, denial.leased) == (
        "agency",
        20_000,
        8_000,
        9_000,
    )


async def test_the_agency_can_limit_a_model_for_all_its_clients_together() -> None:
    """200k of the expensive model a month, whoever uses it."""
    config = HARD + '[[quotas]]\nmodel = "gpt-5*"\ntokens = "3k"\nlimit = "hard"\n'
    async with serving(config) as served:
        talk = await served.talk()
        await served.use(1_500, client="one", model="gpt-5")
        await served.use(1_000, client="two", model="gpt-5-mini")
        await served.use(5_000, client="two", model="gpt-4o")

        denial = await talk.denial(600, model="gpt-5")
        (agency, *_) = await served.status()

    assert (denial.rule, denial.used, denial.limit) == ("agency, model gpt-5*", 2_500, 3_000)
    assert (agency.scope, agency.client, agency.used) == ("model", "", 2_500)


async def test_a_model_is_known_by_the_name_that_answers() -> None:
    """Asked for as gpt-5, in the ledger as gpt-5-2025-08-07."""
    config = LEVELS.replace("gpt-5*", "gpt-5")
    async with serving(config) as served:
        talk = await served.talk()
        await served.use(2_500, model="gpt-5", response_model="gpt-5-2025-08-07")

        dated = await talk.denial(600, project="w", model="gpt-5-2025-08-07")
        plain = await talk.denial(600, project="w", model="gpt-5")
        other = await talk.lease(600, project="w", model="gpt-5-mini")

    assert dated.used == plain.used == 2_500
    assert other.tokens == 600


@pytest.mark.parametrize("policy", ["meter", "reject"])
async def test_unknown_clients_may_use_what_the_agency_says(policy: str) -> None:
    """All, or nothing; `unattributed` is such a client unless it is listed."""
    async with serving(f'[agency]\nname = "N"\nunknown_clients = "{policy}"\n' + HARD) as served:
        talk = await served.talk()
        answer = await talk.ask(10, client="stranger")

    assert answer.WhichOneof("message") == ("grant" if policy == "meter" else "denial")
    if policy == "reject":
        assert (answer.denial.rule, answer.denial.limit) == ("client stranger", 0)


async def test_each_threshold_makes_one_event(hard: Served) -> None:
    """80 % and 100 % of the quota, once each, however often they are crossed or looked at."""
    await hard.use(7_999)
    quiet = await hard.events()
    await hard.use(1)
    first = await hard.events()
    await hard.use(1_999)
    await hard.use(100)
    both = await hard.events()
    again = await hard.events()

    assert quiet == []
    assert first == [("client acme", "quota", "80")]
    assert both == again == [("client acme", "quota", "80"), ("client acme", "quota", "100")]
    assert hard.told.events[0].used == 8_000
    assert hard.told.events[0].limit == 10_000


async def test_thresholds_are_not_told_again_after_a_restart(hard: Served) -> None:
    """They were claimed in the ledger; and the outbox is left as it was."""
    await hard.use(9_000)
    await hard.events()
    hard.told.outbox.clear()  # delivered

    await hard.close()
    await hard.open()
    events = await hard.events()

    assert len(events) == 1
    assert not hard.told.outbox


async def test_what_a_killed_daemon_had_committed_and_not_told_the_next_one_tells(
    hard: Served,
) -> None:
    """Between the commit and the claim: the event is found in the ledger again."""
    await hard.use(12_000)
    await hard.close()

    await hard.open()
    events = await hard.events()

    assert events == [("client acme", "quota", "80"), ("client acme", "quota", "100")]


async def test_a_threshold_reached_in_the_last_second_of_a_period_is_told(hard: Served) -> None:
    """Killed with the year's last commit, started again in the next month."""
    hard.clock.step(datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC))
    await hard.use(9_000, ago_ms=0)
    await hard.close()

    hard.clock.advance(timedelta(seconds=3))
    await hard.open()
    await hard.events()
    again = await hard.events()

    (event,) = hard.told.events
    assert (event.period, event.percent, event.used) == ("2026-11", "80", 9_000)
    assert len(again) == 1


async def test_usage_that_comes_after_midnight_counts_in_its_own_period(hard: Served) -> None:
    """A host that was offline: November's 80 % are told in December, and December's are not."""
    hard.clock.step(datetime(2026, 11, 30, 23, 50, tzinfo=UTC))
    await hard.use(7_000)
    await hard.events()

    hard.clock.advance(timedelta(days=2))
    await hard.use(1_500, ago_ms=int(timedelta(days=2, minutes=1).total_seconds() * 1_000))
    await hard.events()
    await hard.use(7_999)
    await hard.events()

    assert [(event.period, event.percent) for event in hard.told.events] == [("2026-11", "80")]


async def test_an_event_that_could_not_be_written_is_told_some_looks_later(hard: Served) -> None:
    """A full disk under the outbox delays it; nothing was claimed."""
    await hard.use(9_000)
    hard.told.is_full = True
    before = await hard.events()

    hard.told.is_full = False
    for _ in range(LOOKS_LEFT_OUT + 1):
        after = await hard.events()

    assert (before, after) == ([], [("client acme", "quota", "80")])


async def test_the_agencys_own_quota_is_looked_at_after_a_start_too() -> None:
    """Without a single listed client there is nobody else by whom it would be found."""
    async with serving('[[quotas]]\ntokens = "10k"\n') as served:
        await served.use(9_000, client="stranger")
        await served.close()
        await served.open()
        events = await served.events()

    assert events == [("agency", "quota", "80")]


async def test_a_larger_quota_has_thresholds_of_its_own(hard: Served) -> None:
    """A client that is given more hears of 80 % again; one that is lowered, at once."""
    await hard.use(8_500)
    await hard.events()

    await hard.apply(HARD.replace("10k", "10500"))
    await hard.events()
    await hard.apply(HARD.replace("10k", "8k"))
    events = await hard.events()

    assert [(event.percent, event.limit) for event in hard.told.events] == [
        ("80", 10_000), ("80", 10_500), ("80", 8_000), ("100", 8_000),
    ]  # fmt: skip
    assert len(events) == 4


async def test_a_newer_stream_ends_the_older_one(hard: Served) -> None:
    """A lingering connection must not hold the desk of its successor."""
    old = await hard.talk()
    await old.lease(10)
    new = await hard.talk()
    await new.lease(10)

    code, _ = await old.ends_with()

    assert code is grpc.StatusCode.OK
    assert (await new.lease(10)).tokens == 10


async def test_a_grant_that_was_lost_returns_with_the_next_hello(hard: Served) -> None:
    """The producer says what it holds, whole."""
    talk = await hard.talk()
    kept, lost = await talk.lease(1_000), await talk.lease(2_000)

    again = Talk(hard.stub, "web-1")
    await again.hello(held=(_held(kept),))

    await settled(hard, 1_000)
    assert lost.lease_id != kept.lease_id


async def test_a_restored_ledger_learns_what_is_held(hard: Served) -> None:
    """The backup was older than the lease: it is known again under its id, and counted."""
    talk = Talk(hard.stub, "web-1")
    held = quota_pb2.HeldLease(
        lease_id=4711, client="acme", tokens=6_000, expires_in_ms=60_000,
        period_start_unix_ns=hard.clock.unix_ns(),
    )  # fmt: skip
    await talk.hello(held=(held,))
    await settled(hard, 6_000)

    sequence = await hard.use(1_000, lease_id=4711)
    await talk.release(4711, sequence)

    await settled(hard, 0)
    assert (await hard.status("acme"))[0].used == 1_000


@pytest.mark.parametrize(
    ("late", "days", "leased"),
    [(timedelta(minutes=59), 0, 6_000), (timedelta(minutes=61), 0, 0), (timedelta(), 30, 0)],
)
async def test_an_unknown_lease_is_believed_only_where_a_backup_may_have_lost_it(
    hard: Served, late: timedelta, days: int, leased: int
) -> None:
    """Within the hour that a lease lasts, of a period that has begun; any other is forged."""
    hard.clock.advance(late)
    start = hard.clock.unix_ns() + days * 86_400 * 10**9
    held = quota_pb2.HeldLease(
        lease_id=4711, client="acme", tokens=6_000, expires_in_ms=60_000, period_start_unix_ns=start
    )
    talk = Talk(hard.stub, "web-1")
    await talk.hello(held=(held,))

    if not leased:
        assert (await talk.next()).revocation.client == "acme"

    await settled(hard, leased)
    assert (await talk.ask(100_000)).denial.leased == leased  # the hello is done with
    assert len(await hard.store.outstanding_leases()) == (1 if leased else 0)


async def test_what_is_claimed_fits_every_quota_that_it_counts_against() -> None:
    """Of 2,000 tokens for the project nobody can have been lent 3,000."""
    async with serving(LEVELS) as served:
        held = quota_pb2.HeldLease(
            lease_id=4711, client="acme", project="chatbot", tokens=3_000, expires_in_ms=60_000,
            period_start_unix_ns=served.clock.unix_ns(),
        )  # fmt: skip
        talk = Talk(served.stub, "web-1")
        await talk.hello(held=(held,))
        denial = await talk.denial(1, project="chatbot", model="gpt-4o")

    assert (denial.rule, denial.leased) == ("client acme, project chatbot", 2_000)


async def test_a_lease_that_ended_here_is_not_known_again(hard: Served) -> None:
    """It was taken back while its producer was away: the producer must not use it."""
    talk = await hard.talk()
    lease = await talk.lease(6_000)
    await hard.store.end_leases([lease.lease_id], 0)  # type: ignore[list-item]  # an int is one
    await settled(hard, 0)

    again = Talk(hard.stub, "web-1")
    await again.hello(held=(_held(lease),))
    revocation = (await again.next()).revocation

    assert (revocation.client, revocation.quota_version > lease.quota_version) == ("acme", True)
    await settled(hard, 0)


def _held(lease: quota_pb2.Lease) -> quota_pb2.HeldLease:
    return quota_pb2.HeldLease(
        lease_id=lease.lease_id, client=lease.client, tokens=lease.tokens, expires_in_ms=60_000,
        period_start_unix_ns=lease.period_start_unix_ns, quota_version=lease.quota_version,
    )  # fmt: skip


async def test_leases_survive_a_restart_of_the_daemon(hard: Served) -> None:
    """Lent is durable before it is sent."""
    talk = await hard.talk()
    lease = await talk.lease(9_000)
    await hard.use(1_000, lease_id=lease.lease_id)

    await hard.close()
    await hard.open()
    (quota,) = await hard.status("acme")

    assert (quota.used, quota.leased, quota.remaining) == (1_000, 8_000, 1_000)
    assert quota.holders[0].tokens == 8_000


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (quota_pb2.LeaseRequest(wanted=quota_pb2.LeaseWanted(request=1, client="acme", tokens=-5)),
         "0 tokens or more"),
        (quota_pb2.LeaseRequest(wanted=quota_pb2.LeaseWanted(request=1)), "for a client"),
        (quota_pb2.LeaseRequest(hello=quota_pb2.LeaseHello(producer=b"x" * 16)), "once"),
    ],
)  # fmt: skip
async def test_nonsense_ends_the_stream_with_one_sentence(
    hard: Served, request_: quota_pb2.LeaseRequest, sentence: str
) -> None:
    """A bug of the producer's, said clearly."""
    talk = await hard.talk()
    await talk.call.write(request_)

    code, details = await talk.ends_with()

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert sentence in details


async def test_a_stream_begins_with_a_whole_hello(hard: Served) -> None:
    """No producer, nothing to lend to."""
    short = hard.stub.Lease()
    hello = quota_pb2.LeaseHello(producer=b"short")
    await short.write(quota_pb2.LeaseRequest(hello=hello))
    none = hard.stub.Lease()
    await none.write(quota_pb2.LeaseRequest(wanted=quota_pb2.LeaseWanted(client="acme")))

    assert (await short.code(), await short.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "a producer's id has 16 bytes, this one 5",
    )
    assert await none.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_nobody_can_touch_anothers_lease(hard: Served) -> None:
    """A forged release would lend the same tokens twice."""
    owner, forger = await hard.talk("web-1"), await hard.talk("web-2")
    lease = await owner.lease(9_000)
    await forger.release(lease.lease_id)
    claimer = Talk(hard.stub, "web-3")
    await claimer.hello(held=(_held(lease),))

    assert (await forger.ends_with())[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert "is lent to another producer" in (await claimer.ends_with())[1]
    assert (await hard.status("acme"))[0].leased == 9_000


async def test_more_than_the_quota_is_refused_with_both_numbers(hard: Served) -> None:
    """An absurd estimate, or a ceiling of 64,000 with 10,000 left."""
    talk = await hard.talk()

    denial = await talk.denial(2**62)

    assert (denial.remaining, denial.limit, denial.holders) == (10_000, 10_000, "")
    assert denial.valid_for_ms > 1_000_000


async def test_a_clock_that_is_set_back_brings_the_former_period_back() -> None:
    """A host may boot a year ahead; its quotas would else count in that year until a restart."""
    async with serving(HARD) as served:
        await served.use(4_000)
        today = served.clock.now()
        for day in (today, today + timedelta(days=400), today):
            served.clock.step(day)
            (quota,) = await served.status("acme")
            assert quota.period == f"{day:%Y-%m}"

        assert quota.used == 4_000


async def test_a_clock_that_is_set_back_over_a_contracts_first_day_brings_the_former_terms() -> (
    None
):
    """The ruling in between held from that day on alone."""
    terms = HARD.replace('plan = "tier"\n', "") + (
        '[[clients.acme.contracts]]\nplan = "tier"\n'
        '[[clients.acme.contracts]]\nplan = "tier"\nfrom = 2026-11-20\nincluded_tokens = "50k"\n'
    )
    async with serving(terms) as served:
        today = served.clock.now()
        seen = []
        for day in (today, today + timedelta(days=10), today):
            served.clock.step(day)
            seen.append((await served.status("acme"))[0].limit)

    assert seen == [10_000, 50_000, 10_000]
