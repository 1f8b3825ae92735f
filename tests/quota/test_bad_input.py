"""Nonsense and forgeries against a real meterd: one clear sentence, the right status, nothing
lent twice, and everybody else served on."""

from __future__ import annotations

import os
import queue
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from meterd_proto.v1 import quota_pb2, quota_pb2_grpc
from tests.deploy.asking import apply, channel
from tests.support.daemon import start_daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Daemon

PLAN = """\
[agency]
unknown_clients = "reject"
[plans.tier]
type = "retainer"
fee = "500"
included_tokens = "10k"
limit = "hard"
overage = "none"
"""
CONFIG = PLAN + '[clients.acme-corp]\nplan = "tier"\n[clients.bigco-inc]\nplan = "tier"\n'
CONTRACT = '[[clients.acme-corp.contracts]]\nplan = "tier"\nfrom = 2026-01-01\n'
DAY_NS = 86_400 * 10**9
WITHIN_S = 20.0


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A meterd with two clients on hard plans of 10,000 tokens."""
    with start_daemon(config=CONFIG) as started:
        yield started


class Producer:
    """A lease stream that says whatever it likes."""

    def __init__(self, stub: quota_pb2_grpc.QuotaServiceStub, producer: bytes = b"") -> None:
        self.id = producer or os.urandom(16)
        self._said: queue.Queue[quota_pb2.LeaseRequest | None] = queue.Queue()
        self._call = stub.Lease(iter(self._said.get, None), timeout=WITHIN_S)

    def hello(self, last_sequence: int = 0, *held: quota_pb2.HeldLease) -> Producer:
        hello = quota_pb2.LeaseHello(
            producer=self.id, service="web", host="here", pid=7, held=held,
            last_sequence=last_sequence,
        )  # fmt: skip
        self._said.put(quota_pb2.LeaseRequest(hello=hello))
        return self

    def ask(
        self, tokens: int, client: str = "acme-corp", usual_tokens: int = 0
    ) -> quota_pb2.LeaseResponse:
        """Ask, and wait for the answer."""
        wanted = quota_pb2.LeaseWanted(
            request=1, client=client, tokens=tokens, usual_tokens=usual_tokens or tokens
        )
        self._said.put(quota_pb2.LeaseRequest(wanted=wanted))
        while (answer := self.next()).HasField("revocation"):
            pass
        return answer

    def next(self) -> quota_pb2.LeaseResponse:
        """The next thing that the daemon says."""
        answer: quota_pb2.LeaseResponse = next(self._call)
        return answer

    def release(self, lease_id: int, last_sequence: int = 0) -> Producer:
        released = quota_pb2.LeaseReleased(lease_id=lease_id, last_sequence=last_sequence)
        self._said.put(quota_pb2.LeaseRequest(released=released))
        return self

    def end(self) -> tuple[str, str]:
        """How the stream ends: the status and its sentence."""
        try:
            for _ in self._call:
                pass
        except grpc.RpcError:
            pass
        return self._call.code().name, self._call.details() or ""

    def leave(self) -> None:
        self._said.put(None)
        self._call.cancel()


@contextmanager
def producer(daemon: Daemon, id_: bytes = b"") -> Iterator[Producer]:
    """A producer on a channel of its own."""
    with channel(daemon) as opened:
        made = Producer(quota_pb2_grpc.QuotaServiceStub(opened), id_)
        try:
            yield made
        finally:
            made.leave()


def held(
    lease_id: int, tokens: int, client: str = "bigco-inc", start_ns: int = 0
) -> quota_pb2.HeldLease:
    return quota_pb2.HeldLease(
        lease_id=lease_id, client=client, tokens=tokens, expires_in_ms=60_000,
        period_start_unix_ns=start_ns or time.time_ns(),
    )  # fmt: skip


def leased(daemon: Daemon, client: str) -> int:
    with channel(daemon) as opened:
        stub = quota_pb2_grpc.QuotaServiceStub(opened)
        (quota,) = stub.Status(quota_pb2.QuotaStatusRequest(client=client)).quotas
    return quota.leased


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (CONFIG.replace('"10k"', "-5"), "6: plans.tier.included_tokens: -5 tokens are less"),
        (CONFIG.replace('"10k"', '"-2M"'), "'-2M' is no number of tokens"),
        (CONFIG.replace('"10k"', "0"), "0 tokens would let nobody make a call"),
        (CONFIG.replace('"10k"', '"999999999B"'), "was a unit meant once less?"),
        (CONFIG.replace('"10k"', "1.5"), "1.5 is no number of tokens"),
        (PLAN + '[clients.acme-corp]\nplan = "gold"\n', "there is no plan 'gold'"),
        (PLAN + CONTRACT * 2, "two contracts begin on 2026-01-01"),
        (CONFIG + "[[quotas]]\ntokens = -3\n", "-3 tokens are less than none"),
        (CONFIG.replace("hard", 'soft"\ncap = "1k'), "the cap of 1000 lies below"),
    ],
)
def test_a_quota_that_makes_no_sense_is_refused_with_its_line_and_one_sentence(
    daemon: Daemon, config: str, said: str
) -> None:
    """Nothing of the file is applied: the clients go on by the plan they had."""
    answer = apply(daemon, config)

    (mistake,) = answer.mistakes
    assert not answer.applied
    assert said in f"{mistake.line}: {mistake.field}: {mistake.message}"


def test_an_unknown_client_is_denied_by_name(daemon: Daemon) -> None:
    """`unknown_clients = "reject"`: no quota, no lease; the stream serves on."""
    with producer(daemon) as one:
        denial = one.hello().ask(10, "stranger").denial
        lease = one.ask(10).grant

    assert (denial.rule, denial.limit, denial.remaining) == ("client stranger", 0, 0)
    assert lease.tokens >= 10


def test_more_than_the_quota_is_denied_with_the_figures(daemon: Daemon) -> None:
    """And "usually as much as there is" gets no more than a part of it."""
    with producer(daemon) as one:
        denial = one.hello().ask(2**62).denial
        lease = one.ask(10, usual_tokens=2**63 - 1).grant

    assert (denial.limit, denial.rule) == (10_000, "client acme-corp")
    assert 10 <= lease.tokens <= 5_000


@pytest.mark.parametrize(
    ("last_sequence", "lease", "said"),
    [
        (0, held(11, 2**62), f"nobody was lent {2**62} tokens in one lease"),
        (0, held(12, -1), "a lease that is held has an id, a client and 0 tokens or more"),
        (0, held(0, 5), "a lease that is held has an id"),
        (0, held(2**64 - 1, 5), "a lease that is held has an id"),
        (0, held(13, 5, ""), "a lease that is held has an id, a client"),
        (2**64 - 1, held(14, 5), f"no record has the sequence {2**64 - 1}"),
    ],
)
def test_a_forged_hello_ends_its_stream_and_changes_nothing(
    daemon: Daemon, last_sequence: int, lease: quota_pb2.HeldLease, said: str
) -> None:
    """Figures that overflow a message once ended the daemon for everybody."""
    before = leased(daemon, "bigco-inc")
    with producer(daemon) as forger:
        status, sentence = forger.hello(last_sequence, lease).end()

    assert (status, said in sentence) == ("INVALID_ARGUMENT", True), sentence
    assert leased(daemon, "bigco-inc") == before


def test_a_lease_of_an_ended_period_takes_nothing_of_the_running_one(daemon: Daemon) -> None:
    """Forty days ago, 1970, or the year 2554: calls belong to the period they started in."""
    now_ns, before = time.time_ns(), leased(daemon, "bigco-inc")
    starts = (now_ns - 40 * DAY_NS, 1, 2**64 - 1)
    with producer(daemon) as one:
        one.hello(0, *(held(20 + n, 9_000, start_ns=start) for n, start in enumerate(starts)))
        lease = one.ask(10, "bigco-inc").grant
        after = leased(daemon, "bigco-inc")

    assert after - before == lease.tokens


def test_nobody_can_give_back_what_another_holds(daemon: Daemon) -> None:
    """A forged release would lend the same tokens twice."""
    with producer(daemon) as owner, producer(daemon) as forger, producer(daemon) as other:
        lease = owner.hello().ask(2_000).grant
        status, sentence = forger.hello().release(lease.lease_id).end()
        remains = leased(daemon, "acme-corp")
        denial = other.hello().ask(10_000 - lease.tokens + 1).denial

    assert status == "INVALID_ARGUMENT"
    assert sentence == f"lease {lease.lease_id} is lent to another producer"
    assert remains >= lease.tokens
    assert denial.remaining <= 10_000 - lease.tokens


def test_who_takes_anothers_name_gets_none_of_its_tokens_twice(daemon: Daemon) -> None:
    """The newest stream of an id is the producer; the older one ends, its lease stays lent."""
    with producer(daemon) as owner:
        lease = owner.hello().ask(500).grant
        before = leased(daemon, "acme-corp")
        with producer(daemon, owner.id) as forger:
            forger.hello(0, held(lease.lease_id, lease.tokens, "acme-corp"))
            more = forger.ask(100).grant
            ended, _ = owner.end()
            after = leased(daemon, "acme-corp")

    assert ended == "OK"
    assert after == before + more.tokens


def test_a_release_of_what_never_was_is_refused(daemon: Daemon) -> None:
    """Beyond 2^63 no record can be."""
    with producer(daemon) as one:
        lease = one.hello().ask(10).grant
        status, sentence = one.release(lease.lease_id, 2**64 - 1).end()

    assert (status, sentence) == ("INVALID_ARGUMENT", f"no record has the sequence {2**64 - 1}")


def test_forged_leases_hold_no_more_than_the_quota() -> None:
    """A thousand of absurd size: what could be had for the asking, and not one token more."""
    with start_daemon(config=CONFIG) as daemon:
        forged = [held(100 + n, 10**16) for n in range(1_000)]
        with producer(daemon) as forger, producer(daemon) as other:
            forger.hello(0, *forged)
            denial = forger.ask(10, "bigco-inc").denial
            lease = other.hello().ask(10).grant
            shown = leased(daemon, "bigco-inc")

    assert denial.remaining == 0
    assert shown == denial.leased == 10_000
    assert lease.tokens >= 10


def test_a_forged_lease_takes_nothing_of_what_others_hold() -> None:
    """It is believed up to what nobody was lent; the forger is told to ask anew for the rest."""
    with start_daemon(config=CONFIG) as daemon, producer(daemon) as owner:
        lease = owner.hello().ask(7_000, "bigco-inc").grant
        with producer(daemon) as forger:
            forger.hello(0, held(4_711, 9_000))
            said = forger.next()
            before = leased(daemon, "bigco-inc")
            status, _ = forger.release(4_711).release(lease.lease_id).end()
        after = leased(daemon, "bigco-inc")

    assert said.revocation.client == "bigco-inc"
    assert before == 10_000
    assert status == "INVALID_ARGUMENT"
    assert after >= 7_000
