"""`meterd_client` against a real meterd: exact figures, files, errors, sync and async."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pickle
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import meterd_client
from meterd_client import (
    AsyncClient,
    Client,
    CloseRefused,
    InvalidArgument,
    NotAllowed,
    NotFound,
    NotIdentified,
    Unavailable,
)
from meterd_middleware import Meter
from tests.cli.running import Meterctl
from tests.support.certificates import make_certificates
from tests.support.daemon import Daemon, start_daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = """\
[agency]
name = "Northwind Studio"
close_after_hours = 0

[[prices]]
model = "gpt-4o"
input = "2"
output = "7"

[plans.managed]
type = "cost_plus"
markup = "30%"

[plans.starter]
type = "retainer"
fee = "500"
included_tokens = "2M"
overage_per_million = "60"
limit = "hard"

[clients.acme-corp]
plan = "managed"
from = 2025-01-01

[clients.bigco-inc]
plan = "starter"
from = 2025-01-01
service_cost = "600"
"""
PAGE = Path(__file__).parents[2] / "docs" / "client.md"


def last_day() -> date:
    """The last day of the month before this one, UTC."""
    return datetime.now(UTC).date().replace(day=1) - timedelta(days=1)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A meterd with calls of two clients on the last day of the last month."""
    noon = datetime.combine(last_day(), datetime.min.time(), tzinfo=UTC) + timedelta(hours=12)
    with start_daemon(config=CONFIG) as started:
        with Meter(target=started.target, spool=started.spool_root, service="web") as meter:
            for client, calls in (("acme-corp", 3), ("bigco-inc", 2)):
                for _ in range(calls):
                    meter.record(
                        client=client, project="chat", provider="openai", operation="chat",
                        request_model="gpt-4o", input_tokens=1_000_001, output_tokens=100_000,
                        occurred_at=noon,
                    )  # fmt: skip
            assert meter.flush(timeout=60)
        yield started


@pytest.fixture
def meterd(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.target, environ={}) as client:
        yield client


def test_a_rollup_is_exact_and_its_times_are_aware(meterd: Client) -> None:
    """2.700002 dollars a call: no float could say three of them."""
    rollup = meterd.rollup("last-month", by=("client", "day"))

    assert [(row.client, row.day, row.usage.cost) for row in rollup.rows] == [
        ("acme-corp", last_day(), Decimal("8.100006")),
        ("bigco-inc", last_day(), Decimal("5.400004")),
    ]
    assert rollup.total.cost == Decimal("13.500010")
    assert rollup.total.tokens == 5 * 1_100_001
    assert rollup.start.tzinfo is not None
    assert rollup.start.date() == last_day().replace(day=1)
    assert list(meterd.rollup_rows(last_day(), by="client,day")) == list(rollup.rows)


def test_records_are_the_rows_behind_the_figure(meterd: Client) -> None:
    records = list(meterd.records("acme-corp", last_day()))

    assert len(records) == 3
    assert sum((one.cost or 0 for one in records), Decimal(0)) == Decimal("8.100006")
    assert {one.status for one in records} == {"complete"}
    assert records[0].billed_at.utcoffset() == timedelta(0)
    assert records[0].billed_at.date() == last_day()


def test_quotas_say_what_is_left(meterd: Client) -> None:
    (quota,) = (one for one in meterd.quotas() if one.client == "bigco-inc")

    assert (quota.mode, quota.limit, quota.used, quota.plan) == ("hard", 2_000_000, 0, "starter")
    assert quota.start < datetime.now(UTC) + timedelta(minutes=1)
    assert [one.limit for one in meterd.quotas("acme-corp")] == [None]


def test_a_month_from_draft_to_final(daemon: Daemon) -> None:
    """The invoice an owner would send: 8.10 + 30 % of it, and a PDF of the same bytes twice."""
    month = f"{last_day():%Y-%m}"
    with Client(daemon.target, environ={}) as meterd:
        draft = meterd.invoice("acme-corp", month)
        look = meterd.close_month("last-month", dry_run=True)
        closed = meterd.close_month(month)
        again = meterd.close_month(last_day())
        final = meterd.invoice("acme-corp", month)
        pdf = meterd.document("acme-corp", month)
        listed = list(meterd.invoices(month))
        differences = meterd.verify()
        same = meterd.document(number=final.number)

    assert (draft.is_final, draft.status, draft.number) == (False, "draft", "")
    assert [(line.kind, line.amount) for line in draft.lines] == [
        ("usage", Decimal("8.10")),
        ("markup", Decimal("2.43")),
    ]
    assert draft.total == Decimal("10.53")
    assert (look.period, look.is_closed, look.obstacles) == (month, False, ())
    assert (closed.period, closed.is_closed) == (month, True)
    assert [one.number for one in closed.invoices] == ["INV-000001", "INV-000002"]
    assert again.invoices == closed.invoices == tuple(listed)
    assert final.lines == draft.lines
    assert final.issued_at is not None and final.issued_at.tzinfo is not None
    assert pdf.file_name == f"{final.number}.pdf"
    assert pdf.content.startswith(b"%PDF-")
    assert same == pdf
    assert differences == ()


def test_profit_names_who_loses_money(meterd: Client) -> None:
    loser, winner, total = meterd.profit("last-month")

    assert (loser.client, loser.profit) == ("bigco-inc", Decimal("-93.40"))
    assert {one.kind for one in loser.remedies} >= {"raise_tier", "cost_plus"}
    assert (winner.client, winner.profit) == ("acme-corp", Decimal("2.43"))
    assert total.is_total
    assert total.profit == loser.profit + winner.profit


async def test_the_async_client_answers_the_same(daemon: Daemon) -> None:
    async with AsyncClient(daemon.target, environ={}) as meterd:
        rollup, quotas, profit = await asyncio.gather(
            meterd.rollup("last-month"), meterd.quotas(), meterd.profit("last-month")
        )
        rows = [row async for row in meterd.rollup_rows("last-month")]
        records = [one async for one in meterd.records("acme-corp", last_day())]
        document = await meterd.document("acme-corp", "last-month", format="html")
        with pytest.raises(NotFound, match="INV-999999"):
            await meterd.invoice(number="INV-999999")

    with Client(daemon.target, environ={}) as sync:
        assert rollup == sync.rollup("last-month")
        assert profit == sync.profit("last-month")
        assert records == list(sync.records("acme-corp", last_day()))
        assert len(quotas) == len(sync.quotas())
    assert tuple(rows) == rollup.rows
    assert b"Northwind Studio" in document.content


def test_both_clients_have_the_same_methods() -> None:
    """What one can be asked the other can, with the same words."""

    def asked(kind: type) -> dict[str, object]:
        methods = {name: value for name, value in vars(kind).items() if not name.startswith("_")}
        return {name: value.__code__.co_varnames[: value.__code__.co_argcount]
                for name, value in methods.items()}  # fmt: skip

    assert asked(Client) == asked(AsyncClient)


@pytest.mark.parametrize(
    ("ask", "kind", "sentence"),
    [
        (lambda meterd: meterd.rollup("2025-13"), InvalidArgument, "'2025-13' is no month"),
        (lambda meterd: meterd.rollup(by="colour"), InvalidArgument, "'colour'"),
        (lambda meterd: meterd.invoice(number="INV-999999"), NotFound, "INV-999999"),
        (lambda meterd: meterd.invoice("nobody-known"), NotFound, "nobody-known"),
        (lambda meterd: meterd.invoice(), InvalidArgument, "name a client"),
        (lambda meterd: meterd.document("acme-corp", format="docx"), InvalidArgument, "'docx'"),
        (lambda meterd: meterd.credit("INV-000001", 0.1, why="x"), InvalidArgument, "float"),
        (lambda meterd: meterd.void("INV-000001", why=" "), InvalidArgument, "say why"),
        (lambda meterd: meterd.profit(by="model"), InvalidArgument, "model"),
    ],
)
def test_what_is_refused_is_an_exception_with_the_daemons_sentence(
    meterd: Client, ask: object, kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        ask(meterd)  # type: ignore[operator]  # one of the lambdas above


def test_a_month_that_is_not_over_names_what_stands_in_the_way(meterd: Client) -> None:
    with pytest.raises(CloseRefused) as caught:
        meterd.close_month(last_day() + timedelta(days=60))

    assert caught.value.obstacles
    assert caught.value.obstacles[0] in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.obstacles) == (str(caught.value), caught.value.obstacles)


def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    """With the place that was tried; and where none was named, with all of them."""
    with (
        Client(f"unix:{tmp_path}/no.sock", environ={}) as client,
        pytest.raises(Unavailable, match=r"no\.sock"),
    ):
        client.rollup()
    with (
        Client(environ={"HOME": str(tmp_path)}) as client,
        pytest.raises(Unavailable, match="no meterd answers"),
    ):
        client.quotas()


def test_a_target_is_found_in_the_environment(daemon: Daemon) -> None:
    with Client(environ={"METERD_TARGET": daemon.target}) as client:
        assert client.rollup("last-month").total.requests == 5


@pytest.mark.parametrize("target", ["", "unix:", "host:port", "host:99999", "a b", "[::1", "x:0"])
def test_nonsense_is_no_target(target: str, tmp_path: Path) -> None:
    with (
        Client(target, environ={"HOME": str(tmp_path)}) as client,
        pytest.raises((InvalidArgument, Unavailable)),
    ):
        client.rollup()


def test_over_tls_an_access_key_reaches_as_far_as_its_scope(tmp_path: Path) -> None:
    """The key from a file, the authority by argument; without a key the daemon says so."""
    made = make_certificates(tmp_path)
    key, table = _access_key("read")
    (tmp_path / "key").write_text(key + "\n")
    options = ("--tls-cert", str(made.certificate), "--tls-key", str(made.key))
    with start_daemon(config=CONFIG + table, listen=("127.0.0.1:0",), options=options) as daemon:
        found = re.search(r"127\.0\.0\.1:(\d+)", daemon.stderr)
        assert found
        target, authority = f"localhost:{found[1]}", str(made.authority)
        with Client(target, tls_ca=authority, environ={}) as client, pytest.raises(NotIdentified):
            client.rollup()
        environ = {"METERD_ACCESS_KEY_FILE": str(tmp_path / "key"), "METERD_TLS_CA": authority}
        with Client(target, environ=environ) as client:
            assert client.rollup().total.requests == 0
            with pytest.raises(NotAllowed):
                client.close_month("last-month")
        with (
            Client(target, access_key=key, tls_ca=str(tmp_path / "none"), environ={}) as client,
            pytest.raises(InvalidArgument, match="no such file"),
        ):
            client.rollup()


def _access_key(scope: str) -> tuple[str, str]:
    run = Meterctl()("access-key", "books", "--scope", scope, "--format", "json")
    shown = json.loads(run.out)
    return shown["access_key"], "\n" + shown["config"] + "\n"


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S))
def test_each_example_of_the_page_runs(
    daemon: Daemon, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pasted, against a daemon that the environment names."""
    monkeypatch.setenv("METERD_TARGET", daemon.target)
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()

    with contextlib.redirect_stdout(printed):
        exec(compile(example, "client.md", "exec"), {"__name__": "__main__"})

    assert printed.getvalue()
    if "document(" in example:
        assert sorted(os.listdir(tmp_path)) == ["INV-000001.pdf", "INV-000002.pdf"]


def test_everything_public_stands_on_the_page_or_in_a_docstring() -> None:
    page = PAGE.read_text()

    for name in meterd_client.__all__:
        assert getattr(meterd_client, name).__doc__, name
    for name in vars(Client):
        if not name.startswith("_") and name != "close":
            assert name in page, name
