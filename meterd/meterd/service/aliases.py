"""Whether the models that own prices name are in the price book; asked when one is applied.

The configuration's own check knows no book: loading it takes half a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.pricing.book import PriceBook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.config.agency import Agency


def unknown_aliases(agency: Agency) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Each `same_as` that the book has no model for: where it stands, and one clause.

    Reads the book where there is one to look up; call it in a thread.
    """
    aliases = [(index, price) for index, price in enumerate(agency.prices) if price.same_as]
    book = PriceBook()
    for index, price in aliases:
        provider, slash, model = price.same_as.partition("/")
        if not slash:
            provider, model = price.provider, price.same_as
        # A model's own name may have a slash, as "meta-llama/Llama-3.3-70B-Instruct".
        candidates = [(provider, model), (price.provider, price.same_as)]
        if not any(book.find(one, name, "", {}) for one, name in candidates if one):
            yield ("prices", index, "same_as"), f"the price book has no {price.same_as!r}"
