"""The commands that change something: apply, grant, accept, forget; and access-key."""

from __future__ import annotations

import json
import tomllib
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from meterd_proto.v1 import admin_pb2

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.answering import Answers
    from tests.cli.running import Meterctl


def change(field: str, before: str, after: str) -> admin_pb2.Difference:
    return admin_pb2.Difference(field=field, before=before, after=after)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    file = tmp_path / "meterd.toml"
    file.write_bytes(b'[agency]\nname = "Northwind"\n')
    return file


def test_apply_shows_what_differs_then_does_it(
    answers: Answers, meterctl: Meterctl, toml: Path
) -> None:
    """A trial first, so that a mistake is told before anything changed."""
    changes = [change("plans.starter.fee", "500", "600"), change("clients.new.plan", "", "pro")]
    answers.apply = [
        admin_pb2.ApplyResponse(differences=changes),
        admin_pb2.ApplyResponse(differences=changes, applied=True, config_version=7),
    ]

    result = meterctl("apply", str(toml))

    assert result.lines[0].split() == ["FIELD", "BEFORE", "AFTER", "FROM"]
    assert result.lines[1].split() == ["plans.starter.fee", "500", "600"]
    assert result.lines[2].split() == ["clients.new.plan", "-", "pro"]
    assert result.lines[3] == "Version 7 is in force."
    trial, real = answers.asked
    assert isinstance(trial, admin_pb2.ApplyRequest)
    assert isinstance(real, admin_pb2.ApplyRequest)
    assert (trial.dry_run, real.dry_run) == (True, False)
    assert trial.toml == real.toml == toml.read_bytes()
    assert real.source == str(toml)


def test_a_dry_run_changes_nothing(answers: Answers, meterctl: Meterctl, toml: Path) -> None:
    """The daemon is asked once, for the trial."""
    answers.apply = [admin_pb2.ApplyResponse()]

    result = meterctl("apply", str(toml), "--dry-run")

    assert result.lines[-1] == "Nothing was applied: this was a dry run."
    assert len(answers.asked) == 1


def test_every_mistake_is_told_with_its_line(
    answers: Answers, meterctl: Meterctl, toml: Path
) -> None:
    """As FILE:LINE, which an editor jumps to; exit code 1."""
    answers.apply = [
        admin_pb2.ApplyResponse(
            mistakes=[
                admin_pb2.Mistake(line=4, field="plans.x.fee", message="is 'abc', expected money"),
                admin_pb2.Mistake(message="no [agency]"),
            ],
            warnings=[admin_pb2.Mistake(line=9, field="markup", message="is outside its band")],
        )
    ]

    result = meterctl("apply", str(toml))

    assert result.code == 1
    assert result.err.splitlines() == [
        f"{toml}:4: plans.x.fee: is 'abc', expected money",
        f"{toml}: no [agency]",
        f"{toml}:9: warning: markup: is outside its band",
        f"meterctl apply: 2 mistakes in {toml}, nothing of it was applied",
    ]
    assert len(answers.asked) == 1


def test_apply_as_json_has_mistakes_and_differences(
    answers: Answers, meterctl: Meterctl, toml: Path
) -> None:
    """One object in either case, so that a program needs no second reader."""
    answers.apply = [
        admin_pb2.ApplyResponse(differences=[change("a", "1", "2")]),
        admin_pb2.ApplyResponse(
            differences=[change("a", "1", "2")], applied=True, config_version=2
        ),
    ]

    document = json.loads(meterctl("apply", str(toml), "--format", "json").out)

    assert document["schema"] == "meterd.apply/1"
    assert document["applied"] is True
    assert document["differences"] == [{"field": "a", "before": "1", "after": "2", "from": ""}]
    assert document["mistakes"] == []


def test_a_file_that_cant_be_read_is_wrong_usage(meterctl: Meterctl, tmp_path: Path) -> None:
    """Before any daemon is looked for."""
    result = meterctl("apply", str(tmp_path / "none.toml"))

    assert result.code == 2
    assert "expected a file that can be read (no such file or directory)" in result.err


def test_a_grant_names_who_and_why(answers: Answers, meterctl: Meterctl) -> None:
    """It is kept with the ledger, so that somebody can be asked later."""
    answers.grant = admin_pb2.GrantResponse(limit=2_500_000, period="2026-11")

    result = meterctl("grant", "acme-corp", "500k", "--why", "launch", "--who", "ann")

    assert result.lines == [
        "acme-corp has 500,000 more tokens in 2026-11: its limit is now 2,500,000."
    ]
    assert answers.asked == [
        admin_pb2.GrantRequest(client="acme-corp", tokens=500_000, why="launch", who="ann")
    ]


@pytest.mark.parametrize("text", ["-5", "0", "1.5", "0.0001k", "5m", "1e6", "", "9999999999B"])
def test_absurd_tokens_are_refused(meterctl: Meterctl, text: str) -> None:
    """A grant is typed by hand; "5m" may be milli or million."""
    result = meterctl("grant", "acme-corp", "--why", "x", "--", text)

    assert result.code == 2
    assert f"TOKENS is {text!r}, expected a whole number of tokens" in result.err


def test_a_grant_needs_a_reason(meterctl: Meterctl) -> None:
    """Nobody remembers in March why November had 3M."""
    result = meterctl("grant", "acme-corp", "500k")

    assert result.code == 2
    assert "--why" in result.err


def test_late_records_are_accepted_by_client(answers: Answers, meterctl: Meterctl) -> None:
    """The answer says how much it was."""
    answers.accepted = admin_pb2.AcceptLateResponse(records=12, tokens=48_000)

    assert meterctl("accept", "--late", "acme-corp").lines == [
        "12 late records of acme-corp counted: 48k tokens."
    ]


def test_forgetting_says_the_new_name(answers: Answers, meterctl: Meterctl) -> None:
    """And what it can't reach: backups."""
    answers.forgotten = admin_pb2.ForgetResponse(replaced_by="forgotten-17")

    result = meterctl("forget", "acme-corp", "--format", "json")

    assert json.loads(result.out)["replaced_by"] == "forgotten-17"
    assert "Backups made before" in meterctl("forget", "acme-corp").out


def test_an_access_key_is_shown_once_with_the_table_that_lets_it_in(meterctl: Meterctl) -> None:
    """The configuration has the hash alone."""
    result = meterctl("access-key", "web-1", "--scope", "ship")

    access_key, table = result.out.split("\n", 1)
    found = tomllib.loads(table)["access_keys"]["web-1"]
    assert access_key.startswith("meterd_")
    assert len(access_key) > 43
    assert found["scope"] == "ship"
    assert found["hash"] == f"sha256:{sha256(access_key.encode()).hexdigest()}"
    assert access_key not in result.err
    assert meterctl("access-key", "web-1", "--scope", "ship").out != result.out


@pytest.mark.parametrize("name", ["web 1", 'a"b\\c', "web.1"])
def test_the_name_of_an_access_key_is_quoted_where_toml_wants_it(
    meterctl: Meterctl, name: str
) -> None:
    """Any printable name can be pasted."""
    document = json.loads(meterctl("access-key", name, "--scope", "read", "--format", "json").out)

    assert tomllib.loads(document["config"])["access_keys"][name]["scope"] == "read"


def test_an_access_key_has_a_scope(meterctl: Meterctl) -> None:
    """There is no default: "admin" by omission would be the wrong one."""
    assert meterctl("access-key", "x").code == 2
    assert "--scope is 'root', expected ship, read or admin" in (
        meterctl("access-key", "x", "--scope", "root").err
    )
