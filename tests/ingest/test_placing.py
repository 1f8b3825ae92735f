"""Where a record counts, whatever its producer's clock says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meterd.ingest.placing import LATE_AFTER_MS, SKEW_MAX_MS, place
from tests.support.builders import DAY_MS, NOW_MS

YEAR_1970, YEAR_2100 = DAY_MS, 4_102_444_800_000


def test_a_record_counts_when_it_occurred() -> None:
    placed = place([NOW_MS - 5_000, NOW_MS - 1], NOW_MS, NOW_MS)

    assert list(placed.billed_at_ms) == [NOW_MS - 5_000, NOW_MS - 1]
    assert not placed.moved
    assert not placed.late


def test_a_clock_off_by_five_minutes_is_believed() -> None:
    placed = place([NOW_MS - SKEW_MAX_MS - 1], NOW_MS - SKEW_MAX_MS, NOW_MS)

    assert list(placed.billed_at_ms) == [NOW_MS - SKEW_MAX_MS - 1]
    assert placed.skew_ms == SKEW_MAX_MS


def test_a_clock_off_by_more_is_corrected_and_flagged() -> None:
    for off in (-DAY_MS, DAY_MS, YEAR_1970 - NOW_MS, YEAR_2100 - NOW_MS, -SKEW_MAX_MS - 1):
        sent = NOW_MS + off

        placed = place([sent - 60_000, sent], sent, NOW_MS)

        assert list(placed.billed_at_ms) == [NOW_MS - 60_000, NOW_MS]
        assert placed.moved == {0, 1}
        assert not placed.late


def test_nothing_counts_after_its_receipt() -> None:
    """A clock that was set back while the batch waited."""
    placed = place([YEAR_2100, NOW_MS - 1], NOW_MS, NOW_MS)

    assert list(placed.billed_at_ms) == [NOW_MS, NOW_MS - 1]
    assert placed.moved == {0}


def test_more_than_35_days_is_late_and_35_days_is_not() -> None:
    placed = place([NOW_MS - LATE_AFTER_MS, NOW_MS - LATE_AFTER_MS - 1, YEAR_1970], NOW_MS, NOW_MS)

    assert placed.late == {1, 2}


def test_a_producer_that_doesnt_say_when_it_sent_is_believed() -> None:
    placed = place([NOW_MS - DAY_MS], 0, NOW_MS)

    assert list(placed.billed_at_ms) == [NOW_MS - DAY_MS]
    assert placed.skew_ms == 0


@given(
    st.lists(st.integers(0, YEAR_2100), min_size=1, max_size=20),
    st.integers(0, YEAR_2100),
    st.integers(NOW_MS - 400 * DAY_MS, NOW_MS),
)
def test_every_record_has_one_place_and_none_in_the_future(
    occurred: list[int], sent: int, received: int
) -> None:
    placed = place(occurred, sent, received)

    assert len(placed.billed_at_ms) == len(occurred)
    assert max(placed.billed_at_ms) <= received
    for at, moment in enumerate(placed.billed_at_ms):
        assert (at in placed.late) == (moment < received - LATE_AFTER_MS)
        assert (at in placed.moved) == (moment != occurred[at])
