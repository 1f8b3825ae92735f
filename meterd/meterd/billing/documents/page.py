"""The HTML of an invoice: one file without scripts or anything fetched, printable as it is."""

from __future__ import annotations

from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING

from meterd.billing.wording import money_text
from meterd.money import exact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_STYLE = """
:root { color-scheme: light; --accent: #1f3a5f; --faint: #6b7280; --rule: #d1d5db; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem;
       color: #111827; overflow-wrap: anywhere; }
header { display: flex; justify-content: space-between; gap: 2rem; }
h1 { margin: 0; color: var(--accent); font-size: 1.9rem; }
h2 { margin: 0; color: var(--accent); font-size: 1.15rem; }
.faint, th, dt { color: var(--faint); font-weight: normal; font-size: .85rem; }
.lines { white-space: pre-line; }
table { width: 100%; border-collapse: collapse; margin-top: 1.8rem; }
th { text-align: left; border-top: 2px solid var(--accent); border-bottom: 1px solid var(--rule); }
th, td { padding: .45rem 0 .45rem 1.2rem; } th:first-child, td:first-child { padding-left: 0; }
td { border-bottom: 1px solid var(--rule); vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tfoot td { border: 0; font-weight: 600; } tfoot .number:last-child { color: var(--accent);
       font-size: 1.2rem; }
dl { display: grid; grid-template-columns: auto auto; gap: .1rem 1.2rem; margin: 0; }
dd { margin: 0; text-align: right; }
@media print { body { margin: 0; max-width: none; } }
"""


def html_of(sheet: Mapping[str, Any], hash_hex: str = "") -> str:
    """Draw an invoice from its sheet; every text of it is escaped."""
    agency = sheet["agency"]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{escape(_title(sheet))} {escape(sheet["number"])}</title><style>{_STYLE}</style></head>
<body>
<header><div><h2 dir="auto">{escape(agency["name"])}</h2>
<div class="faint lines" dir="auto">{_party(agency, "")}</div></div>
<div class="number"><h1>{_title(sheet)}</h1>{escape(sheet["number"] or "not yet final")}</div>
</header>
<header style="margin-top:2.5rem"><div><span class="faint">Billed to</span><br>
<strong dir="auto">{escape(sheet["client_name"])}</strong>
<div class="lines" dir="auto">{_party(sheet, "client_")}</div></div>
<dl>{_facts(sheet)}</dl></header>
{_table(sheet)}{_projects(sheet)}
<p class="faint">{_small_print(sheet, hash_hex)}</p>
</body></html>
"""


def _title(sheet: Mapping[str, Any]) -> str:
    if not sheet["number"]:
        return "Draft invoice"
    return "Credit note" if sheet["kind"] == "credit_note" else "Invoice"


def _party(of: Mapping[str, Any], prefix: str) -> str:
    """Where somebody is to be found, a line each."""
    tax_id = of[f"{prefix}tax_id"]
    return _block(
        of[f"{prefix}address"], of[f"{prefix}email"], f"Tax id {tax_id}" if tax_id else ""
    )


def _block(*texts: str) -> str:
    return escape("\n".join(text for text in texts if text))


def _facts(sheet: Mapping[str, Any]) -> str:
    facts = (
        ("Period", f"{sheet['first_day']} – {sheet['last_day']}"),
        ("Time zone", sheet["timezone"]),
        ("Issued", sheet["issued_at"][:10]),
        ("Terms", sheet["agency"]["payment_terms"]),
        ("Credits", sheet["credits"]),
        ("Currency", sheet["currency"]),
    )
    return "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts if value)


def _table(sheet: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(_described(line))}</td>"
        f'<td class="number faint">{_count(line["tokens"])}</td>'
        f'<td class="number">{_money(sheet, line["amount"])}</td></tr>'
        for line in _printed(sheet)
    )
    return (
        '<table><thead><tr><th>Description</th><th class="number">Tokens</th>'
        f'<th class="number">Amount</th></tr></thead><tbody>{rows}</tbody>'
        f'<tfoot><tr><td></td><td class="number">Total</td>'
        f'<td class="number">{_money(sheet, sheet["total"])}</td></tr></tfoot></table>'
    )


def _printed(sheet: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The lines, and before taxes what they are on."""
    taxes = [line for line in sheet["lines"] if line["kind"] == "tax"]
    others = [line for line in sheet["lines"] if line["kind"] != "tax"]
    if not taxes:
        return others
    net = {"description": "Subtotal before tax", "tokens": 0, "period": ""}
    return [*others, {**net, "amount": sheet["subtotal"]}, *taxes]


def _described(line: Mapping[str, Any]) -> str:
    text: str = line["description"]
    return f"{text} ({line['period']})" if line["period"] else text


def _projects(sheet: Mapping[str, Any]) -> str:
    projects: Sequence[Mapping[str, Any]] = sheet["projects"]
    if not projects:
        return ""
    # What AI costs the agency is the client's business only where it pays it as usage.
    has_cost = any(line["kind"] == "usage" for line in sheet["lines"])
    rows = "".join(
        _project_row(
            f'<td dir="auto">{escape(one["project"]) or "no project"}</td>',
            one["requests"],
            one["tokens"],
            _money(sheet, one["amount"]) if has_cost else "",
        )
        for one in projects
    )
    cost = '<th class="number">Cost</th>' if has_cost else ""
    return (
        '<table><thead><tr><th>AI usage by project</th><th class="number">Requests</th>'
        f'<th class="number">Tokens</th>{cost}</tr></thead>'
        f"<tbody>{rows}{_all_projects(sheet, projects, has_cost)}</tbody></table>"
    )


def _all_projects(
    sheet: Mapping[str, Any], projects: Sequence[Mapping[str, Any]], has_cost: bool
) -> str:
    if len(projects) < 2:
        return ""
    with exact():
        cost = sum((Decimal(one["amount"]) for one in projects), Decimal(0))
    return _project_row(
        '<td class="faint">All projects</td>',
        sum(one["requests"] for one in projects),
        sum(one["tokens"] for one in projects),
        _money(sheet, f"{cost:f}") if has_cost else "",
    )


def _project_row(name: str, requests: int, tokens: int, cost: str) -> str:
    shown = f'<td class="number">{cost}</td>' if cost else ""
    return (
        f'<tr>{name}<td class="number">{requests:,}</td>'
        f'<td class="number">{tokens:,}</td>{shown}</tr>'
    )


def _small_print(sheet: Mapping[str, Any], hash_hex: str) -> str:
    rate = sheet["exchange_rate"]
    rests_on = sheet["rests_on"]
    parts = [f"Reason: {sheet['why']}" if sheet["why"] else ""]
    if rate:
        source = f" ({rate['source']})" if rate["source"] else ""
        parts.append(f"1 {rate['from']} = {rate['rate']} {rate['to']} on {rate['day']}{source}")
    parts += sheet["notes"]
    parts.append(f"{sheet['requests']:,} requests, {sheet['tokens']:,} tokens.")
    if rests_on["price_book"]:
        version = rests_on["config_version"]
        parts.append(f"Prices: {rests_on['price_book']}. Terms: version {version}.")
    parts.append(f"Document hash {hash_hex}" if hash_hex else "")
    return "<br>".join(escape(part) for part in parts if part)


def _count(tokens: int) -> str:
    return f"{tokens:,}" if tokens else ""


def _money(sheet: Mapping[str, Any], amount: str) -> str:
    return escape(money_text(Decimal(amount), sheet["currency"]))
