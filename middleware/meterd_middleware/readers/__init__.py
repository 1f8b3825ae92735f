"""Readers of provider responses: bytes in, token counts out; one file a dialect, no I/O.

    reader_for(call, http_status, headers) ─▶ Reader ─ feed, feed, … ─ finish ─▶ Reading

The answer's content-type decides how it is framed, not what the request asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd_middleware.readers.anthropic import AnthropicMessages
from meterd_middleware.readers.bedrock import BedrockConverse, BedrockInvoke
from meterd_middleware.readers.cohere import Cohere
from meterd_middleware.readers.counts import ModelUsage, Reader, Reading, TextSeen
from meterd_middleware.readers.decoding import decoder_of
from meterd_middleware.readers.frames import FrameShell
from meterd_middleware.readers.framing import JSON_LINES, SERVER_SENT_EVENTS
from meterd_middleware.readers.gemini import Gemini
from meterd_middleware.readers.mistral import MistralConversations
from meterd_middleware.readers.ollama import Ollama
from meterd_middleware.readers.openai_chat import OpenAIChat
from meterd_middleware.readers.openai_other import (
    OpenAIEmbeddings,
    OpenAIImages,
    OpenAISpeech,
    OpenAITranscription,
    VertexPredict,
)
from meterd_middleware.readers.openai_responses import GoogleInteractions, OpenAIResponses
from meterd_middleware.readers.shells import OpaqueShell
from meterd_middleware.readers.sniffing import JsonShell, SniffingShell
from meterd_middleware.readers.streams import StreamShell
from meterd_middleware.readers.text_generation import (
    AnthropicCompletion,
    HuggingFaceGenerate,
    Watsonx,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meterd_middleware.readers.tally import Tally
    from meterd_middleware.request import ProviderCall

__all__ = ["ModelUsage", "Reader", "Reading", "StreamShell", "TextSeen", "reader_for"]

_LINES = ("application/x-ndjson", "application/jsonl", "application/stream+json",
          "application/x-jsonlines")  # fmt: skip
_OPAQUE = ("audio/", "image/", "video/", "application/octet-stream")


def reader_for(call: ProviderCall, http_status: int, headers: Mapping[str, str]) -> Reader:
    """The reader of one response.

    Args:
        http_status: of a response that can have usage, 2xx.
        headers: names in lower case.
    """
    tally = _TALLIES[call.dialect](call)
    tally.read_headers(headers)
    encoding = headers.get("content-encoding", "")
    decoder = decoder_of(encoding) if encoding else None
    content_type = headers.get("content-type", "").lower()
    if content_type.startswith("text/event-stream"):
        return StreamShell(tally, decoder, SERVER_SENT_EVENTS)
    if content_type.startswith("application/json") and not call.is_stream:
        return JsonShell(tally, decoder)
    if content_type.startswith(_LINES):
        return StreamShell(tally, decoder, JSON_LINES)
    if content_type.startswith("application/vnd.amazon.eventstream"):
        return FrameShell(tally, decoder)
    if content_type.startswith(_OPAQUE) and call.dialect in ("oa.speech", "oa.images"):
        return OpaqueShell(tally)
    # JSON in answer to a stream too: Gemini's arrays, Ollama's older servers and mislabelling
    # gateways all call it that.
    is_in_lines = call.is_stream and call.dialect in ("ollama", "cohere")
    return SniffingShell(tally, decoder, is_in_lines=is_in_lines)


_TALLIES: dict[str, Callable[[ProviderCall], Tally]] = {
    "oa.chat": lambda call: OpenAIChat(call.provider),
    "oa.completions": lambda call: OpenAIChat(call.provider),
    "cloudflare": lambda call: OpenAIChat(call.provider),
    "oa.responses": lambda call: OpenAIResponses(),
    "oa.embeddings": lambda call: OpenAIEmbeddings(),
    "oa.transcribe": lambda call: OpenAITranscription(),
    "oa.speech": lambda call: OpenAISpeech(),
    "oa.images": lambda call: OpenAIImages(),
    "an.messages": lambda call: AnthropicMessages(),
    "gemini": lambda call: Gemini(is_embedding=call.operation == "embeddings"),
    "gg.interactions": lambda call: GoogleInteractions(),
    "vertex.predict": lambda call: VertexPredict(),
    "bedrock.invoke": lambda call: BedrockInvoke(call.operation),
    "bedrock.converse": lambda call: BedrockConverse(),
    "cohere": lambda call: Cohere(call.operation),
    "mistral.conversations": lambda call: MistralConversations(),
    "hf.generate": lambda call: HuggingFaceGenerate(),
    "watsonx": lambda call: Watsonx(is_embedding=call.operation == "embeddings"),
    "an.complete": lambda call: AnthropicCompletion(),
    "ollama": lambda call: Ollama(is_embedding=call.operation == "embeddings"),
}
