"""The official SDKs, each able to make one call of each kind against the loopback provider."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anthropic
import cohere
import groq
import huggingface_hub
import ollama
import openai
import together
from google import genai
from google.genai import types
from mistralai.client import Mistral

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

MESSAGES: Any = [{"role": "user", "content": "hello there"}]


@dataclass(frozen=True)
class Sdk:
    """One SDK: how to make its clients, and what to call on them."""

    name: str
    provider: str
    style: str
    make: Callable[[str], Any]
    call: Callable[[Any], object]
    stream: Callable[[Any], object] | None = None
    amake: Callable[[str], Any] | None = None
    acall: Callable[[Any], Awaitable[object]] | None = None
    astream: Callable[[Any], Awaitable[object]] | None = None
    refused_as: str = "RateLimitError"

    def __str__(self) -> str:
        return self.name

    @contextmanager
    def client(self, url: str) -> Iterator[Any]:
        """A sync client, closed afterwards as far as the SDK lets one."""
        client = self.make(url)
        try:
            yield client
        finally:
            _close(client)

    @asynccontextmanager
    async def async_client(self, url: str) -> AsyncIterator[Any]:
        """An async client, closed afterwards as far as the SDK lets one."""
        assert self.amake is not None
        client = self.amake(url)
        try:
            yield client
        finally:
            await _aclose(client)


def _close(client: Any) -> None:
    for target in (client, getattr(client, "sdk_configuration", None)):
        inner = getattr(target, "client", None)
        close = getattr(inner, "close", None) or getattr(target, "close", None)
        if callable(close):
            close()
            return


async def _aclose(client: Any) -> None:
    configuration = getattr(client, "sdk_configuration", None)
    if configuration is not None:  # mistralai
        await configuration.async_client.aclose()
        return
    aio = getattr(client, "aio", None)
    for target in (aio, client, getattr(client, "_client", None)):
        for name in ("aclose", "close"):
            close = getattr(target, name, None)
            if callable(close):
                made = close()
                if hasattr(made, "__await__"):
                    await made
                    return


def _openai(url: str) -> Any:
    return openai.OpenAI(api_key="k", base_url=url)


def _async_openai(url: str) -> Any:
    return openai.AsyncOpenAI(api_key="k", base_url=url)


def _chat(client: Any) -> object:
    return client.chat.completions.create(model="gpt-4o", messages=MESSAGES)


def _chat_stream(client: Any) -> object:
    return list(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))


async def _achat(client: Any) -> object:
    return await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)


async def _achat_stream(client: Any) -> object:
    stream = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
    return [chunk async for chunk in stream]


def _responses(client: Any) -> object:
    return client.responses.create(model="gpt-5", input="hello there")


def _responses_stream(client: Any) -> object:
    return list(client.responses.create(model="gpt-5", input="hello there", stream=True))


async def _aresponses(client: Any) -> object:
    return await client.responses.create(model="gpt-5", input="hello there")


async def _aresponses_stream(client: Any) -> object:
    stream = await client.responses.create(model="gpt-5", input="hello there", stream=True)
    return [event async for event in stream]


def _embed(client: Any) -> object:
    return client.embeddings.create(model="text-embedding-3-small", input="hello there")


async def _aembed(client: Any) -> object:
    return await client.embeddings.create(model="text-embedding-3-small", input="hello there")


def _raw(client: Any) -> object:
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
    return raw.parse()


def _streaming_response(client: Any) -> object:
    with client.chat.completions.with_streaming_response.create(
        model="gpt-4o", messages=MESSAGES
    ) as response:
        return response.read()


def _anthropic(url: str) -> Any:
    return anthropic.Anthropic(api_key="k", base_url=url)


def _async_anthropic(url: str) -> Any:
    return anthropic.AsyncAnthropic(api_key="k", base_url=url)


_CLAUDE: dict[str, Any] = {"model": "claude-sonnet-4", "max_tokens": 50, "messages": MESSAGES}


def _messages_stream(client: Any) -> object:
    with client.messages.stream(**_CLAUDE) as stream:
        return stream.get_final_message()


async def _amessages(client: Any) -> object:
    return await client.messages.create(**_CLAUDE)


async def _amessages_stream(client: Any) -> object:
    async with client.messages.stream(**_CLAUDE) as stream:
        return await stream.get_final_message()


def _genai(url: str) -> Any:
    return genai.Client(api_key="k", http_options=types.HttpOptions(base_url=url))


_GEMINI: dict[str, Any] = {"model": "gemini-2.5-flash", "contents": "hello there"}


async def _agenerate(client: Any) -> object:
    return await client.aio.models.generate_content(**_GEMINI)


async def _agenerate_stream(client: Any) -> object:
    stream = await client.aio.models.generate_content_stream(**_GEMINI)
    return [chunk async for chunk in stream]


def _mistral(url: str) -> Any:
    return Mistral(api_key="k", server_url=url)


_MISTRAL: dict[str, Any] = {"model": "mistral-small-latest", "messages": MESSAGES}


async def _amistral(client: Any) -> object:
    return await client.chat.complete_async(**_MISTRAL)


async def _amistral_stream(client: Any) -> object:
    return [event async for event in await client.chat.stream_async(**_MISTRAL)]


def _cohere(url: str) -> Any:
    return cohere.ClientV2(api_key="k", base_url=url)


def _async_cohere(url: str) -> Any:
    return cohere.AsyncClientV2(api_key="k", base_url=url)


_COHERE: dict[str, Any] = {"model": "command-r-plus", "messages": MESSAGES}


async def _acohere(client: Any) -> object:
    return await client.chat(**_COHERE)


async def _acohere_stream(client: Any) -> object:
    return [event async for event in client.chat_stream(**_COHERE)]


def _groq(url: str) -> Any:
    return groq.Groq(api_key="k", base_url=url)


def _async_groq(url: str) -> Any:
    return groq.AsyncGroq(api_key="k", base_url=url)


def _together(url: str) -> Any:
    return together.Together(api_key="k", base_url=url)


def _async_together(url: str) -> Any:
    return together.AsyncTogether(api_key="k", base_url=url)


def _ollama(url: str) -> Any:
    return ollama.Client(host=url)


def _async_ollama(url: str) -> Any:
    return ollama.AsyncClient(host=url)


_OLLAMA: dict[str, Any] = {"model": "llama3.2", "messages": MESSAGES}


async def _aollama(client: Any) -> object:
    return await client.chat(**_OLLAMA)


async def _aollama_stream(client: Any) -> object:
    return [part async for part in await client.chat(**_OLLAMA, stream=True)]


def _hugging_face(url: str) -> Any:
    return huggingface_hub.InferenceClient(base_url=url, api_key="k")


def _async_hugging_face(url: str) -> Any:
    return huggingface_hub.AsyncInferenceClient(base_url=url, api_key="k")


_HUGGING_FACE: dict[str, Any] = {"model": "gpt-oss", "messages": MESSAGES}


async def _ahugging_face(client: Any) -> object:
    return await client.chat_completion(**_HUGGING_FACE)


SDKS = [
    Sdk("openai chat", "openai", "openai", _openai, _chat, _chat_stream,
        _async_openai, _achat, _achat_stream),
    Sdk("openai responses", "openai", "openai", _openai, _responses, _responses_stream,
        _async_openai, _aresponses, _aresponses_stream),
    Sdk("openai embeddings", "openai", "openai", _openai, _embed,
        amake=_async_openai, acall=_aembed),
    Sdk("openai with_raw_response", "openai", "openai", _openai, _raw),
    Sdk("openai with_streaming_response", "openai", "openai", _openai, _streaming_response),
    Sdk("anthropic", "anthropic", "anthropic", _anthropic,
        lambda client: client.messages.create(**_CLAUDE), _messages_stream,
        _async_anthropic, _amessages, _amessages_stream),
    Sdk("google-genai", "gcp.gemini", "gemini", _genai,
        lambda client: client.models.generate_content(**_GEMINI),
        lambda client: list(client.models.generate_content_stream(**_GEMINI)),
        _genai, _agenerate, _agenerate_stream, refused_as="ClientError"),
    Sdk("mistralai", "mistral_ai", "mistral", _mistral,
        lambda client: client.chat.complete(**_MISTRAL),
        lambda client: list(client.chat.stream(**_MISTRAL)),
        _mistral, _amistral, _amistral_stream, refused_as="SDKError"),
    Sdk("cohere", "cohere", "cohere", _cohere,
        lambda client: client.chat(**_COHERE),
        lambda client: list(client.chat_stream(**_COHERE)),
        _async_cohere, _acohere, _acohere_stream, refused_as="TooManyRequestsError"),
    Sdk("groq", "groq", "groq", _groq, _chat, _chat_stream, _async_groq, _achat, _achat_stream),
    Sdk("together", "together", "together", _together, _chat, _chat_stream,
        _async_together, _achat, _achat_stream),
    Sdk("ollama", "ollama", "ollama", _ollama,
        lambda client: client.chat(**_OLLAMA),
        lambda client: list(client.chat(**_OLLAMA, stream=True)),
        _async_ollama, _aollama, _aollama_stream, refused_as="ResponseError"),
    Sdk("huggingface_hub", "hugging_face", "hf", _hugging_face,
        lambda client: client.chat_completion(**_HUGGING_FACE),
        lambda client: list(client.chat_completion(**_HUGGING_FACE, stream=True)),
        _async_hugging_face, _ahugging_face, refused_as="HfHubHTTPError"),
]  # fmt: skip
