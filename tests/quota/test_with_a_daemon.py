"""A real meterd, real producers, real calls of `meter`: what an agency and its apps see."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest

from meterd_middleware import Meter, QuotaExceeded
from meterd_middleware.leases import Leases
from meterd_proto.v1 import admin_pb2, admin_pb2_grpc, quota_pb2, quota_pb2_grpc
from tests.support.daemon import Daemon, start_daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = """\
[agency]
name = "Northwind Studio"

[plans.tier]
type = "retainer"
fee = "500"
included_tokens = "%s"
limit = "hard"
on_unreachable = "reject"
overage = "none"

[clients.acme-corp]
plan = "tier"
"""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A meterd with one client on a hard plan of a thousand tokens."""
    with start_daemon(config=CONFIG % "1k") as started:
        yield started


def meter_of(daemon: Daemon) -> Meter:
    """A meter that waits for a busy disk: on this machine a commit may take longer than 50 ms."""
    meter = Meter(target=daemon.target, spool=daemon.spool_root, service="web")
    assert isinstance(meter._leases, Leases)
    meter._leases._timeout_ns = 10 * 10**9
    return meter


def call(meter: Meter, input_tokens: int, output_tokens: int) -> None:
    """One call, settled with what it was taken for."""
    with meter.call(
        client="acme-corp", provider="openai", request_model="gpt-4o", input_tokens=input_tokens,
        max_tokens=output_tokens,
    ) as exchange:  # fmt: skip
        exchange.settle(input_tokens=input_tokens, output_tokens=output_tokens)


def status_of(daemon: Daemon) -> quota_pb2.QuotaStatus:
    with grpc.insecure_channel(daemon.target) as channel:
        stub = quota_pb2_grpc.QuotaServiceStub(channel)
        (quota,) = stub.Status(quota_pb2.QuotaStatusRequest(client="acme-corp")).quotas
    return quota


def apply(daemon: Daemon, tokens: str) -> None:
    with grpc.insecure_channel(daemon.target) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        request = admin_pb2.ApplyRequest(toml=(CONFIG % tokens).encode(), source="meterd.toml")
        answer = stub.Apply(request)
    assert answer.applied, answer.mistakes


def test_a_quota_ends_at_the_exact_token(daemon: Daemon) -> None:
    """A client with 1,000 left makes a call that needs 900, then one that needs 900."""
    with meter_of(daemon) as meter:
        call(meter, 100, 800)
        with pytest.raises(QuotaExceeded) as refused:
            call(meter, 100, 800)
        call(meter, 40, 60)
        with pytest.raises(QuotaExceeded):
            call(meter, 1, 0)
        assert meter.flush(10)

    denied = refused.value
    assert "client acme-corp" in str(denied)
    quota = status_of(daemon)
    assert (quota.limit, quota.used, quota.leased, quota.remaining) == (1_000, 1_000, 0, 0)


def test_a_new_process_is_refused_at_its_first_call(daemon: Daemon) -> None:
    """Its channel isn't made yet when it asks: it waits for that, and for no more."""
    with meter_of(daemon) as meter:
        call(meter, 500, 500)
        assert meter.flush(10)
    script = (
        "import sys\n"
        "from meterd_middleware import Meter, QuotaExceeded\n"
        "meter = Meter(target=sys.argv[1], spool=sys.argv[2])\n"
        "try:\n    meter.check(client='acme-corp', tokens=1)\n"
        "except QuotaExceeded:\n    print('refused')\n"
        "else:\n    print('let through')\n"
    )

    for _ in range(3):
        said = subprocess.run(
            [sys.executable, "-c", script, daemon.target, str(daemon.spool_root)],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert said.stdout == "refused\n", said


def test_a_raised_plan_lets_the_client_through_in_every_process(daemon: Daemon) -> None:
    """The revocation is pushed: nobody waits for a denial to run out."""
    with meter_of(daemon) as one, meter_of(daemon) as other:
        call(one, 500, 500)
        for meter in (one, other):
            with pytest.raises(QuotaExceeded):
                meter.check(client="acme-corp", tokens=500)

        apply(daemon, "3k")

        for meter in (one, other):
            _until_let_through(meter)


def _until_let_through(meter: Meter) -> None:
    """Within two seconds; a refusal until then is the revocation on its way."""
    end = time.monotonic() + 2
    while True:
        try:
            meter.check(client="acme-corp", tokens=500)
        except QuotaExceeded:
            assert time.monotonic() < end
        else:
            return


def test_many_calls_at_once_never_pass_the_quota_together(daemon: Daemon) -> None:
    """Ten calls at once would each fit alone."""
    apply(daemon, "20k")

    def worker(meter: Meter) -> int:
        """Call until nothing is left that others could still give back."""
        served, end = 0, time.monotonic() + 30
        while time.monotonic() < end:
            try:
                call(meter, 100, 200)
                served += 300
            except QuotaExceeded as refused:
                if refused.denied is not None and refused.denied.leased < 300:
                    break
        return served

    with meter_of(daemon) as one, meter_of(daemon) as other, ThreadPoolExecutor(16) as pool:
        served = sum(pool.map(worker, [one, other] * 4))
        assert one.flush(10)
        assert other.flush(10)

    quota = status_of(daemon)
    assert quota.used == served
    assert 20_000 - 300 < served <= 20_000


def test_a_lease_survives_a_restart_of_the_daemon(daemon: Daemon) -> None:
    """What was lent stays lent, and nothing is lent twice."""
    apply(daemon, "10k")
    with meter_of(daemon) as meter:
        call(meter, 100, 100)
        before = status_of(daemon)
        daemon.kill()
        daemon.start()
        after = status_of(daemon)
        call(meter, 100, 100)
        assert meter.flush(20)

    assert before.leased + before.used == after.leased + after.used
    quota = status_of(daemon)
    assert (quota.used, quota.leased) == (400, 0)


def test_a_killed_process_gives_its_lease_back_once_its_spool_is_adopted(daemon: Daemon) -> None:
    """Neither overshoot nor phantom block."""
    apply(daemon, "10k")
    script = (
        "import os, signal, sys\n"
        "from meterd_middleware import Meter\n"
        "meter = Meter(target=sys.argv[1], spool=sys.argv[2])\n"
        "call = meter.call(client='acme-corp', provider='openai', request_model='gpt-4o',\n"
        "                  input_tokens=700, max_tokens=300)\n"
        "call.__enter__()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    subprocess.run(
        [sys.executable, "-c", script, daemon.target, str(daemon.spool_root)],
        check=False, timeout=60,
    )  # fmt: skip
    quota = _when(daemon, lambda quota: quota.used > 0 and quota.leased == 0)

    assert 700 <= quota.used <= 1_000
    assert quota.remaining == 10_000 - quota.used


def _when(daemon: Daemon, holds: object) -> quota_pb2.QuotaStatus:
    """The status once something holds, within twenty seconds."""
    end = time.monotonic() + 20
    while True:
        quota = status_of(daemon)
        if holds(quota):  # type: ignore[operator]  # a lambda
            return quota
        assert time.monotonic() < end, quota
