"""instrument, instrument_all: find the httpx clients behind an SDK and meter them.

    client = instrument(openai.OpenAI(), meter=meter)     one client, which keeps its transports
    undoable = instrument_all(meter)                      every client of the process

SDKs keep their httpx client under a handful of names (`_NAMES`); wrappers around SDKs
(LangChain, pydantic-ai, agents) keep the SDK's client under one more. What needs more than
finding has a function of its own: google-genai's client per event loop, Hugging Face's
factories, the module-level clients of openai and ollama.
"""

from __future__ import annotations

import importlib
import logging
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from meterd_middleware.errors import CannotInstrument
from meterd_middleware.imports import after_import
from meterd_middleware.wrapping import FAMILIES, ClassPatch, family_of, wrap_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meterd_middleware.meter import Meter

logger = logging.getLogger("meterd")

Client = TypeVar("Client")

DEPTH_MAX = 5
OBJECTS_MAX = 200

_NAMES = (
    "_client",  # openai, anthropic, groq, together, ollama; pydantic-ai, agents
    "client",  # langchain, pydantic-ai, litellm's handlers
    "async_client",
    "_async_client",
    "root_client",  # langchain-openai
    "root_async_client",
    "_api_client",  # google-genai
    "_httpx_client",
    "_async_httpx_client",
    "sdk_configuration",  # mistralai
    "_client_wrapper",  # cohere
    "httpx_client",
    "http_client",
    "_provider",  # pydantic-ai
    "provider",
    "model",
    "wrapped",
)

_BY_HAND = {
    "botocore": "only a client of boto3 can, as boto3.client('bedrock-runtime') makes it",
    "boto3": "only a client of boto3 can, as boto3.client('bedrock-runtime') makes it",
    "requests": "requests goes through urllib3",
    "aiohttp": "only an aiohttp.ClientSession can",
    "xai_sdk": "xai-sdk goes through gRPC",
    "litellm": "litellm makes its clients itself, a provider at a time",
    "together": "together goes through requests and aiohttp before version 2",
    "huggingface_hub": "huggingface_hub goes through requests and aiohttp before version 1",
}


def instrument(client: Client, *, meter: Meter, account: str = "") -> Client:
    """Meter an SDK's client, or any httpx or httpx2 client; returns the same object.

    Its transports are wrapped in place, so that limits, proxies and mounts stay. Idempotent: a
    second call changes the meter and the label, and never counts twice.

    Args:
        client: a client of openai, anthropic, google-genai, mistralai, cohere, groq, together,
            ollama, huggingface_hub, boto3 (Bedrock), langchain, pydantic-ai, openai-agents,
            httpx, httpx2 or aiohttp;
            also the modules `openai`, `ollama` and `huggingface_hub`, whose functions use a
            client of their own.
        account: labels the provider's key in the records, for reconciling with its bill.

    Raises:
        CannotInstrument: no httpx client can be reached; says what to do instead.
    """
    if meter.is_disabled:
        return client
    found = _Found(meter, account)
    found.look(client)
    if not found.clients:
        raise CannotInstrument(_why_not(client))
    return client


class _Found:
    """The httpx clients behind one object, each metered as it is found."""

    def __init__(self, meter: Meter, account: str) -> None:
        self._meter = meter
        self._account = account
        self._seen: set[int] = set()
        self.clients = 0

    def look(self, thing: Any, depth: int = 0) -> None:
        """Meter what is reachable from `thing` by the names that SDKs use."""
        if thing is None or id(thing) in self._seen or len(self._seen) > OBJECTS_MAX:
            return
        self._seen.add(id(thing))
        if family_of(thing):
            self._meter_client(thing)
            return
        special = _SPECIAL.get(_name_of(thing))
        if special is not None:
            try:
                special(self, thing)
            except (AttributeError, KeyError, TypeError) as error:
                raise CannotInstrument(_unknown(thing)) from error
            return
        if isinstance(thing, (str, bytes, int, float, list, dict, tuple, type)):
            return
        if depth < DEPTH_MAX:
            for inner in _inner(thing):
                self.look(inner, depth + 1)

    def _meter_client(self, client: Any) -> None:
        if hasattr(type(client), "_client_for_running_loop"):
            self._meter_per_loop(client)
        else:
            wrap_client(client, self._meter, self._account)
        self.clients += 1

    def _meter_per_loop(self, client: Any) -> None:
        """google-genai's async client, which sends through an inner client per event loop."""
        wrap_client(client, self._meter, self._account)
        for inner in list(client._loop_clients.values()):
            wrap_client(inner, self._meter, self._account)
        make = type(client)._inner_client_cls

        def metered_client(**arguments: Any) -> Any:
            made = make(**arguments)
            wrap_client(made, self._meter, self._account)
            return made

        client._inner_client_cls = metered_client

    def google_genai(self, api_client: Any) -> None:
        """google-genai: its async calls are turned from aiohttp, which it makes late, to httpx."""
        self.look(api_client._httpx_client)
        asynchronous = getattr(api_client, "_async_httpx_client", None)
        options = api_client._http_options
        session = getattr(options, "aiohttp_client", None)
        if session is not None:
            self.look(session)
            return
        if asynchronous is None:
            logger.warning(
                "meterd: the async calls of this google-genai client go through a session that "
                "it makes itself and are not metered: make it without async credentials"
            )
            return
        self.look(asynchronous)
        options.httpx_async_client = asynchronous

    def boto3(self, client: Any) -> None:
        """boto3: its client's session, which goes through urllib3."""
        shells = importlib.import_module("meterd_middleware.boto3")
        shells.meter_client(client, self._meter, self._account)
        self.clients += 1

    def aiohttp(self, session: Any) -> None:
        """A session of aiohttp."""
        shells = importlib.import_module("meterd_middleware.aiohttp")
        shells.meter_session(session, self._meter, self._account)
        self.clients += 1

    def openai_module(self, module: Any) -> None:
        """`openai.chat.completions.create(...)`: the module's client, made at the first call."""
        made = getattr(module, "_client", None)
        if made is not None:
            self.look(made)
            return
        if module.http_client is None:
            module.http_client = module.DefaultHttpxClient()
        self.look(module.http_client)

    def huggingface(self, _: Any) -> None:
        """Hugging Face: one shared sync client, and async clients made anew for each use."""
        http = sys.modules["huggingface_hub.utils._http"]
        if not hasattr(http, "set_async_client_factory"):
            return  # before version 1
        self.look(http.get_session())
        make = http._GLOBAL_ASYNC_CLIENT_FACTORY
        make = getattr(make, "_meterd_inner", make)

        def metered_client() -> Any:
            made = make()
            wrap_client(made, self._meter, self._account)
            return made

        metered_client._meterd_inner = make  # type: ignore[attr-defined]  # so as to wrap once
        http.set_async_client_factory(metered_client)


_SPECIAL: dict[str, Callable[[_Found, Any], None]] = {
    "botocore.client.BaseClient": _Found.boto3,
    "aiohttp.client.ClientSession": _Found.aiohttp,
    "google.genai._api_client.BaseApiClient": _Found.google_genai,
    "openai": _Found.openai_module,
    "huggingface_hub": _Found.huggingface,
    "huggingface_hub.inference._client.InferenceClient": _Found.huggingface,
    "huggingface_hub.inference._generated._async_client.AsyncInferenceClient": _Found.huggingface,
}


def _name_of(thing: object) -> str:
    """The name of a module, or the full name of the first known class of an object."""
    if isinstance(thing, ModuleType):
        return thing.__name__
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(thing).__mro__]
    return next((name for name in names if name in _SPECIAL), names[0])


def _inner(thing: object) -> Iterator[object]:
    for name in _NAMES:
        try:
            inner = getattr(thing, name, None)
        except Exception:  # a property that needs a key, a loop, a connection
            continue
        if inner is not None and not callable(getattr(inner, "__func__", None)):
            yield inner


def _full_name(client: object) -> str:
    if isinstance(client, ModuleType):
        return client.__name__
    kind = client if isinstance(client, type) else type(client)
    return f"{kind.__module__}.{kind.__qualname__}"


def _unknown(client: object) -> str:
    return (
        f"{_full_name(client)} is made otherwise in this version than in those that meterd knows: "
        "use instrument_all(meter), or count its calls with meter.call(...) or meter.record(...)"
    )


def _why_not(client: object) -> str:
    name = _full_name(client)
    if isinstance(client, type):
        return f"{name} is a class: give instrument() an object of it"
    reason = _BY_HAND.get(name.partition(".")[0], "it holds no httpx or httpx2 client")
    return (
        f"{name} can't be metered by its transport: {reason}. Give instrument() the SDK's client "
        "object, use instrument_all(meter) where clients are made out of reach, or count its "
        "calls with meter.call(...) or meter.record(...)"
    )


class _Patch(Protocol):
    """One library's clients, all of them metered."""

    meter: Meter

    def undo(self) -> None: ...


class _Process:
    """Every client of the process, metered; one at a time."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._patches: list[_Patch] = []
        self._undo: list[Callable[[], None]] = []
        self._libraries: set[int] = set()

    def start(self) -> None:
        """Patch what is imported, and the rest as soon as it will be."""
        for name in FAMILIES:
            self._undo.append(after_import(name, self._patch))
        self._undo.append(after_import("botocore.httpsession", self._patch_boto3))
        self._undo.append(after_import("aiohttp", self._patch_aiohttp))
        self._undo.append(after_import("google.genai._api_client", self._turn_google_to_httpx))

    def change_meter(self, meter: Meter) -> None:
        """Count for another meter from now on."""
        self._meter = meter
        for patch in self._patches:
            patch.meter = meter

    def _patch(self, library: ModuleType) -> None:
        if id(library) not in self._libraries:  # httpx may be an alias of httpx2
            self._libraries.add(id(library))
            self._patches.append(ClassPatch(library, self._meter))

    def _patch_boto3(self, _: ModuleType) -> None:
        shells = importlib.import_module("meterd_middleware.boto3")
        self._patches.append(shells.SessionPatch(self._meter))

    def _patch_aiohttp(self, _: ModuleType) -> None:
        shells = importlib.import_module("meterd_middleware.aiohttp")
        self._patches.append(shells.SessionPatch(self._meter))

    def _turn_google_to_httpx(self, module: Any) -> None:
        """Async google-genai prefers aiohttp, which we don't see, wherever that is installed."""
        kind = getattr(module, "BaseApiClient", None)
        original = getattr(kind, "_use_aiohttp", None)
        if kind is None or original is None:
            return

        def _use_aiohttp(api_client: Any) -> bool:
            own = getattr(api_client._http_options, "aiohttp_client", None)
            if own is None and getattr(api_client, "_async_httpx_client", None) is not None:
                return False
            return bool(original(api_client))

        def undo() -> None:
            if kind._use_aiohttp is _use_aiohttp:
                kind._use_aiohttp = original

        kind._use_aiohttp = _use_aiohttp
        self._undo.append(undo)

    def stop(self) -> None:
        """Leave every client as it was; calls under way are still counted."""
        for patch in self._patches:
            patch.undo()
        for undo in self._undo:
            undo()


class Instrumentation:
    """What one `instrument_all` has done; `undo()` takes it back. Also a context manager."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def undo(self) -> None:
        """Count for the meter that was in force before; without one leave every client as it was.

        In whatever order, and repeatable; calls under way are still counted.
        """
        global _everything
        if _everything is None or self not in _in_force:
            return
        _in_force.remove(self)
        if _in_force:
            _everything.change_meter(_in_force[-1].meter)
        else:
            _everything.stop()
            _everything = None

    def __enter__(self) -> Instrumentation:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


_everything: _Process | None = None
_in_force: list[Instrumentation] = []
"""The newest, whose meter counts, is the last."""


def instrument_all(meter: Meter) -> Instrumentation:
    """Meter every httpx and httpx2 client of the process, existing and future.

    For apps that make clients in many places, or let a framework do it. Only LLM calls are
    looked at; other requests, their headers included, pass untouched. Of several calls the
    newest one's meter counts.

    Returns:
        What was done: `.undo()` takes it back.
    """
    global _everything
    done = Instrumentation(meter)
    if meter.is_disabled:
        return done
    _in_force.append(done)
    if _everything is not None:
        _everything.change_meter(meter)
    else:
        _everything = _Process(meter)
        _everything.start()
    return done
