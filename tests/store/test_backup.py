"""Backups of a live ledger, and ledgers that were restored from one."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from meterd.errors import InvalidRequest
from meterd.store.sqlite import DATABASE, open_store
from meterd.store.values import PeriodIndex, Producer, RollupQuery
from tests.support.builders import NOW_MS, placed, producer_id, usage

if TYPE_CHECKING:
    from pathlib import Path

    from meterd.store.sqlite import SqliteStore
    from tests.store.conftest import HandClock

NOVEMBER = PeriodIndex(2025 * 12 + 10)


async def requests(store: SqliteStore) -> int:
    rows = await store.rollup(RollupQuery(period=NOVEMBER, by=()))
    return rows[0].sums.requests if rows else 0


async def test_a_backup_taken_beside_a_writer_is_consistent(
    store: SqliteStore, tmp_path: Path, clock: HandClock
) -> None:
    await store.commit(placed(*(usage() for _ in range(2_000))))
    target = tmp_path / "copy" / DATABASE
    target.parent.mkdir()

    async def write() -> None:
        for number in range(50):
            await store.commit(placed(usage(), first_sequence=2_001 + number))

    await asyncio.gather(store.backup(target), write())

    restored = await open_store(target.parent, clock)
    watermark = await restored.hello(Producer(id=producer_id()), NOW_MS)
    assert 2_000 <= watermark <= 2_050
    assert await requests(restored) == watermark
    assert restored.ledger_id == store.ledger_id
    await restored.close()


async def test_a_restored_ledger_is_filled_again_from_its_watermark(
    store: SqliteStore, tmp_path: Path, clock: HandClock
) -> None:
    """Same ledger id, lower watermark: the producer sends again what it still keeps."""
    await store.commit(placed(usage(), usage()))
    target = tmp_path / "copy" / DATABASE
    target.parent.mkdir()
    await store.backup(target)
    await store.commit(placed(usage(), usage(), first_sequence=3))

    restored = await open_store(target.parent, clock)
    watermark = await restored.hello(Producer(id=producer_id()), NOW_MS)
    await restored.commit(placed(usage(), usage(), first_sequence=watermark + 1))

    assert watermark == 2
    assert await requests(restored) == 4
    await restored.close()


async def test_a_backup_overwrites_nothing(store: SqliteStore, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("mine")

    with pytest.raises(InvalidRequest, match="overwrites nothing"):
        await store.backup(target)

    assert target.read_text() == "mine"
    assert not any(name.endswith(".part") for name in os.listdir(tmp_path))


async def test_the_log_of_a_killed_daemon_is_not_played_over_a_restored_backup(
    store: SqliteStore, tmp_path: Path, clock: HandClock
) -> None:
    """Whoever restores after a crash finds a `-wal` there; SQLite would take it for the copy's."""
    await store.commit(placed(usage(), usage()))
    restored = tmp_path / "restored"
    restored.mkdir()
    await store.backup(restored / DATABASE)
    await store.commit(placed(*(usage(client=f"c-{n}") for n in range(200)), first_sequence=3))
    log = tmp_path / "data" / f"{DATABASE}-wal"
    (restored / log.name).write_bytes(log.read_bytes())

    opened = await open_store(restored, clock)

    assert await opened.watermark(producer_id()) == 2
    assert await requests(opened) == 2
    await opened.commit(placed(usage(), first_sequence=3))
    assert await requests(opened) == 3
    await opened.close()


async def test_a_log_of_its_own_is_played(
    store: SqliteStore, tmp_path: Path, clock: HandClock
) -> None:
    """What was acknowledged before a kill stands there and nowhere else."""
    await store.commit(placed(usage(), usage()))
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (DATABASE, f"{DATABASE}-wal"):
        (copy / name).write_bytes((tmp_path / "data" / name).read_bytes())

    opened = await open_store(copy, clock)

    assert await requests(opened) == 2
    await opened.close()
