"""The chain over closed invoices: whoever has the sheets can tell whether one was touched."""

from __future__ import annotations

from meterd.billing.chain import FIRST, Link, broken_links, canonical_json, hash_of, number_of


def chain_of(*sheets: dict[str, str]) -> list[Link]:
    links: list[Link] = []
    previous = FIRST
    for count, sheet in enumerate(sheets, 1):
        canonical = canonical_json(sheet)
        link = Link(number_of("INV-", count), canonical, previous, hash_of(previous, canonical))
        links.append(link)
        previous = link.hash
    return links


def test_an_untouched_chain_has_no_broken_link() -> None:
    """And an empty one neither."""
    assert list(broken_links(chain_of({"total": "1.00"}, {"total": "2.00"}))) == []
    assert list(broken_links([])) == []


def test_a_changed_sheet_is_named() -> None:
    """An invoice of 1.00 made into one of 9.00."""
    links = chain_of({"total": "1.00"}, {"total": "2.00"})
    links[0] = Link(links[0].number, canonical_json({"total": "9.00"}), FIRST, links[0].hash)

    assert list(broken_links(links)) == ["INV-000001 was changed after it was closed"]


def test_a_missing_sheet_is_noticed_by_its_successor() -> None:
    """Taking out the second of three."""
    links = chain_of({"n": "1"}, {"n": "2"}, {"n": "3"})

    (sentence,) = broken_links([links[0], links[2]])

    assert sentence.startswith("INV-000003 doesn't follow")


def test_the_same_sheet_has_one_text_whatever_the_order_of_its_keys() -> None:
    """Composed and decomposed letters are one letter."""
    composed = canonical_json({"a": "Caf\u00e9", "b": "1"})

    assert composed == canonical_json({"b": "1", "a": "Cafe\u0301"})
    assert composed == '{"a":"Caf\u00e9","b":"1"}'


def test_a_number_fits_every_accounting_program() -> None:
    """21 characters, with a series of up to fifteen."""
    assert number_of("NORTHWIND-2026-", 42) == "NORTHWIND-2026-000042"
    assert len(number_of("NORTHWIND-2026-", 42)) <= 21
