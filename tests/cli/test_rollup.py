"""`meterctl rollup`: the month-end export, exact for machines and honest for eyes."""

from __future__ import annotations

import csv
import io
import json
import sys
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

import pyarrow
import pyarrow.parquet
import pytest

from meterd.cli.bill import share_bill
from meterd_proto.v1 import rollup_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.cli.answering import Answers
    from tests.cli.running import Meterctl


def usage(fields: Mapping[str, int | str]) -> rollup_pb2.Usage:
    found = rollup_pb2.Usage()
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def rollup(
    *rows: tuple[dict[str, str], dict[str, int | str]],
    total: dict[str, int | str],
    currency: str = "USD",
    late_records: int = 0,
    quarantined_records: int = 0,
    lost_records: int = 0,
) -> list[rollup_pb2.RollupResponse]:
    head = rollup_pb2.RollupHeader(
        period="2025-11",
        start="2025-11-01T00:00:00-04:00",
        end="2025-12-01T00:00:00-05:00",
        timezone="America/New_York",
        currency=currency,
        late_records=late_records,
        quarantined_records=quarantined_records,
        lost_records=lost_records,
    )
    answers = [rollup_pb2.RollupResponse(header=head)]
    for keys, figures in rows:
        row = rollup_pb2.RollupRow(**keys, usage=usage(figures))
        # A message each: where the daemon cuts is its own affair.
        part = rollup_pb2.RollupRows(rows=[row])
        answers.append(rollup_pb2.RollupResponse(rows=part))
    answers.append(rollup_pb2.RollupResponse(total=rollup_pb2.RollupTotal(usage=usage(total))))
    return answers


def client(
    name: str, requests: int, tokens: int, cost: str, **more: int
) -> tuple[dict[str, str], dict[str, int | str]]:
    return {"client": name}, {"requests": requests, "tokens": tokens, "cost": cost, **more}


EXPORT = rollup(
    client("bigco-inc", 45_890, 12_702_113, "31.4203"),
    client("acme-corp", 12_430, 3_204_800, "8.4688"),
    client("techstartup", 8_120, 1_897_002, "5.2309"),
    total={"requests": 66_440, "tokens": 17_803_915, "cost": "45.12"},
)


def test_the_table_is_the_export_that_agencies_know(answers: Answers, meterctl: Meterctl) -> None:
    """Digit for digit and column for column as the design shows it."""
    answers.rollup = EXPORT

    result = meterctl("rollup", "2025-11")

    assert result.lines == [
        "CLIENT        REQUESTS   TOKENS     COST",
        "bigco-inc       45,890    12.7M   $31.42",
        "acme-corp       12,430     3.2M    $8.47",
        "techstartup      8,120     1.9M    $5.23",
        "TOTAL           66,440    17.8M   $45.12",
    ]
    assert (result.code, result.err) == (0, "")


def test_json_is_one_object_with_exact_figures(answers: Answers, meterctl: Meterctl) -> None:
    """A program bills from it: the cost is the unrounded sum, as a string."""
    answers.rollup = EXPORT

    document = json.loads(meterctl("rollup", "2025-11", "--format", "json").out)

    assert list(document)[:6] == ["schema", "period", "start", "end", "timezone", "currency"]
    assert document["schema"] == "meterd.rollup/1"
    assert document["start"] == "2025-11-01T00:00:00-04:00"
    assert document["rows"][1]["client"] == "acme-corp"
    assert document["rows"][1]["cost"] == "8.4688"
    assert document["rows"][1]["tokens"] == 3_204_800
    assert document["total"]["cost"] == "45.12"


def test_csv_is_exact_and_no_formula(answers: Answers, meterctl: Meterctl) -> None:
    """Ids come from request headers: a spreadsheet must not run one."""
    evil = '=HYPERLINK("http://evil","x")'
    answers.rollup = rollup(
        client(evil, 1, 2, "-0.5"), client("b,c", 3, 4, "8.4688"), total={"cost": "7.9688"}
    )

    lines = list(csv.DictReader(io.StringIO(meterctl("rollup", "--format", "csv").out)))

    assert lines[0]["client"] == "'" + evil
    assert lines[0]["cost"] == "-0.5"
    assert lines[1]["client"] == "b,c"
    assert lines[1]["cost"] == "8.4688"


def test_parquet_is_exact(answers: Answers, meterctl: Meterctl, tmp_path: Path) -> None:
    """Decimals, not doubles: what an analyst sums is what the agency bills."""
    answers.rollup = rollup(
        ({"client": "a", "day": "2025-11-03"}, {"tokens": 2**53 + 1, "cost": "0.1"}),
        ({"client": "b", "day": "2025-11-04"}, {"tokens": 3, "cost": "31.420300000000000001"}),
        ({"client": "c", "day": "2025-11-05"}, {"requests": 2, "unpriced_requests": 2}),
        total={"cost": "31.520300000000000001"},
    )
    path = tmp_path / "november.parquet"

    result = meterctl("rollup", "2025-11", "--by", "client,day", "--output", str(path))

    table = pyarrow.parquet.read_table(path)
    assert result.lines == [f"3 rows of 2025-11 written to {path}."]
    assert table.column("cost").to_pylist() == [
        Decimal("0.1"), Decimal("31.420300000000000001"), Decimal(0),
    ]  # fmt: skip
    assert table.column("tokens").to_pylist() == [2**53 + 1, 3, 0]
    assert table.column("day").to_pylist()[0] == date(2025, 11, 3)
    assert table.schema.field("cost").type == pyarrow.decimal128(38, 18)
    assert table.schema.metadata[b"timezone"] == b"America/New_York"
    assert set(table.column("currency").to_pylist()) == {"USD"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["november.parquet"]


def test_a_month_without_usage_is_a_parquet_file_without_rows(
    answers: Answers, meterctl: Meterctl, tmp_path: Path
) -> None:
    """So that a script that reads all months needs no special case."""
    answers.rollup = rollup(total={})
    path = tmp_path / "nothing.parquet"

    assert meterctl("rollup", "2025-11", "--output", str(path)).code == 0

    assert pyarrow.parquet.read_table(path).num_rows == 0


def test_a_cost_that_parquet_would_round_is_refused(
    answers: Answers, meterctl: Meterctl, tmp_path: Path
) -> None:
    """A finer scale is taken while all digits fit; then a sentence, and no file."""
    fine, finer = "0." + "1" * 30, "123456789." + "1" * 30
    path = tmp_path / "fine.parquet"
    answers.rollup = rollup(client("a", 1, 1, fine), total={"cost": fine})
    assert meterctl("rollup", "2025-11", "--output", str(path)).code == 0
    assert pyarrow.parquet.read_table(path).column("cost").to_pylist() == [Decimal(fine)]
    answers.rollup = rollup(client("a", 1, 1, finer), total={"cost": finer})

    result = meterctl("rollup", "2025-11", "--output", str(tmp_path / "finer.parquet"))

    assert (result.code, finer in result.err) == (1, True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["fine.parquet"]


def test_without_pyarrow_one_sentence_says_what_to_install(
    answers: Answers, meterctl: Meterctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an extra: whoever wants csv needn't have it."""
    answers.rollup = EXPORT
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    result = meterctl("rollup", "2025-11", "--output", str(tmp_path / "x.parquet"))

    assert result.code == 1
    assert result.err.splitlines() == [
        "meterctl rollup: Parquet is written by pyarrow, which isn't installed here: "
        "`pip install 'meterd[parquet]'`"
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_file_is_what_would_have_been_printed(
    answers: Answers, meterctl: Meterctl, tmp_path: Path, form: str
) -> None:
    answers.rollup = EXPORT
    path = tmp_path / f"november.{form}"

    assert meterctl("rollup", "2025-11", "--output", str(path)).code == 0

    assert path.read_text() == meterctl("rollup", "2025-11", "--format", form).out


def test_a_column_that_differs_from_its_total_by_a_cent_says_so(
    answers: Answers, meterctl: Meterctl
) -> None:
    """1.005 three times is printed as 1.01 each, and sums to 3.02."""
    answers.rollup = rollup(
        *[client(name, 1, 1, "1.005") for name in "abc"], total={"cost": "3.015"}
    )

    out = meterctl("rollup", "2025-11").out

    assert "TOTAL           0        0   $3.02" in out
    assert "The lines of COST add up to $3.03, $0.01 more than the total" in out


def test_estimated_and_unpriced_columns_appear_when_there_is_something_in_them(
    answers: Answers, meterctl: Meterctl
) -> None:
    """What has no price is never shown as zero."""
    answers.rollup = rollup(
        client("a", 5, 5_000, "1.5", estimated_tokens=1_200),
        client("b", 2, 900, "0", unpriced_requests=2),
        total={
            "requests": 7, "tokens": 5_900, "cost": "1.5",
            "estimated_tokens": 1_200, "unpriced_requests": 2,
        },
    )  # fmt: skip

    lines = meterctl("rollup", "2025-11").lines

    assert lines[0].split() == ["CLIENT", "REQUESTS", "TOKENS", "COST", "ESTIMATED", "UNPRICED"]
    assert lines[2].split() == ["b", "2", "900", "unpriced", "0", "2"]
    assert "2 requests without a price" in "\n".join(lines)


def test_a_bill_divides_to_the_cent(answers: Answers, meterctl: Meterctl) -> None:
    """Shares and what meterd has not seen add up to the bill, whatever was rounded."""
    answers.rollup = EXPORT

    lines = meterctl("rollup", "2025-11", "--bill", "847.00").lines
    document = json.loads(meterctl("rollup", "2025-11", "--bill", "847.00", "--format", "json").out)

    assert lines[-3].split() == ["TOTAL", "66,440", "17.8M", "$45.12"]
    assert lines[-2].split() == ["not", "seen", "by", "meterd", "$801.88"]
    assert lines[-1].split() == ["BILL", "$847.00"]
    shares = [Decimal(row["bill_share"]) for row in document["rows"]]
    assert sum(shares) + Decimal(document["bill"]["not_seen"]) == Decimal("847.00")


@pytest.mark.parametrize(
    ("costs", "shares"),
    [
        (["33.335", "33.335", "33.330"], ["33.34", "33.33", "33.33"]),
        (["0.0125"] * 4, [".02", ".01", ".01", ".01"]),
        (["12.336", "8.764", "4.214"], ["12.34", "8.76", "4.21"]),
    ],
)
def test_the_cents_left_over_go_to_the_largest_remainders(
    costs: list[str], shares: list[str]
) -> None:
    """Ties go to the row that comes first."""
    divided = share_bill(Decimal("847.00"), [Decimal(cost) for cost in costs], "USD")

    assert divided.shares == tuple(Decimal(share) for share in shares)
    assert sum(divided.shares) + divided.not_seen == Decimal("847.00")


def test_a_yen_bill_has_no_decimals(answers: Answers, meterctl: Meterctl) -> None:
    """ISO 4217: amounts in yen are whole."""
    answers.rollup = rollup(
        client("a", 1, 1, "19792.4276"), total={"cost": "19792.4276"}, currency="JPY"
    )

    fine = meterctl("rollup", "--bill", "20000")
    wrong = meterctl("rollup", "--bill", "20000.50")

    assert "¥19,792" in fine.out
    assert "¥208" in fine.out
    assert wrong.code == 2
    assert "--bill is '20000.50', expected an amount in JPY" in wrong.err


def test_several_keys_make_several_columns(answers: Answers, meterctl: Meterctl) -> None:
    """`--by` takes a list, and its order is the columns' order."""
    answers.rollup = rollup(
        ({"client": "acme-corp", "model": "gpt-5", "day": "2025-11-03"}, {"requests": 1}),
        total={"requests": 1},
    )

    lines = meterctl("rollup", "2025-11", "--by", "day,client,model").lines

    assert lines[0].split()[:3] == ["DAY", "CLIENT", "MODEL"]
    assert lines[1].split()[:3] == ["2025-11-03", "acme-corp", "gpt-5"]
    request = answers.asked[0]
    assert isinstance(request, rollup_pb2.RollupRequest)
    assert list(request.by) == [
        rollup_pb2.DIMENSION_DAY, rollup_pb2.DIMENSION_CLIENT, rollup_pb2.DIMENSION_MODEL,
    ]  # fmt: skip


def test_a_month_without_usage_says_so(answers: Answers, meterctl: Meterctl) -> None:
    """An empty table would leave open whether it is the answer."""
    answers.rollup = rollup(total={})

    result = meterctl("rollup", "2025-11", "--client", "acme-corp")

    assert result.lines == ["No usage in 2025-11 by acme-corp."]
    assert result.code == 0


def test_what_waits_or_was_lost_is_named(answers: Answers, meterctl: Meterctl) -> None:
    """A figure that lacks something says what."""
    answers.rollup = rollup(
        client("a", 1, 1, "1"),
        total={"cost": "1", "refused_requests": 12, "failed_requests": 3},
        late_records=3, quarantined_records=1, lost_records=2,
    )  # fmt: skip

    out = meterctl("rollup").out

    assert "2025-11 so far (America/New_York)." in out
    assert "3 failed at the provider, 12 refused by meterd" in out
    assert "meterctl accept --late" in out
    assert "1 record in quarantine" in out
    assert "2 records declared lost" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["2025-13"], "MONTH is '2025-13', expected a month as 2026-11, or last-month"),
        (["--by", "customer"], "--by is 'customer', expected client, project, model or day"),
        (["--by", "day,day"], "--by is 'day,day'"),
        (["--format", "parquet"], "Parquet is no text: name its file with --output FILE.parquet"),
        (
            ["--output", "/nowhere/x.parquet"],
            "--output is '/nowhere/x.parquet', expected a file in a directory that exists",
        ),
        (
            ["--output", "/tmp"],
            "--output is '/tmp', expected a file that ends in .csv, .json or .parquet",
        ),
        (["--bill", "1", "--output", "x.parquet"], "--bill goes with table, csv and json"),
        (["--bill", "1e3"], "--bill is '1e3', expected an amount of money as 847.00"),
        (["--bill", "8", "--client", "a"], "--bill is about all clients"),
        (["--client", "naïve"], "--client is 'naïve', expected 1 to 128 printable ASCII"),
        (["--format", "xml"], "--format is 'xml', expected table, csv, json or parquet"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_a_wrong_argument_gets_one_sentence(
    meterctl: Meterctl, arguments: list[str], sentence: str
) -> None:
    """Field, value, expected; exit code 2; nobody is asked."""
    result = meterctl("rollup", *arguments)

    assert result.code == 2
    assert result.err.startswith(f"meterctl rollup: {sentence}")
    assert result.err.count("\n") == 1
