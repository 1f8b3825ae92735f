"""Tags: the client and project a call is billed to, and how they reach the call.

    X-Client-ID on the outbound call  ▸  tagged(...)  ▸  the inbound request  ▸  the Meter's client

The first that names a client wins. Tags travel in one contextvar, so they follow await,
anyio threads and background tasks. An inbound request puts a mutable holder there, which
`tag_request` fills from wherever the login runs, threads included.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, overload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLIENT_HEADER = "x-client-id"
PROJECT_HEADER = "x-project-id"
UNATTRIBUTED = "unattributed"
"""The client of calls that name none: recorded, never dropped."""

ID_CHARACTERS_MAX = 128


@dataclass(frozen=True, slots=True)
class Tags:
    """Whom a call is billed to. Ids compare exactly; an empty project is none."""

    client: str
    project: str = ""

    def headers(self) -> dict[str, str]:
        """The tags as headers, to carry them through a queue or to another service."""
        headers = {"X-Client-ID": self.client}
        if self.project:
            headers["X-Project-ID"] = self.project
        return headers

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> Tags | None:
        """Tags from a mapping of headers, whatever their case; None where no client is named."""
        found = {
            name.lower(): value
            for name, value in headers.items()
            if name.lower() in (CLIENT_HEADER, PROJECT_HEADER)
        }
        client = found.get(CLIENT_HEADER, "")
        return cls(client, found.get(PROJECT_HEADER, "")) if client else None


def why_invalid(identifier: str) -> str:
    """Why a client or project id can't be used, one clause; empty if it can.

    Ids are 1 to 128 printable ASCII characters without surrounding blanks, since they
    travel in HTTP headers (RFC 9110, 5.5).
    """
    if not isinstance(identifier, str):  # a number, straight from a database
        return "is no string"
    if not identifier:
        return "is empty"
    if len(identifier) > ID_CHARACTERS_MAX:
        return f"has {len(identifier)} characters, at most {ID_CHARACTERS_MAX} are allowed"
    if not identifier.isascii():
        return "has characters outside ASCII"
    if not identifier.isprintable():
        return "has control characters"
    if identifier != identifier.strip():
        return "begins or ends with a blank"
    return ""


class RequestTags:
    """The one mutable holder of an inbound request's tags, shared by all its contexts.

    While nobody is named in it, what was in force around it holds: the tags of an outer
    `MeterMiddleware`, where an app with one of its own is mounted in another.
    """

    __slots__ = ("_around", "_own")

    def __init__(self, tags: Tags | None = None, around: Tags | RequestTags | None = None) -> None:
        self._own = tags
        self._around = around

    @property
    def tags(self) -> Tags | None:
        """Whom the request is billed to, as far as is known by now."""
        if self._own is not None:
            return self._own
        return self._around.tags if isinstance(self._around, RequestTags) else self._around

    def fill(self, tags: Tags) -> None:
        """Say it, from wherever the login runs."""
        self._own = tags


_current: ContextVar[Tags | RequestTags | None] = ContextVar("meterd_tags", default=None)
_holder: ContextVar[RequestTags | None] = ContextVar("meterd_request_tags", default=None)


def current_tags() -> Tags | None:
    """The tags in force here: of the innermost `tagged`, else of the inbound request; or None."""
    held = _current.get()
    return held.tags if isinstance(held, RequestTags) else held


@overload
def tagged(tags: Tags, /) -> _Tagged: ...
@overload
def tagged(*, client: str, project: str | None = None) -> _Tagged: ...
def tagged(
    tags: Tags | None = None, /, *, client: str | None = None, project: str | None = None
) -> _Tagged:
    """Bill every LLM call inside the block to this client; `with` or `async with`; nests."""
    if tags is None:
        if client is None:
            raise TypeError("tagged() needs a client, as tagged(client=...) or tagged(tags)")
        tags = Tags(client, project or "")
    return _Tagged(tags)


class _Tagged:
    """Sets the contextvar on entry and restores it on exit, in the context it runs in."""

    __slots__ = ("_before", "_tags")

    def __init__(self, tags: Tags) -> None:
        self._tags = tags
        self._before: list[Tags | RequestTags | None] = []

    def __enter__(self) -> Tags:
        self._before.append(_current.get())
        _current.set(self._tags)
        return self._tags

    def __exit__(self, *_: object) -> None:
        # set, not Token.reset: a generator's finaliser may exit in another context, where
        # reset raises into the app.
        _current.set(self._before.pop())

    async def __aenter__(self) -> Tags:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


def tag_request(*, client: str, project: str | None = None) -> bool:
    """Say whom the inbound request being served is billed to, from where its login runs.

    Fills the holder that `MeterMiddleware` put into the context, so it works from sync
    dependencies and threads too, for all that the request does from then on.

    Returns:
        False where no request of a `MeterMiddleware` is being served: nothing was tagged.
    """
    holder = _holder.get()
    if holder is None:
        return False
    holder.fill(Tags(client, project or ""))
    return True


class serving_request:
    """Puts a fresh holder into the context for the time of one inbound request."""

    __slots__ = ("_before", "_before_holder", "_tags")

    def __init__(self, tags: Tags | None) -> None:
        self._tags = tags

    def __enter__(self) -> RequestTags:
        self._before, self._before_holder = _current.get(), _holder.get()
        holder = RequestTags(self._tags, self._before)
        _current.set(holder)
        _holder.set(holder)
        return holder

    def __exit__(self, *_: object) -> None:
        _current.set(self._before)
        _holder.set(self._before_holder)


class Payer(NamedTuple):
    """Who pays for one call, and what was wrong with what named them."""

    tags: Tags
    note: str = ""
    is_named: bool = True
    """False where nobody named a client: the call is recorded as `unattributed`."""


def who_pays(
    clients: Sequence[str] = (), projects: Sequence[str] = (), default_client: str = ""
) -> Payer:
    """Who pays for a call: its own headers, then the tags in force here, then the default.

    An id that can't be used is noted and the call counted as `unattributed`: billing the
    next in line would bill somebody whom the app did not name.

    Args:
        clients, projects: the values of the call's `X-Client-ID` and `X-Project-ID`.
        default_client: the `Meter`'s own client; empty for none.
    """
    named = _from_call(clients, projects) if clients or projects else None
    if named is not None and named.client:
        return _checked(named.client, named.project)
    tags = _current.get()
    if isinstance(tags, RequestTags):
        tags = tags.tags
    if tags is None or not tags.client:
        project = named.project if named else (tags.project if tags else "")
        if default_client:
            return _checked(default_client, project)
        note = "a project without a client" if project else ""
        return Payer(_checked(UNATTRIBUTED, project).tags, note, is_named=False)
    return _checked(tags.client, tags.project if named is None else named.project)


def _from_call(clients: Sequence[str], projects: Sequence[str]) -> Tags:
    """The tags in the call's own headers; two different values for one are no value."""
    client = clients[0] if clients else ""
    if len(clients) > 1 and len(set(clients)) > 1:
        client = _TWO_CLIENTS
    project = projects[0] if projects else ""
    if len(projects) > 1 and len(set(projects)) > 1:
        project = ""
    return Tags(client, project)


_TWO_CLIENTS = "\0"
"""Stands for, or between, two contradicting headers; no header can hold it."""


def _checked(client: str, project: str) -> Payer:
    """The payer that these ids name; looked up, since an app bills the same few all day."""
    key = (client, project)
    try:
        payer = _known.get(key)
    except TypeError:  # ids that are no strings may not even be hashable
        return _judged(Tags(client, project))
    if payer is None:
        payer = _judged(Tags(client, project))
        if len(_known) < KNOWN_MAX:
            _known[key] = payer
    return payer


KNOWN_MAX = 4096
_known: dict[tuple[str, str], Payer] = {}


def _judged(tags: Tags) -> Payer:
    client, project = tags.client, tags.project
    if wrong := why_invalid(client):
        if isinstance(client, str) and _TWO_CLIENTS in client:
            return Payer(Tags(UNATTRIBUTED), "two different X-Client-ID headers")
        return Payer(Tags(UNATTRIBUTED), f"the client id {wrong}")
    if project and (wrong := why_invalid(project)):
        return Payer(Tags(client), f"the project id {wrong}")
    return Payer(tags)
