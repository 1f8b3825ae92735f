"""The CSV of an invoice: a row a line, for a spreadsheet that must not run what it reads."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

COLUMNS = (
    "number", "client", "period", "kind", "description", "tokens", "amount", "currency",
    "estimated_tokens",
)  # fmt: skip
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
# A spreadsheet that splits at semicolons begins a cell after each, whatever is quoted.
_HIDDEN_FORMULA = re.compile(r"([;\t\r\n])(?=[\s\"']*[=+\-@＝＋－＠])")


def csv_of(sheet: Mapping[str, Any]) -> str:
    """The lines of an invoice and its total; amounts bare and exact, texts made harmless.

    A text that a spreadsheet would take for a formula gets a leading apostrophe (OWASP,
    "CSV Injection"): client and project ids come from headers.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    total = {"kind": "total", "description": "Total", "amount": sheet["total"],
             "tokens": sheet["tokens"], "estimated": sheet["estimated_tokens"]}  # fmt: skip
    for line in (*sheet["lines"], total):
        writer.writerow(
            (
                harmless(sheet["number"]),
                harmless(sheet["client"]),
                sheet["period"],
                line["kind"],
                harmless(line["description"]),
                line["tokens"] or "",
                line["amount"],
                sheet["currency"],
                line.get("estimated", ""),
            )
        )
    return out.getvalue()


def harmless(text: str) -> str:
    """The text as a cell that no spreadsheet computes."""
    text = _HIDDEN_FORMULA.sub(r"\1'", text)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
