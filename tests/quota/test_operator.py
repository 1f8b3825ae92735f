"""The operator's side with real processes: a grant and a raised plan reach every one of them
within two seconds, and `meterctl` shows who holds what and which thresholds were reached."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from meterd_middleware import Meter
from tests.support.daemon import start_daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Daemon

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
WITHIN_S = 60.0
THROUGH_WITHIN_NS = 2 * 10**9
METERCTL = [sys.executable, "-m", "meterd.cli.main"]
APP = """\
import sys, threading, time
from meterd_middleware import Meter, QuotaExceeded
meter = Meter(target=sys.argv[1], spool=sys.argv[2], service="web", on_unreachable="reject")
is_told = False
while True:
    try:
        meter.check(client="acme-corp", tokens=400)
    except QuotaExceeded as refused:
        if not is_told and refused.reason == "quota":
            is_told = True
            print("refused", flush=True)
        threading.Event().wait(0.02)
    else:
        print("through", time.monotonic_ns(), flush=True)
        break
sys.stdin.read()
meter.close()
"""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A meterd with one client on a hard plan of a thousand tokens, all of them used."""
    with start_daemon(config=CONFIG % "1k") as started:
        use(started, 1_000)
        yield started


def use(daemon: Daemon, tokens: int) -> None:
    """Usage as an app records it."""
    with Meter(target=daemon.target, spool=daemon.spool_root, service="batch") as meter:
        meter.record(
            client="acme-corp", provider="openai", operation="chat", request_model="gpt-4o-mini",
            input_tokens=tokens, output_tokens=0,
        )  # fmt: skip
        assert meter.flush(WITHIN_S)


def environ(daemon: Daemon) -> dict[str, str]:
    return {**os.environ, "METERD_TARGET": daemon.target, "HOME": str(daemon.directory)}


def meterctl(daemon: Daemon, *arguments: str) -> str:
    """One command, to its end; what it printed."""
    done = subprocess.run(
        [*METERCTL, *arguments], env=environ(daemon), capture_output=True, text=True,
        timeout=WITHIN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def blocked_apps(daemon: Daemon, count: int = 2) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that were refused and ask on."""
    command = [sys.executable, "-c", APP, daemon.target, str(daemon.spool_root)]
    apps = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    is_over = False
    watchdog = threading.Timer(WITHIN_S, _kill_all, (apps,))
    watchdog.start()
    try:
        for app in apps:
            assert said_by(app) == "refused"
        yield apps
        is_over = True
    finally:
        for app in apps:
            assert app.stdin is not None and app.stdout is not None
            if not is_over:
                app.kill()  # it would ask for ever
            app.stdin.close()
            app.wait(WITHIN_S)
            app.stdout.close()
        watchdog.cancel()


def _kill_all(apps: list[subprocess.Popen[str]]) -> None:
    for app in apps:
        app.kill()


def said_by(app: subprocess.Popen[str]) -> str:
    assert app.stdout is not None
    return app.stdout.readline().strip()


def went_through_ns(app: subprocess.Popen[str]) -> int:
    """When a process was let through, on the clock that all processes share."""
    word, _, moment = said_by(app).partition(" ")
    assert word == "through"
    return int(moment)


def test_a_grant_lets_a_blocked_client_through_in_every_process(daemon: Daemon) -> None:
    """`meterctl grant`, recorded with who and why; nobody waits for a denial to run out."""
    with blocked_apps(daemon) as apps:
        began_ns = time.monotonic_ns()
        said = meterctl(
            daemon, "grant", "acme-corp", "500k", "--why", "launch week", "--who", "ann"
        )
        granted_ns = time.monotonic_ns()
        through_ns = [went_through_ns(app) for app in apps]

    shown = meterctl(daemon, "quota", "acme-corp")
    found = json.loads(meterctl(daemon, "quota", "acme-corp", "--format", "json"))["quotas"][0]

    assert "acme-corp has 500,000 more tokens" in said
    assert "acme-corp: 500k granted on " in shown
    assert " by ann: launch week." in shown
    (grant,) = found["granted"]
    assert (grant["tokens"], grant["who"], grant["why"]) == (500_000, "ann", "launch week")
    assert all(moment > began_ns for moment in through_ns)
    assert max(through_ns) - granted_ns < THROUGH_WITHIN_NS


def test_a_raised_plan_lets_a_blocked_client_through_in_every_process(daemon: Daemon) -> None:
    """`meterctl apply` at noon."""
    file = daemon.directory / "raised.toml"
    file.write_text(CONFIG % "3k")
    with blocked_apps(daemon) as apps:
        began_ns = time.monotonic_ns()
        meterctl(daemon, "apply", str(file))
        applied_ns = time.monotonic_ns()
        through_ns = [went_through_ns(app) for app in apps]

    assert all(moment > began_ns for moment in through_ns)
    assert max(through_ns) - applied_ns < THROUGH_WITHIN_NS


def test_quota_shows_who_holds_what_until_when(daemon: Daemon) -> None:
    """Limit, used, leased, remaining add up; the holder is named as people know it."""
    meterctl(daemon, "grant", "acme-corp", "9k", "--why", "a test")
    with Meter(target=daemon.target, spool=daemon.spool_root, service="web") as meter:
        meter.check(client="acme-corp", tokens=400)
        (found,) = json.loads(meterctl(daemon, "quota", "acme-corp", "--format", "json"))["quotas"]
        table = meterctl(daemon, "quota", "acme-corp")

    assert (found["limit"], found["used"]) == (10_000, 1_000)
    assert found["used"] + found["leased"] + found["remaining"] == 10_000
    (holder,) = found["holders"]
    assert holder["tokens"] == found["leased"] >= 400
    assert (holder["pid"], holder["until"] > "20") == (os.getpid(), True)
    assert f"lent to web@{os.uname().nodename} (pid {os.getpid()}) until " in table


def test_tail_shows_thresholds_as_they_are_reached(daemon: Daemon) -> None:
    """80 % and 100 % of a larger quota, once each."""
    meterctl(daemon, "grant", "acme-corp", "9k", "--why", "a test")
    with subprocess.Popen(
        [*METERCTL, "tail", "--client", "acme-corp"], env=environ(daemon),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as tail:  # fmt: skip
        watchdog = threading.Timer(WITHIN_S, tail.kill)
        watchdog.start()
        assert tail.stdout is not None
        is_following = threading.Event()
        feeder = threading.Thread(target=_feed, args=(daemon, is_following))
        feeder.start()
        events = []
        for line in tail.stdout:
            is_following.set()
            if line.startswith("* "):
                events.append(line.strip())
            if len(events) == 2:
                break
        tail.send_signal(signal.SIGINT)
        tail.wait(WITHIN_S)
        watchdog.cancel()
        feeder.join(WITHIN_S)

    assert [event.rpartition(": ")[2] for event in events] == ["80% reached", "100% reached"]
    assert "client acme-corp has used " in events[0]
    assert "of the 10,000 tokens of its quota" in events[0]


def _feed(daemon: Daemon, is_following: threading.Event) -> None:
    """Little calls until the tail shows one, then all the rest: 80 % and 100 % at once."""
    deadline = time.monotonic() + WITHIN_S
    while not is_following.wait(0.1) and time.monotonic() < deadline:
        use(daemon, 1)
    use(daemon, 9_000)
