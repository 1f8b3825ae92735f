"""What the agency's clients do: requests to the app, each traced by an id of its own."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2

if TYPE_CHECKING:
    from collections.abc import Iterable

KEYS = {"acme-corp": "acme", "techstartup": "tech", "bigco-inc": "bigco"}

_PATHS = {
    "chat": "/support-chatbot/chat",
    "search": "/support-chatbot/search",
    "draft": "/content-generator/draft",
    "score": "/lead-qualification/score",
}

ARCHIVE_WORDS = 150_000
"""A lead's whole mail archive: thirteen of them nearly fill 2M tokens."""

_QUESTIONS = (
    "Where is my parcel?",
    "Can I change the delivery address after the order has gone out?",
    "The blue one arrived, but I ordered the green one. What now?",
    "Write three sentences on our autumn collection for returning customers.",
    "The lead opened four mails, asked for a price list and works for a hospital group.",
)


@dataclass(frozen=True, slots=True)
class Deed:
    """One request: whose, of which kind, with what text."""

    client: str
    kind: str
    text: str
    request_id: str

    @property
    def project(self) -> str:
        """The product that answers it."""
        return _PATHS[self.kind].split("/")[1]


class Traffic:
    """Sends requests and remembers whose each was."""

    def __init__(self, app_url: str) -> None:
        self._app_url = app_url
        self._numbers = itertools.count(1)
        self.deeds: dict[str, Deed] = {}

    def deed(self, client: str, kind: str, text: str = "") -> Deed:
        """The next request of a client; an `archive` is a score of a very long text."""
        number = next(self._numbers)
        if kind == "archive":
            kind, text = "score", archive(number)
        question = text or f"{_QUESTIONS[number % len(_QUESTIONS)]} (ticket {number})"
        deed = Deed(client, kind, question, f"demo-{number:04d}")
        self.deeds[deed.request_id] = deed
        return deed

    def day(self, **counts: str) -> list[Deed]:
        """Requests by client: `acme_corp="6 chat, 2 draft"`, shuffled into each other."""
        rows = []
        for client, wanted in counts.items():
            for part in wanted.split(", "):
                number, kind = part.split()
                rows.append([(client.replace("_", "-"), kind)] * int(number))
        mixed = [one for turn in itertools.zip_longest(*rows) for one in turn if one]
        return [self.deed(client, kind) for client, kind in mixed]

    def run(self, deeds: Iterable[Deed], at_once: int = 8) -> list[httpx2.Response]:
        """Do them all, some at once, and return the answers in order."""
        return asyncio.run(self.arun(deeds, at_once))

    async def arun(self, deeds: Iterable[Deed], at_once: int = 8) -> list[httpx2.Response]:
        """`run`, to await."""
        slots = asyncio.Semaphore(at_once)
        async with httpx2.AsyncClient(
            base_url=self._app_url, timeout=60, trust_env=False
        ) as client:

            async def do(deed: Deed) -> httpx2.Response:
                async with slots:
                    return await client.post(
                        _PATHS[deed.kind],
                        json={"text": deed.text},
                        headers={
                            "Authorization": f"Bearer {KEYS[deed.client]}",
                            "X-Request-ID": deed.request_id,
                        },
                    )

            return await asyncio.gather(*(do(deed) for deed in deeds))

    def home(self, client: str) -> httpx2.Response:
        """The app's page without an LLM."""
        headers = {"Authorization": f"Bearer {KEYS[client]}"}
        return httpx2.get(f"{self._app_url}/", headers=headers, trust_env=False)


def archive(number: int) -> str:
    """A long text, another one each time."""
    words = ("the lead said yes and so we call him at two ", "ask her when the new site is up ")
    line = words[number % 2]
    count = ARCHIVE_WORDS // len(line.split())
    return f"Lead {number}: " + line * count
