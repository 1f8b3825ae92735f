"""What a provider states is what a reader finds: any dialect, any chunking, any encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterd_middleware.readers import reader_for
from tests.wire.dialects import DIALECTS, Counts, Dialect
from tests.wire.encodings import ENCODINGS
from tests.wire.own_shapes import OWN_SHAPES
from tests.wire.reading import call_of, counts_in, cut, expected, read

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn

ALL = (*DIALECTS, *OWN_SHAPES)
STREAMED = [dialect for dialect in ALL if dialect.stream is not None]


@st.composite
def counts_for(draw: DrawFn, dialect: Dialect) -> Counts:
    """Counts that the dialect can state, parts inside their wholes."""

    def part(name: str, whole: int) -> int:
        return draw(st.integers(0, whole)) if name in dialect.kinds else 0

    taken = draw(st.integers(0, 2_000_000))
    given_out = draw(st.integers(0, 200_000)) if dialect.has_output else 0
    read_ = part("cache_read", taken)
    write = part("cache_write", taken - read_)
    return Counts(
        taken,
        given_out,
        cache_read=read_,
        cache_write=write,
        cache_write_long=part("cache_write_long", write),
        reasoning=part("reasoning", given_out),
        audio_input=part("audio_input", taken),
        audio_output=part("audio_output", given_out),
    )


TEXTS = st.lists(st.text(max_size=30), min_size=1, max_size=8)
SIZES = st.lists(st.integers(1, 200), max_size=60)
BY_NAME = pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.name)
BY_STREAM = pytest.mark.parametrize("dialect", STREAMED, ids=lambda dialect: dialect.name)
SOME = settings(max_examples=40, deadline=None)


@BY_NAME
@SOME
@given(data=st.data())
def test_a_whole_answer_is_read_field_by_field(dialect: Dialect, data: st.DataObject) -> None:
    """Cut anywhere, in any encoding."""
    counts = data.draw(counts_for(dialect))
    encoding, encode = ENCODINGS[data.draw(st.sampled_from(sorted(ENCODINGS)))]
    chunks = cut(encode(dialect.whole(counts)), data.draw(SIZES))

    reading = read(call_of(dialect), chunks, encoding=encoding)

    assert [counts_in(usage) for usage in reading.usages] == [expected(counts)]
    assert reading.is_complete
    assert reading.note == ""


@BY_STREAM
@SOME
@given(data=st.data())
def test_a_stream_is_read_field_by_field(dialect: Dialect, data: st.DataObject) -> None:
    """Cut anywhere, in any encoding, whatever the text says."""
    assert dialect.stream is not None
    counts = data.draw(counts_for(dialect))
    encoding, encode = ENCODINGS[data.draw(st.sampled_from(sorted(ENCODINGS)))]
    whole = b"".join(dialect.stream(counts, data.draw(TEXTS)))
    chunks = cut(encode(whole), data.draw(SIZES))

    reading = read(
        call_of(dialect, streamed=True), chunks,
        content_type=dialect.stream_type, encoding=encoding,
    )  # fmt: skip

    assert [counts_in(usage) for usage in reading.usages] == [expected(counts)]
    assert reading.is_complete
    assert reading.note == ""


@pytest.mark.parametrize(
    "dialect", [one for one in STREAMED if one.is_terminated], ids=lambda dialect: dialect.name
)
def test_the_terminal_event_ends_it_before_the_end_of_file(dialect: Dialect) -> None:
    """SDKs stop reading there: the end of file never comes."""
    assert dialect.stream is not None
    events = dialect.stream(Counts(10, 5), ["a", "b"])
    reader = reader_for(call_of(dialect, streamed=True), 200, {"content-type": dialect.stream_type})

    for byte in b"".join(events):
        reader.feed(bytes([byte]))

    assert reader.is_finished
    assert counts_in(reader.finish(False).usages[0]) == expected(Counts(10, 5))


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize(
    "dialect",
    [one for one in STREAMED if one.stream_type == "text/event-stream"],
    ids=lambda dialect: dialect.name,
)
def test_any_line_end_will_do_and_the_last_event_needs_no_blank_line(
    dialect: Dialect, ending: bytes
) -> None:
    """With a byte order mark, comments, and a line separator raw in the text."""
    assert dialect.stream is not None
    events = dialect.stream(Counts(10, 5), ["a\u2028b\u0085", "c"])
    data = b"\xef\xbb\xbf: PROCESSING\n\n" + b"".join(events).removesuffix(b"\n\n")
    data = data.replace(b"\n", ending)

    for size in (1, 7, len(data)):
        reading = read(
            call_of(dialect, streamed=True), cut(data, [size] * len(data)),
            content_type=dialect.stream_type,
        )  # fmt: skip

        assert [counts_in(usage) for usage in reading.usages] == [expected(Counts(10, 5))]
        assert reading.is_complete


@BY_STREAM
def test_what_is_cut_short_is_not_complete_and_its_text_is_counted(dialect: Dialect) -> None:
    """The provider bills it all the same."""
    assert dialect.stream is not None
    text = "The quick brown fox jumps over the lazy dog. "
    events = dialect.stream(Counts(1000, 500), [text] * 40)
    half = events[: len(events) // 2]

    reading = read(
        call_of(dialect, streamed=True), half, content_type=dialect.stream_type, is_whole=False
    )

    assert not reading.is_complete
    seen = sum(reading.seen.characters.values())
    assert 15 * len(text) <= seen <= 25 * len(text)
