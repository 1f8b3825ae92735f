"""Documents of an invoice: the same bytes each time, every letter drawn, nothing executed."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from fontTools.ttLib import TTFont

from meterd.billing.documents.page import html_of
from meterd.billing.documents.pdf import FONTS, letters_without_glyph, pdf_of
from meterd.billing.documents.rows import csv_of, harmless
from meterd.billing.invoice import draw_up
from meterd.billing.period import period_of
from meterd.billing.sheet import Particulars, sheet
from meterd.billing.statement import ProjectUsage, Statement
from meterd.config.agency import Agency, Client, Plan, PlanType, Tax
from meterd.errors import NotPossibleNow

if TYPE_CHECKING:
    from meterd.billing.sheet import Json

ZONE = "America/New_York"
FINAL = Particulars(
    number="NW-000042", issued_at=datetime(2025, 12, 3, 9, tzinfo=UTC), config_version=3
)


def a_sheet(
    name: str = "Acme Corporation", projects: int = 3, particulars: Particulars = FINAL
) -> dict[str, Json]:
    agency = Agency(name="Northwind Studio", timezone=ZONE, clients={"acme": Client("acme", name)})
    period = period_of(datetime(2025, 11, 15, tzinfo=UTC), ZoneInfo(ZONE))
    shares = tuple(ProjectUsage(f"project-{n}", n, 100, Decimal("8.4366")) for n in range(projects))
    cost = sum((share.cost for share in shares), Decimal(0))
    used = Statement("acme", period, requests=12, tokens=3_200_000, cost=cost, projects=shares)
    plan = Plan("managed", PlanType.COST_PLUS, markup=Decimal("0.30"))
    return sheet(draw_up(used, plan, "USD"), particulars, agency)


def test_the_same_invoice_has_the_same_bytes() -> None:
    """A PDF made again years later is the one that was sent."""
    assert pdf_of(a_sheet(), "ab" * 32) == pdf_of(a_sheet(), "ab" * 32)
    assert pdf_of(a_sheet()).startswith(b"%PDF-")


@pytest.mark.parametrize("projects", [0, 1, 60])
def test_an_invoice_of_any_length_is_drawn(projects: int) -> None:
    """None, one, and more than a page."""
    assert len(pdf_of(a_sheet(projects=projects))) > 5_000


@pytest.mark.parametrize(
    "name", ["客户有限公司", "شركة الاختبار", "株式会社テスト", "Müller & Co", "חברה"]
)
def test_names_in_other_scripts_are_drawn(name: str) -> None:
    """A glyph that no font has would vanish without a word."""
    assert letters_without_glyph(a_sheet(name)) == ""
    assert pdf_of(a_sheet(name)) != pdf_of(a_sheet())


def test_a_letter_that_can_not_be_drawn_is_named() -> None:
    """Better no PDF than one without the client's name."""
    with pytest.raises(NotPossibleNow, match="no shipped font can draw 𓀀"):
        pdf_of(a_sheet("Pharaoh 𓀀"))


def test_the_coverage_file_is_what_the_fonts_have() -> None:
    """It is made from them; a new font has to change both."""
    from_fonts: set[int] = set()
    for path in FONTS.glob("*.ttf"):
        with TTFont(path, lazy=True) as font:
            from_fonts.update(font.getBestCmap())
    listed: set[int] = set()
    for line in (FONTS / "coverage.txt").read_text().split():
        first, _, last = line.partition("-")
        listed.update(range(int(first, 16), int(last or first, 16) + 1))

    assert listed == from_fonts


def test_html_shows_names_and_never_runs_them() -> None:
    """Names come from people."""
    page = html_of(a_sheet("<script>alert(1)</script>"), "ab" * 32)

    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert "$32.90" in page


def a_bill(plan: Plan, **agency: object) -> dict[str, Json]:
    """Of a client with two projects, in November."""
    made = Agency(
        name="Northwind Studio", timezone=ZONE, clients={"acme": Client("acme", "Acme")}, **agency,  # type: ignore[arg-type]  # its fields
    )  # fmt: skip
    period = period_of(datetime(2025, 11, 15, tzinfo=UTC), ZoneInfo(ZONE))
    shares = tuple(ProjectUsage(f"project-{n}", 10, 100, Decimal("21.21")) for n in range(2))
    used = Statement("acme", period, requests=20, tokens=3_000_000, cost=Decimal("42.42"),
                     projects=shares)  # fmt: skip
    tax = made.tax
    return sheet(draw_up(used, plan, "USD", tax=tax), FINAL, made)


def test_what_ai_costs_the_agency_is_not_told_to_a_client_on_a_retainer() -> None:
    """It pays $560 for what cost $42.42; who pays the cost sees it, and its sum."""
    retainer = Plan("starter", PlanType.RETAINER, fee=Decimal(500), included_tokens=2_000_000,
                    overage_per_million=Decimal(60))  # fmt: skip
    cost_plus = Plan("managed", PlanType.COST_PLUS, markup=Decimal("0.30"))

    hidden, shown = html_of(a_bill(retainer)), html_of(a_bill(cost_plus))

    assert "$560.00" in hidden
    assert "project-1" in hidden
    assert "21.21" not in hidden and "42.42" not in hidden
    assert shown.count("$21.21") == 2
    assert shown.count("$42.42") == 2  # the usage line, and all projects
    assert pdf_of(a_bill(retainer)) != pdf_of(a_bill(cost_plus))


def test_what_a_tax_is_on_stands_before_it() -> None:
    """The net amount, the rate, the tax: what a tax office looks for."""
    cost_plus = Plan("managed", PlanType.COST_PLUS, markup=Decimal("0.30"))

    page = html_of(a_bill(cost_plus, tax=Tax("VAT", Decimal("0.19")), tax_id="DE123"))

    assert page.index("Subtotal before tax") < page.index("$55.15") < page.index("VAT")
    assert page.index("VAT") < page.index("$65.63")
    assert "Tax id DE123" in page


def test_an_invoice_made_in_the_evening_is_of_that_day() -> None:
    """At nine in New York it is the next day in UTC."""
    evening = datetime(2025, 12, 4, 2, 30, tzinfo=UTC)

    made = a_sheet(particulars=Particulars(number="NW-000001", issued_at=evening))

    assert made["issued_at"] == "2025-12-03T21:30:00-05:00"
    assert "<dd>2025-12-03</dd>" in html_of(made)


def test_csv_is_exact_and_no_formula() -> None:
    """-9.43 stays a number; =HYPERLINK becomes text."""
    rows = csv_of(a_sheet()).splitlines()

    assert (
        rows[0] == "number,client,period,kind,description,tokens,amount,currency,estimated_tokens"
    )
    assert rows[1].endswith(",usage,AI usage: 3.2M tokens,3200000,25.31,USD,")
    assert rows[-1] == "NW-000042,acme,2025-11,total,Total,3200000,32.90,USD,0"
    assert [harmless(text) for text in ("=1+1", "＝1", "acme", "@x")] == [
        "'=1+1", "'＝1", "acme", "'@x",
    ]  # fmt: skip


def test_a_draft_says_so() -> None:
    """Nobody sends one by mistake."""
    assert "Draft invoice" in html_of(a_sheet(particulars=Particulars()))
