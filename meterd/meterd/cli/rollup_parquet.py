"""The rollup as Parquet, for analysts: whole tokens as integers, money as exact decimals.

    keys           string; `day` is a date
    counts         int64
    cost           decimal128(38, 18), wider in scale where a cost has more digits: never rounded
    currency, period   string, so that files of several months can be read as one table

Period, bounds, time zone and the schema's name stand in the file's metadata.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any, BinaryIO

from meterd.cli.console import CommandRefused
from meterd_proto.v1 import rollup_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

DIGITS_MAX = 38
"""What decimal128 holds, and every reader of Parquet takes."""
SCALE = 18
CHUNK_ROWS = 10_000
_COUNTS = tuple(field.name for field in rollup_pb2.Usage.DESCRIPTOR.fields if field.name != "cost")


def write_parquet(
    file: BinaryIO,
    head: rollup_pb2.RollupHeader,
    by: Sequence[str],
    rows: Iterable[rollup_pb2.RollupRow],
) -> int:
    """Write the rows as one Parquet file; returns how many there were.

    Raises:
        CommandRefused: pyarrow isn't installed, or a cost has more digits than fit.
    """
    try:
        import pyarrow  # 70 ms and 150 MB on disk: an extra, for this alone
        import pyarrow.parquet
    except ImportError:
        raise CommandRefused(
            "Parquet is written by pyarrow, which isn't installed here: "
            "`pip install 'meterd[parquet]'`"
        ) from None
    # The costs' scale is known when all rows are there; until then they wait as texts, in
    # arrow's own memory, a tenth of what the messages would take.
    waiting = pyarrow.schema(_fields(pyarrow, by, pyarrow.string()))
    digits = _Digits()
    batches = [
        pyarrow.record_batch(columns, schema=waiting) for columns in _chunks(head, by, rows, digits)
    ]
    table = pyarrow.Table.from_batches(batches, schema=waiting)
    costs = table.column("cost").cast(pyarrow.decimal128(DIGITS_MAX, digits.scale))
    exact = pyarrow.schema(_fields(pyarrow, by, costs.type), metadata=_metadata(head))
    columns = [costs if name == "cost" else table.column(name) for name in exact.names]
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=exact), file, compression="zstd")
    return int(table.num_rows)


class _Digits:
    """How many digits the costs seen so far need."""

    def __init__(self) -> None:
        self.scale = SCALE
        self._whole = 1

    def see(self, cost: str) -> str:
        """Note a cost's digits, and return it in plain ones, as arrow reads them.

        Raises:
            CommandRefused: they don't fit, so that the file would have to round.
        """
        amount = Decimal(cost or 0)
        _, figures, exponent = amount.as_tuple()
        assert isinstance(exponent, int)
        self.scale = max(self.scale, -exponent)
        self._whole = max(self._whole, len(figures) + exponent)
        if self.scale + self._whole > DIGITS_MAX:
            raise CommandRefused(
                f"a cost has more digits than Parquet's decimals hold ({DIGITS_MAX}): {cost}; "
                "csv and json have them all"
            )
        return f"{amount:f}"


def _chunks(
    head: rollup_pb2.RollupHeader,
    by: Sequence[str],
    rows: Iterable[rollup_pb2.RollupRow],
    digits: _Digits,
) -> Iterator[list[list[Any]]]:
    """Columns of some thousand rows each; the messages can go when theirs are made."""
    chunk: list[rollup_pb2.RollupRow] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK_ROWS:
            yield _columns(head, by, chunk, digits)
            chunk.clear()
    if chunk:
        yield _columns(head, by, chunk, digits)


def _columns(
    head: rollup_pb2.RollupHeader,
    by: Sequence[str],
    rows: Sequence[rollup_pb2.RollupRow],
    digits: _Digits,
) -> list[list[Any]]:
    return [
        *([_key(row, name) for row in rows] for name in by),
        *([getattr(row.usage, name) for row in rows] for name in _COUNTS),
        [digits.see(row.usage.cost) for row in rows],
        [head.currency] * len(rows),
        [head.period] * len(rows),
    ]


def _key(row: rollup_pb2.RollupRow, name: str) -> str | date:
    value: str = getattr(row, name)
    return date.fromisoformat(value) if name == "day" else value


def _fields(pyarrow: Any, by: Sequence[str], cost: Any) -> list[Any]:
    text, day, whole = pyarrow.string(), pyarrow.date32(), pyarrow.int64()
    return [
        *(pyarrow.field(name, day if name == "day" else text, nullable=False) for name in by),
        *(pyarrow.field(name, whole, nullable=False) for name in _COUNTS),
        pyarrow.field("cost", cost, nullable=False),
        pyarrow.field("currency", text, nullable=False),
        pyarrow.field("period", text, nullable=False),
    ]


def _metadata(head: rollup_pb2.RollupHeader) -> dict[str, str]:
    return {
        "schema": "meterd.rollup/1",
        "period": head.period,
        "start": head.start,
        "end": head.end,
        "timezone": head.timezone,
        "currency": head.currency,
    }
