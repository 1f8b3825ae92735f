"""instrument: in place, idempotent, on whatever holds an httpx client; clear where it can't."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any
from unittest import mock

import aiohttp
import boto3
import httpx
import httpx2
import openai
import pytest
import requests

from meterd_middleware import CannotInstrument, instrument, instrument_all, tagged
from meterd_middleware import httpx as metered_httpx
from meterd_middleware import httpx2 as metered_httpx2
from meterd_middleware.testing import RecordingMeter
from meterd_middleware.transport import Shell
from tests.app.sdks import MESSAGES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from tests.support.provider import Provider

LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2])
CHAT = {"model": "gpt-4o", "messages": MESSAGES}
PATH = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def _acme() -> Iterator[None]:
    with tagged(client="acme-corp"):
        yield


@LIBRARIES
def test_instrumenting_twice_counts_once_and_changes_the_label(
    meter: RecordingMeter, provider: Provider, library: ModuleType
) -> None:
    client = library.Client(base_url=provider.url)
    instrument(client, meter=meter)
    instrument(client, meter=meter, account="key-7")

    client.post(PATH, json=CHAT)

    assert [r.account for r in meter.records] == ["key-7"]
    client.close()


@LIBRARIES
def test_proxies_and_mounts_stay_and_are_metered(
    meter: RecordingMeter, library: ModuleType
) -> None:
    """A client with mounts sends nothing through its main transport for those hosts."""
    went: list[str] = []

    def through(name: str) -> Any:
        def answer(request: Any) -> Any:
            went.append(name)
            return library.Response(200, json={"usage": {"prompt_tokens": 1}})

        return library.MockTransport(answer)

    client = library.Client(
        transport=through("main"),
        mounts={"https://": through("proxy"), "all://internal.example": None},
    )
    instrument(client, meter=meter)

    client.post("https://api.openai.com" + PATH, json=CHAT)
    client.post("http://internal.example" + PATH, json=CHAT)

    assert went == ["proxy", "main"]
    assert len(meter.records) == 2
    assert client._mounts[next(p for p in client._mounts if p.host == "internal.example")] is None
    client.close()


def test_an_sdks_limits_and_redirects_stay_what_the_sdk_made_them(meter: RecordingMeter) -> None:
    """`transport=` would lose openai's 1,000 connections; wrapping in place does not."""
    client = openai.OpenAI(api_key="k")
    pool = client._client._transport._pool  # type: ignore[attr-defined]

    instrument(client, meter=meter)

    shell: Any = client._client._transport
    assert isinstance(shell, Shell)
    assert shell.inner._pool is pool
    assert client._client.follow_redirects
    client.close()


def test_copies_of_a_client_share_its_metering(meter: RecordingMeter, provider: Provider) -> None:
    client = instrument(
        openai.OpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter
    )
    client.with_options(timeout=3).chat.completions.create(model="gpt-4o", messages=MESSAGES)
    client.copy().chat.completions.create(model="gpt-4o", messages=MESSAGES)

    assert len(meter.records) == 2
    client.close()


@pytest.mark.parametrize(
    ("thing", "reason"),
    [
        (lambda: boto3, "boto3.client('bedrock-runtime')"),
        (requests.Session, "urllib3"),
        (lambda: aiohttp, "only an aiohttp.ClientSession can"),
        (object, "holds no httpx or httpx2 client"),
        (lambda: "not a client", "holds no httpx or httpx2 client"),
    ],
)
def test_what_cant_be_metered_says_why_and_what_to_do(
    meter: RecordingMeter, thing: Any, reason: str
) -> None:
    with pytest.raises(CannotInstrument) as caught:
        instrument(thing(), meter=meter)

    assert reason in str(caught.value)
    assert "meter.record(...)" in str(caught.value)


class _Endless:
    """A client of an SDK that nobody knows, which has whatever it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return _Endless()


class _Unwilling:
    """A client that needs a key before it says anything."""

    @property
    def _client(self) -> Any:
        raise PermissionError("no key")


@pytest.mark.parametrize(
    "thing",
    [None, 7, {}, [], len, _Endless(), _Unwilling(), mock.MagicMock(),
     subprocess, iter(()), ValueError("x"), openai.OpenAI],
    ids=lambda thing: type(thing).__name__,
)  # fmt: skip
def test_whatever_is_given_instead_of_a_client_is_said_in_one_sentence(
    meter: RecordingMeter, thing: Any
) -> None:
    """Before any call is made, and with no other exception."""
    with pytest.raises(CannotInstrument) as caught:
        instrument(thing, meter=meter)

    assert "\n" not in str(caught.value)


def test_a_version_of_an_sdk_that_keeps_its_client_elsewhere_is_said_to_be_unknown(
    meter: RecordingMeter,
) -> None:
    """What can't be metered whole isn't metered in part."""
    genai = pytest.importorskip("google.genai._api_client")
    client = genai.BaseApiClient.__new__(genai.BaseApiClient)

    with pytest.raises(CannotInstrument, match="made otherwise in this version"):
        instrument(client, meter=meter)


def test_a_transport_of_the_wrong_family_is_noticed_before_the_first_call(
    meter: RecordingMeter,
) -> None:
    """Without us it dies at the first call, after sending it, with a bare assertion."""
    wrong: Any = httpx.MockTransport(lambda request: httpx.Response(200))
    with pytest.raises(CannotInstrument, match=r"needs a httpx2\.BaseTransport.*\(of httpx\)"):
        instrument(httpx2.Client(transport=wrong), meter=meter)
    with pytest.raises(CannotInstrument, match="AsyncMeteredTransport"):
        metered_httpx2.AsyncMeteredTransport(meter, wrong)
    with pytest.raises(CannotInstrument):
        metered_httpx.MeteredTransport(meter, httpx2.HTTPTransport())  # type: ignore[arg-type]


def test_a_metered_transport_in_a_client_of_the_other_family_sends_nothing(
    meter: RecordingMeter, provider: Provider
) -> None:
    wrong: Any = metered_httpx.MeteredTransport(meter)
    client = httpx2.Client(transport=wrong, base_url=provider.url)

    with pytest.raises(CannotInstrument, match=r"meterd_middleware\.httpx2"):
        client.post(PATH, json=CHAT)

    assert provider.ledger.served == []
    client.close()


async def test_a_sync_transport_in_an_async_client_sends_nothing(meter: RecordingMeter) -> None:
    wrong: Any = metered_httpx2.MeteredTransport(meter)
    async with httpx2.AsyncClient(transport=wrong) as client:
        with pytest.raises(CannotInstrument, match="AsyncMeteredTransport"):
            await client.post("https://x" + PATH, json=CHAT)


@LIBRARIES
def test_a_client_can_be_built_on_a_metered_transport(
    meter: RecordingMeter, provider: Provider, library: ModuleType
) -> None:
    shells = {"httpx": metered_httpx, "httpx2": metered_httpx2}[library.__name__]
    transport = shells.MeteredTransport(meter, library.HTTPTransport(), account="key-7")
    with library.Client(transport=transport, base_url=provider.url) as client:
        client.post(PATH, json=CHAT)

    assert [r.account for r in meter.records] == ["key-7"]
    assert meter.records[0].tokens == provider.ledger.counts().tokens


@LIBRARIES
async def test_an_async_client_can_be_built_on_a_metered_transport(
    meter: RecordingMeter, provider: Provider, library: ModuleType
) -> None:
    shells = {"httpx": metered_httpx, "httpx2": metered_httpx2}[library.__name__]
    transport = shells.AsyncMeteredTransport(meter)
    async with library.AsyncClient(transport=transport, base_url=provider.url) as client:
        await client.post(PATH, json=CHAT)

    assert meter.records[0].tokens == provider.ledger.counts().tokens


@LIBRARIES
def test_instrument_all_leaves_the_apps_own_services_alone(
    meter: RecordingMeter, library: ModuleType
) -> None:
    """Tags travel to them in the very headers that no provider may see."""
    seen: list[tuple[str, bool]] = []

    def answer(request: Any) -> Any:
        seen.append((request.url.host, "x-client-id" in request.headers))
        return library.Response(200, json={})

    headers = {"X-Client-ID": "acme-corp"}
    with library.Client(transport=library.MockTransport(answer)) as client, instrument_all(meter):
        client.post("https://billing.internal/orders", json={}, headers=headers)
        client.post("https://api.openai.com" + PATH, json=CHAT, headers=headers)
        client.get("https://api.openai.com/v1/models", headers=headers)

    assert seen == [
        ("billing.internal", True),
        ("api.openai.com", False),
        ("api.openai.com", False),
    ]


@LIBRARIES
def test_undo_leaves_every_client_as_it_was(
    meter: RecordingMeter, provider: Provider, library: ModuleType
) -> None:
    original = library.Client._transport_for_url
    with library.Client(base_url=provider.url) as client:
        done = instrument_all(meter)
        client.post(PATH, json=CHAT)
        done.undo()
        done.undo()
        client.post(PATH, json=CHAT)

    assert len(meter.records) == 1
    assert library.Client._transport_for_url is original


def test_of_several_instrument_all_the_newest_counts_and_the_one_before_when_it_is_undone(
    meter: RecordingMeter, provider: Provider
) -> None:
    """A library's or a test's block inside of the app's must not end the app's metering."""
    other = RecordingMeter()
    with httpx2.Client(base_url=provider.url) as client, instrument_all(meter):
        client.post(PATH, json=CHAT)
        with instrument_all(other):
            client.post(PATH, json=CHAT)
        client.post(PATH, json=CHAT)

    assert (len(meter.records), len(other.records)) == (2, 1)


def test_instrument_all_is_undone_in_whatever_order(
    meter: RecordingMeter, provider: Provider
) -> None:
    original = httpx2.Client._transport_for_url
    with httpx2.Client(base_url=provider.url) as client:
        first, second = instrument_all(meter), instrument_all(meter)
        first.undo()
        first.undo()
        client.post(PATH, json=CHAT)
        second.undo()
        client.post(PATH, json=CHAT)

    assert len(meter.records) == 1
    assert httpx2.Client._transport_for_url is original


def test_a_client_that_is_instrumented_itself_is_not_counted_twice(
    meter: RecordingMeter, provider: Provider
) -> None:
    with instrument(httpx2.Client(base_url=provider.url), meter=meter) as client, instrument_all(
        meter
    ):  # fmt: skip
        client.post(PATH, json=CHAT)

    assert len(meter.records) == 1


def run_alone(code: str, provider: Provider) -> str:
    """Run code in a process of its own, where nothing is imported yet."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), provider.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_libraries_imported_after_instrument_all_are_metered_too(provider: Provider) -> None:
    told = run_alone(
        """
        import sys
        from meterd_middleware import instrument_all, tagged
        from meterd_middleware.testing import RecordingMeter
        meter = RecordingMeter(client="acme-corp")
        done = instrument_all(meter)
        assert not {"httpx", "httpx2"} & sys.modules.keys()
        import httpx, httpx2
        for library in (httpx, httpx2):
            with library.Client() as client:
                client.post(sys.argv[1] + "/v1/chat/completions",
                            json={"model": "m", "messages": [{"role": "user"}]})
        print([r.client for r in meter.records], httpx.__loader__.__class__.__name__)
        """,
        provider,
    )

    assert told == "['acme-corp', 'acme-corp'] SourceFileLoader"


def test_httpx_that_is_an_alias_of_httpx2_is_metered_once(provider: Provider) -> None:
    told = run_alone(
        """
        import sys
        import httpx2
        httpx2.alias_httpx()
        import httpx
        from meterd_middleware import instrument, instrument_all
        from meterd_middleware.testing import RecordingMeter
        meter = RecordingMeter(client="acme-corp")
        client = instrument(httpx.Client(), meter=meter)
        with instrument_all(meter), client, httpx.Client() as other:
            for each in (client, other):
                each.post(sys.argv[1] + "/v1/chat/completions",
                          json={"model": "m", "messages": [{"role": "user"}]})
        print(len(meter.records), meter.faults)
        """,
        provider,
    )

    assert told == "2 []"


def test_disabled_changes_nothing(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    from meterd_middleware import Meter

    monkeypatch.setenv("METERD_DISABLED", "1")
    monkeypatch.setenv("METERD_SPOOL", "/nonexistent/spool")
    client = httpx2.Client(base_url=provider.url)
    before = client._transport
    with Meter() as meter:
        instrument(client, meter=meter)
        assert client._transport is before
        with instrument_all(meter), metered_client(meter, provider) as built:
            built.post(PATH, json=CHAT, headers={"X-Client-ID": "acme-corp"})
        meter.check(client="acme-corp", tokens=10**12)
        meter.record(client="acme-corp", request_model="m", input_tokens=1)
        with meter.call(client="acme-corp", request_model="m") as call:
            call.settle(input_tokens=1, output_tokens=1)
        assert meter.flush()

    assert provider.ledger.served[0].received_headers["x-client-id"] == "acme-corp"
    client.close()


def metered_client(meter: Any, provider: Provider) -> httpx2.Client:
    transport = metered_httpx2.MeteredTransport(meter)
    return httpx2.Client(transport=transport, base_url=provider.url)
