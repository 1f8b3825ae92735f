"""Asking for usage on the app's behalf: spliced in, taken out again, byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd_middleware.include_usage import UsageHider, ask
from meterd_middleware.request import ProviderCall, read_request
from tests.wire.reading import cut

PATH = "/v1/chat/completions"


def call_of(body: bytes, host: str = "api.openai.com") -> ProviderCall:
    call = read_request("POST", host, PATH, "", {}, body)
    assert call is not None
    return call


def asked_of(
    body: bytes, host: str = "api.openai.com", hosts: tuple[str, ...] = ()
) -> bytes | None:
    return ask(call_of(body, host), body, hosts)


BASE: dict[str, Any] = {
    "model": "m",
    "messages": [{"content": '"stream_options":{'}],
    "stream": True,
}


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize(
    "options", [{}, {"stream_options": None}, {"stream_options": {}},
                {"stream_options": {"include_obfuscation": False}}], ids=repr,
)  # fmt: skip
def test_it_is_asked_and_all_else_stays_as_it_was(
    options: dict[str, Any], separators: tuple[str, str]
) -> None:
    """The app's other options too."""
    body = json.dumps({**BASE, **options}, separators=separators).encode()

    asked = asked_of(body)

    assert asked is not None
    after = json.loads(asked)
    kept = (options.get("stream_options") or {}).items()
    assert after.pop("stream_options") == {"include_usage": True, **dict(kept)}
    assert after == {name: value for name, value in BASE.items() if name != "stream_options"}


@pytest.mark.parametrize(
    "change",
    [{"stream": False}, {"stream_options": {"include_usage": True}},
     {"stream_options": {"include_usage": False}}, {"stream_options": "x"}],
    ids=repr,
)  # fmt: skip
def test_what_the_app_decided_is_left_alone(change: dict[str, Any]) -> None:
    """Asked already, refused, or not streamed."""
    assert asked_of(json.dumps({**BASE, **change}).encode()) is None


def test_only_hosts_that_take_it_are_asked_and_a_user_can_name_more() -> None:
    """Mistral answers 422."""
    body = json.dumps(BASE).encode()

    assert asked_of(body, "api.mistral.ai") is None
    assert asked_of(body, "10.1.2.3") is None
    assert asked_of(body, "10.1.2.3", ("10.1.2.3",)) is not None


@pytest.mark.parametrize("host", ["api.groq.com", "api.x.ai", "api.deepseek.com", "openrouter.ai"])
def test_where_usage_comes_unasked_nothing_is_asked(host: str) -> None:
    """Asking would only change the app's bytes."""
    assert asked_of(json.dumps(BASE).encode(), host) is None


@pytest.mark.parametrize("host", ["api.fireworks.ai", "api.together.xyz"])
def test_where_a_null_usage_comes_unasked_it_stays(host: str) -> None:
    """The event that asking added goes all the same."""
    body = json.dumps(BASE).encode()
    null = b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n'
    added = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    hider = UsageHider(call_of(body, host).provider)

    assert asked_of(body, host) is not None
    assert hider.feed(null) + hider.feed(null + added) + hider.finish() == null * 2


def events(texts: list[str], *, with_usage: bool, ending: str) -> bytes:
    """A stream as a provider sends it, asked for usage or not."""
    null = ',"usage":null' if with_usage else ""
    out = []
    for text in texts:
        content = json.dumps(text, ensure_ascii=False)
        out.append(
            f'data: {{"id":"c","choices":[{{"delta":{{"content":{content}}}}}]{null}'
            f',"obfuscation":"ab"}}'
        )
    out.append(f'data: {{"id":"c","choices":[],"prompt_filter_results":[]{null}}}')
    if with_usage:
        usage = '{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}'
        out.append(f'data: {{"id":"c","object":"x","choices":[],"usage":{usage}}}')
    out.append("data: [DONE]")
    return "".join(block + ending * 2 for block in out).encode()


@given(
    texts=st.lists(st.text(max_size=20) | st.just('"usage":null'), max_size=6),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    sizes=st.lists(st.integers(1, 80), max_size=80),
)
def test_the_app_gets_the_bytes_it_would_have_got_without(
    texts: list[str], ending: str, sizes: list[int]
) -> None:
    """However the stream is cut."""
    hider = UsageHider()

    passed = b"".join(
        hider.feed(c) for c in cut(events(texts, with_usage=True, ending=ending), sizes)
    )

    assert passed + hider.finish() == events(texts, with_usage=False, ending=ending)


def test_a_whole_event_is_passed_on_at_once() -> None:
    """Chunk timing is the provider's."""
    hider = UsageHider()

    assert hider.feed(b'data: {"choices":[{}]}\n\n') == b'data: {"choices":[{}]}\n\n'


def test_an_event_with_content_of_its_own_is_never_hidden() -> None:
    """Azure's filter, moderation."""
    event = b'data: {"choices":[],"usage":{"prompt_tokens":1},"moderation":{"a":1}}\n\n'
    hider = UsageHider()

    assert hider.feed(event) == event


def test_a_long_event_is_held_without_being_copied_again_for_each_chunk() -> None:
    """A megabyte that comes byte by byte: copying it each time would take minutes."""
    content = json.dumps({"choices": [{"delta": {"content": "x" * 900_000}}]}).encode()
    event = b"data: " + content + b"\n\n"
    hider = UsageHider()

    passed = b"".join(hider.feed(event[at : at + 1]) for at in range(len(event)))

    assert passed == event


def test_an_event_that_never_ends_is_not_held_for_ever() -> None:
    """Beyond a megabyte it passes as it is."""
    hider = UsageHider()
    chunk = b"x" * 600_000

    assert hider.feed(chunk) == b""
    assert hider.feed(chunk) == chunk * 2
    assert hider.feed(b"more") == b"more"
