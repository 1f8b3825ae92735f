"""Thresholds reach the hook: at least once, signed, retried, under one key."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from meterd.config.agency import Hook
from meterd.delivery import NotDelivered, deliver, signature
from meterd.hooks import Announcements, Hooks, ThresholdEvent
from tests.deploy.asking import ship, until, used
from tests.support.daemon import start_daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

from datetime import UTC, datetime

EVENT = ThresholdEvent(
    rule="client acme-corp",
    client="acme-corp",
    period="2026-11",
    percent="80",
    of="quota",
    used=1_600_000,
    limit=2_000_000,
    quota_version=2_000_000,
    at_unix_ns=1_795_000_000_000_000_000,
    plan="starter",
)

CONFIG = """\
[plans.starter]
type = "retainer"
fee = "500"
included_tokens = "10k"
limit = "hard"
[clients.acme-corp]
plan = "starter"
"""


class Receiver(ThreadingHTTPServer):
    """A webhook that keeps what it got, and answers what it was told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.before_answer: Callable[[], None] = _nothing

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


def _nothing() -> None:
    """What happens before an answer, as a rule."""


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((dict(self.headers), body))
        self.server.before_answer()
        self.send_response(self.server.answers.pop(0) if self.server.answers else 204)
        self.send_header("Location", self.server.url)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook on loopback."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def until_taken(hooks: Hooks, taken: asyncio.Event) -> None:
    """Run until the hook took what waits."""
    hooks.looked()
    running = asyncio.create_task(hooks.run())
    async with asyncio.timeout(20):
        await taken.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_webhook_can_check_who_sent_it(receiver: Receiver) -> None:
    """HMAC-SHA256 over the body with the shared secret, and a key to tell repeats by."""
    hook = Hook(url=receiver.url, secret="hunter2")

    await deliver(hook, EVENT.key, EVENT.body())

    ((headers, body),) = receiver.got
    assert headers["X-Meterd-Signature"] == signature("hunter2", body)
    assert headers["Idempotency-Key"] == EVENT.key
    assert json.loads(body)["schema"] == "meterd.threshold/1"
    assert json.loads(body)["used"] == 1_600_000


@pytest.mark.parametrize("status", [302, 400, 404, 500, 503])
async def test_a_webhook_that_does_not_take_it_is_asked_again(
    receiver: Receiver, status: int
) -> None:
    """A redirect would be followed as a GET without the body: it is no success."""
    receiver.answers = [status]

    with pytest.raises(NotDelivered, match=f"the webhook answered {status}"):
        await deliver(Hook(url=receiver.url, secret="x"), "key", b"{}")


async def test_a_command_gets_the_event_on_its_stdin(place: Path) -> None:
    """And its key in the environment."""
    program = (
        "import os,sys; open(sys.argv[1],'w').write(os.environ['METERD_EVENT_ID']+sys.stdin.read())"
    )
    hook = Hook(command=(sys.executable, "-c", program, str(place / "got")))

    await deliver(hook, EVENT.key, EVENT.body())

    got = await asyncio.to_thread((place / "got").read_text)
    assert got == EVENT.key + EVENT.body().decode()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ((sys.executable, "-c", "import sys; sys.exit('no')"), "exited with 1: no"),
        (("/no/such/program",), "can't be started"),
        ((sys.executable, "-c", "import sys; sys.stdin.read(); input()"), "exited with 1"),
    ],
)
async def test_a_command_that_fails_says_why(command: tuple[str, ...], said: str) -> None:
    """The log line that the operator finds."""
    with pytest.raises(NotDelivered, match=said):
        await deliver(Hook(command=command), "key", b"{}")


async def test_a_command_that_hangs_is_ended() -> None:
    """One that never ends must not pile up."""
    program = "import threading; threading.Event().wait()"

    with pytest.raises(NotDelivered, match="took over 300 ms"):
        await deliver(Hook(command=(sys.executable, "-c", program), timeout_ms=300), "key", b"")


async def test_a_failure_is_tried_again_under_the_same_key(place: Path) -> None:
    """Until it is taken; then its file is gone."""
    tries: list[str] = []
    taken = asyncio.Event()

    async def fails_twice(hook: Hook, key: str, body: bytes) -> None:
        tries.append(key)
        if len(tries) < 3:
            raise NotDelivered("not yet")
        taken.set()

    hooks = Hooks(
        place, lambda: Hook(command=("x",)), Announcements(), delivery=fails_twice, pauses_s=(0.0,)
    )
    assert await hooks.prepare(EVENT)
    hooks.tell(EVENT)

    await until_taken(hooks, taken)

    assert tries == [EVENT.key] * 3


async def test_what_a_killed_daemon_had_prepared_is_told_by_the_next(place: Path) -> None:
    """Between the claim in the ledger and the delivery a crash must not lose it."""
    got: list[bytes] = []
    taken = asyncio.Event()

    async def takes(hook: Hook, key: str, body: bytes) -> None:
        got.append(body)
        taken.set()

    died = Hooks(place, lambda: Hook(command=("x",)), Announcements())
    assert await died.prepare(EVENT)

    following = Hooks(place, lambda: Hook(command=("x",)), Announcements(), delivery=takes)
    await until_taken(following, taken)

    assert got == [EVENT.body()]


SENTENCE = (
    "client acme-corp has used 1,600,000 of the 2,000,000 tokens of its quota in 2026-11: "
    "80% reached"
)


async def test_without_a_hook_the_log_and_the_tails_hear_of_it(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And nothing stays behind."""
    announcements, heard = Announcements(), list[tuple[str, str]]()
    announcements.subscribe(lambda client, sentence: heard.append((client, sentence)))
    hooks = Hooks(place / "outbox", lambda: None, announcements)

    assert await hooks.prepare(EVENT)
    hooks.tell(EVENT)

    assert not list((place / "outbox").iterdir())
    assert heard == [("acme-corp", SENTENCE)]
    assert caplog.messages == [SENTENCE]


async def test_what_a_killed_daemon_had_not_logged_the_next_one_logs(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a hook the line in the log is all there is; it must not be lost either."""
    died = Hooks(place, lambda: None, Announcements())
    assert await died.prepare(EVENT)

    following = Hooks(place, lambda: None, Announcements())
    following.looked()
    running = asyncio.create_task(following.run())
    async with asyncio.timeout(20):
        while await asyncio.to_thread(_holds_events, place):
            pass
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert caplog.messages == [SENTENCE]


def _holds_events(outbox: Path) -> bool:
    return any(outbox.glob("*.json"))


async def test_what_the_first_look_tells_is_not_told_again_from_the_outbox(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Prepared, then killed before the claim: the next process claims it, and tells it once."""
    got: list[bytes] = []
    taken = asyncio.Event()

    async def takes(hook: Hook, key: str, body: bytes) -> None:
        got.append(body)
        taken.set()

    died = Hooks(place, lambda: Hook(command=("x",)), Announcements())
    assert await died.prepare(EVENT)

    following = Hooks(place, lambda: Hook(command=("x",)), Announcements(), delivery=takes)
    assert not await following.prepare(EVENT)
    following.tell(EVENT)
    await until_taken(following, taken)

    assert got == [EVENT.body()]
    assert caplog.messages == [SENTENCE]


def test_a_real_threshold_reaches_a_real_webhook_once_each(place: Path, receiver: Receiver) -> None:
    """80 % and 100 % in one go: two events; a restart tells neither again."""
    hook = f'[on_threshold]\nurl = "{receiver.url}"\nsecret = "hunter2"\n'
    with start_daemon(place, config=CONFIG + hook) as daemon:
        ship(daemon, used("acme-corp", datetime.now(UTC), 12_000))

        assert until(lambda: len(receiver.got) == 2)
        assert until(lambda: not any((daemon.data / "outbox").glob("*.json")))
        daemon.restart()
        ship(daemon, used("acme-corp", datetime.now(UTC), 1_000))
        assert until(lambda: not any((daemon.data / "outbox").glob("*.json")))

    events = [json.loads(body) for _, body in receiver.got]
    assert sorted(event["percent"] for event in events) == ["100", "80"]
    assert {event["client"] for event in events} == {"acme-corp"}


def test_a_daemon_killed_at_the_worst_moments_loses_no_event(
    place: Path, receiver: Receiver
) -> None:
    """First between commit and claim (as a rule: a look comes once a second), then with the
    webhook's answer on its way: each event comes again under its key, and none is a new one."""
    hook = f'[on_threshold]\nurl = "{receiver.url}"\nsecret = "hunter2"\n'
    with start_daemon(place, config=CONFIG + hook) as daemon:
        ship(daemon, used("acme-corp", datetime.now(UTC), 12_000))
        daemon.kill()
        first, killed = threading.Lock(), threading.Event()

        def kill() -> None:
            if first.acquire(blocking=False):
                daemon.kill()
                killed.set()

        receiver.before_answer = kill
        daemon.start()
        assert until(killed.is_set)
        daemon.start()
        assert until(lambda: len({headers["Idempotency-Key"] for headers, _ in receiver.got}) == 2)
        assert until(lambda: not any((daemon.data / "outbox").glob("*.json")))
        ship(daemon, used("acme-corp", datetime.now(UTC), 1_000))

    keys = [headers["Idempotency-Key"] for headers, _ in receiver.got]
    assert len(set(keys)) == 2
    assert len(keys) > 2, "the one whose answer was lost has to come again"
    assert {json.loads(body)["percent"] for _, body in receiver.got} == {"80", "100"}
