"""Frames survive what disks do to them: torn ends, flipped bits, garbage between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meterd_middleware.segment import (
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    KIND_RECORD,
    MAGIC,
    Frame,
    frame,
    scan,
)

payloads = st.lists(st.binary(max_size=60) | st.just(MAGIC * 3), min_size=1, max_size=8)


def _segment(contents: list[bytes]) -> tuple[bytes, list[Frame]]:
    data, frames = b"", []
    for sequence, payload in enumerate(contents, start=1):
        head = len(payload) // 2
        data += frame(KIND_RECORD, sequence, payload, head)
        frames.append((KIND_RECORD, sequence, payload[:head], payload[head:]))
    return data, frames


def test_a_frame_is_laid_out_as_the_documentation_says() -> None:
    """Others read these files: the layout is a promise."""
    data = frame(3, 7, b"payload", 4)

    assert data[:2] == b"\xd1M"
    assert data[2] == 3
    assert data[3] == 4
    assert int.from_bytes(data[4:8], "little") == len(b"payload")
    assert int.from_bytes(data[12:20], "little") == 7
    assert data[HEADER_BYTES:] == b"payload"


@given(payloads)
def test_what_was_framed_is_found_again(contents: list[bytes]) -> None:
    """decode(encode(x)) == x, whatever stands in the payloads."""
    data, frames = _segment(contents)

    found = scan(data, is_end=True)

    assert found.frames == frames
    assert found.used == len(data)
    assert not found.skipped


@given(payloads, st.data())
def test_a_torn_end_costs_the_torn_frame_and_nothing_before(
    contents: list[bytes], draw: st.DataObject
) -> None:
    """A process or host that dies in a write leaves a part of a frame."""
    data, frames = _segment(contents)
    cut = draw.draw(st.integers(0, len(data)))

    found = scan(data[:cut], is_end=True)

    whole = len(found.frames)
    assert found.frames == frames[:whole]
    ends = [len(_segment(contents[:count])[0]) for count in range(len(contents) + 1)]
    assert whole == sum(end <= cut for end in ends) - 1
    assert found.skipped == found.skipped_at_end == cut - ends[whole]


@given(payloads, st.data())
def test_a_flipped_bit_costs_its_frame_and_no_other(
    contents: list[bytes], draw: st.DataObject
) -> None:
    """Whatever bit it is: of the magic, the length, the checksum, the payload."""
    data, frames = _segment(contents)
    at = draw.draw(st.integers(0, len(data) - 1))
    broken = bytearray(data)
    broken[at] ^= 1 << draw.draw(st.integers(0, 7))

    found = scan(bytes(broken), is_end=True)

    ends = [len(_segment(contents[:count])[0]) for count in range(1, len(contents) + 1)]
    hit = sum(end <= at for end in ends)
    assert found.frames == frames[:hit] + frames[hit + 1 :]
    assert found.skipped > 0


@given(payloads, st.data())
def test_a_piece_that_ends_in_a_frame_is_read_on_from_there(
    contents: list[bytes], draw: st.DataObject
) -> None:
    """Segments are read a quarter of a MiB at a time."""
    data, frames = _segment(contents)
    cut = draw.draw(st.integers(0, len(data)))

    first = scan(data[:cut], is_end=False)
    second = scan(data[first.used :], is_end=True)

    assert first.frames + second.frames == frames
    assert not first.skipped + second.skipped


def test_an_impossible_length_is_corruption_and_not_waited_for() -> None:
    """Else one bad bit would make a reader take the rest of the file for one frame."""
    good = frame(KIND_RECORD, 2, b"good")
    bad = bytearray(frame(KIND_RECORD, 1, b"bad"))
    bad[4:8] = (FRAME_BYTES_MAX + 1).to_bytes(4, "little")

    found = scan(bytes(bad) + good, is_end=False)

    assert [sequence for _, sequence, _, _ in found.frames] == [2]
