"""Each SDK of the matrix: how its clients are made, asked and left.

An SDK that isn't installed, or is a framework too new for the versions at hand, is left out
by name: `cases()` says which are there.
"""

from __future__ import annotations

import importlib
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network

MESSAGES: Any = [{"role": "user", "content": "hello there"}]
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": MESSAGES}
CLAUDE: dict[str, Any] = {"model": "claude-sonnet-4", "max_tokens": 50, "messages": MESSAGES}
RESPONSE: dict[str, Any] = {"model": "gpt-5", "input": "hello there"}
GEMINI: dict[str, Any] = {"model": "gemini-2.5-flash", "contents": "hello there"}
MISTRAL: dict[str, Any] = {"model": "mistral-small-latest", "messages": MESSAGES}
COHERE: dict[str, Any] = {"model": "command-a-03-2025", "messages": MESSAGES}
OLLAMA: dict[str, Any] = {"model": "llama3.2", "messages": MESSAGES}


@dataclass(frozen=True)
class Case:
    """One SDK. `stream` and `astream` give iterators; what is None it doesn't have."""

    name: str
    style: str
    make: Callable[[str], Any] | None = None
    call: Callable[[Any], Any] | None = None
    stream: Callable[[Any], Any] | None = None
    amake: Callable[[str], Any] | None = None
    acall: Callable[[Any], Any] | None = None
    astream: Callable[[Any], Any] | None = None
    is_metered_by_process: bool = False
    """`instrument_all`: its clients are out of reach."""
    keeps_streams: bool = False
    """Streams can't be closed, and its logging holds what wasn't read to the last byte."""

    def __str__(self) -> str:
        return self.name


def _openai(sdk: Any) -> list[Case]:
    def make(url: str) -> Any:
        return sdk.OpenAI(api_key="k", base_url=url, max_retries=0)

    def amake(url: str) -> Any:
        return sdk.AsyncOpenAI(api_key="k", base_url=url, max_retries=0)

    def of(name: str, path: str, asked: dict[str, Any], *, streams: bool = True) -> Case:
        def ask(client: Any, **more: Any) -> Any:
            for part in path.split("."):
                client = getattr(client, part)
            return client.create(**asked, **more)

        def stream(client: Any) -> Any:
            return ask(client, stream=True)

        if not streams:
            return Case(name, "openai", make, ask, None, amake, ask)
        return Case(name, "openai", make, ask, stream, amake, ask, stream)

    embedding = {"model": "text-embedding-3-small", "input": "hello there"}
    cases = [
        of("openai chat", "chat.completions", CHAT),
        of("openai completions", "completions", {"model": "gpt-3.5-turbo-instruct",
                                                 "prompt": "hello there"}),
        of("openai embeddings", "embeddings", embedding, streams=False),
    ]  # fmt: skip
    if hasattr(sdk, "responses") or hasattr(sdk.OpenAI, "responses"):
        cases.append(of("openai responses", "responses", RESPONSE))
    return cases


def _anthropic(sdk: Any) -> list[Case]:
    return [
        Case(
            "anthropic", "anthropic",
            lambda url: sdk.Anthropic(api_key="k", base_url=url, max_retries=0),
            lambda client: client.messages.create(**CLAUDE),
            lambda client: client.messages.create(**CLAUDE, stream=True),
            lambda url: sdk.AsyncAnthropic(api_key="k", base_url=url, max_retries=0),
            lambda client: client.messages.create(**CLAUDE),
            lambda client: client.messages.create(**CLAUDE, stream=True),
        )
    ]  # fmt: skip


def _google(sdk: Any) -> list[Case]:
    types = importlib.import_module("google.genai.types")

    def make(url: str) -> Any:
        return sdk.Client(api_key="k", http_options=types.HttpOptions(base_url=url))

    return [
        Case(
            "google-genai", "gemini", make,
            lambda client: client.models.generate_content(**GEMINI),
            lambda client: client.models.generate_content_stream(**GEMINI),
            make,
            lambda client: client.aio.models.generate_content(**GEMINI),
            lambda client: client.aio.models.generate_content_stream(**GEMINI),
        )
    ]  # fmt: skip


def _mistral(sdk: Any) -> list[Case]:
    kind = getattr(sdk, "Mistral", None) or importlib.import_module("mistralai.client").Mistral

    def make(url: str) -> Any:
        return kind(api_key="k", server_url=url)

    return [
        Case(
            "mistralai", "mistral", make,
            lambda client: client.chat.complete(**MISTRAL),
            lambda client: client.chat.stream(**MISTRAL),
            make,
            lambda client: client.chat.complete_async(**MISTRAL),
            lambda client: client.chat.stream_async(**MISTRAL),
        )
    ]  # fmt: skip


def _cohere(sdk: Any) -> list[Case]:
    once = {"request_options": {"max_retries": 0}}
    return [
        Case(
            "cohere", "cohere",
            lambda url: sdk.ClientV2(api_key="k", base_url=url),
            lambda client: client.chat(**COHERE, **once),
            lambda client: client.chat_stream(**COHERE, **once),
            lambda url: sdk.AsyncClientV2(api_key="k", base_url=url),
            lambda client: client.chat(**COHERE, **once),
            lambda client: client.chat_stream(**COHERE, **once),
        )
    ]  # fmt: skip


def _like_openai(name: str, sync: str, asynchronous: str) -> Callable[[Any], list[Case]]:
    """groq and together: OpenAI's resources on classes of their own."""

    def made(sdk: Any) -> list[Case]:
        def ask(client: Any) -> Any:
            return client.chat.completions.create(**CHAT)

        def stream(client: Any) -> Any:
            return client.chat.completions.create(**CHAT, stream=True)

        return [
            Case(
                name, name,
                lambda url: getattr(sdk, sync)(api_key="k", base_url=url, max_retries=0),
                ask, stream,
                lambda url: getattr(sdk, asynchronous)(api_key="k", base_url=url, max_retries=0),
                ask, stream,
            )
        ]  # fmt: skip

    return made


def _ollama(sdk: Any) -> list[Case]:
    return [
        Case(
            "ollama", "ollama",
            lambda url: sdk.Client(host=url),
            lambda client: client.chat(**OLLAMA),
            lambda client: client.chat(**OLLAMA, stream=True),
            lambda url: sdk.AsyncClient(host=url),
            lambda client: client.chat(**OLLAMA),
            lambda client: client.chat(**OLLAMA, stream=True),
        )
    ]  # fmt: skip


def _hugging_face(sdk: Any) -> list[Case]:
    asked: dict[str, Any] = {"model": "gpt-oss", "messages": MESSAGES}
    return [
        Case(
            "huggingface_hub", "hf",
            lambda url: sdk.InferenceClient(base_url=url, api_key="k"),
            lambda client: client.chat_completion(**asked),
            lambda client: client.chat_completion(**asked, stream=True),
            lambda url: sdk.AsyncInferenceClient(base_url=url, api_key="k"),
            lambda client: client.chat_completion(**asked),
            lambda client: client.chat_completion(**asked, stream=True),
        )
    ]  # fmt: skip


def _litellm(sdk: Any) -> list[Case]:
    def of(name: str, model: str, style: str) -> Case:
        def target(url: str) -> dict[str, Any]:
            return {"model": model, "messages": MESSAGES, "api_key": "k", "api_base": url,
                    "max_retries": 0, "num_retries": 0}  # fmt: skip

        return Case(
            name, style, target,
            lambda asked: sdk.completion(**asked),
            lambda asked: sdk.completion(**asked, stream=True),
            target,
            lambda asked: sdk.acompletion(**asked),
            lambda asked: sdk.acompletion(**asked, stream=True),
            is_metered_by_process=True,
            keeps_streams=not hasattr(sdk.CustomStreamWrapper, "close"),
        )  # fmt: skip

    return [
        of("litellm openai", "openai/gpt-4o", "openai"),
        of("litellm anthropic", "anthropic/claude-sonnet-4", "anthropic"),
    ]


def _langchain(sdk: Any) -> list[Case]:
    openai = importlib.import_module("openai")

    def make(url: str) -> Any:
        # Its own default clients are cached for the process, and bound to an event loop.
        clients = {
            "http_client": openai.DefaultHttpxClient(),
            "http_async_client": openai.DefaultAsyncHttpxClient(),
        }
        return sdk.ChatOpenAI(
            model="gpt-4o", api_key="k", base_url=url, max_retries=0, stream_usage=True, **clients
        )

    return [
        Case(
            "langchain-openai", "openai", make,
            lambda model: model.invoke("hello there"),
            lambda model: model.stream("hello there"),
            make,
            lambda model: model.ainvoke("hello there"),
            lambda model: model.astream("hello there"),
        )
    ]  # fmt: skip


def _pydantic_ai(sdk: Any) -> list[Case]:
    openai = importlib.import_module("openai")
    models = importlib.import_module("pydantic_ai.models.openai")
    providers = importlib.import_module("pydantic_ai.providers.openai")

    def make(url: str) -> Any:
        client = openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0)
        provider = providers.OpenAIProvider(openai_client=client)
        return sdk.Agent(models.OpenAIChatModel("gpt-4o", provider=provider))

    async def texts(agent: Any) -> Any:
        async with agent.run_stream("hello there") as result:
            async for text in result.stream_text(delta=True, debounce_by=None):
                yield text

    return [Case("pydantic-ai", "openai", amake=make,
                 acall=lambda agent: agent.run("hello there"), astream=texts)]  # fmt: skip


def _agents(sdk: Any) -> list[Case]:
    openai = importlib.import_module("openai")
    sdk.set_tracing_disabled(True)

    def make(url: str) -> Any:
        return openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0)

    def agent(client: Any) -> Any:
        model = sdk.OpenAIResponsesModel(model="gpt-5", openai_client=client)
        return sdk.Agent(name="helper", model=model)

    async def events(client: Any) -> Any:
        result = sdk.Runner.run_streamed(agent(client), "hello there")
        try:
            async for event in result.stream_events():
                if event.type == "raw_response_event":  # others come before anything is sent
                    yield event
        finally:
            result.cancel()  # else it goes on reading in a task of its own

    return [Case("openai-agents", "openai", amake=make,
                 acall=lambda client: sdk.Runner.run(agent(client), "hello there"),
                 astream=events)]  # fmt: skip


_MAKERS: dict[str, Callable[[Any], list[Case]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "google.genai": _google,
    "mistralai": _mistral,
    "cohere": _cohere,
    "groq": _like_openai("groq", "Groq", "AsyncGroq"),
    "together": _like_openai("together", "Together", "AsyncTogether"),
    "ollama": _ollama,
    "huggingface_hub": _hugging_face,
    "litellm": _litellm,
    "langchain_openai": _langchain,
    "pydantic_ai": _pydantic_ai,
    "agents": _agents,
}


def cases(only: str = "") -> list[Case]:
    """The SDKs that are installed; of a comma list, those named alone."""
    wanted = [name for name in only.split(",") if name] or list(_MAKERS)
    found: list[Case] = []
    for name in wanted:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # their own deprecations
                found += _MAKERS[name](importlib.import_module(name))
        except ImportError:
            continue
    return found
