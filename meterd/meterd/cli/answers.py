"""The short answer of a command that changed something: a sentence, or its facts exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.cli.output import write_csv, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meterd.cli.console import Console


def write_answer(
    console: Console,
    output_format: str,
    schema: str,
    facts: Mapping[str, object],
    sentence: str,
) -> None:
    """Write the sentence for eyes, or the facts for a program."""
    if output_format == "json":
        write_json(console.out, {"schema": schema, **facts})
    elif output_format == "csv":
        write_csv(console.out, list(facts), [facts])
    else:
        console.print(sentence)
