"""Which dialect a request speaks, and whose it is: tables of paths and hosts.

    method + path ──route_of()──▶ Route(dialect, operation, model in the URL)
    host          ──provider_of()──▶ OpenTelemetry's provider name

The longest path suffix wins. Only the exact POST paths that are billed stand here: a `GET`
or a `POST /chat/completions/{id}` repeats a usage that was counted, token counting and
moderation are free, and everything else isn't an LLM call.

Sources: the SDKs' resources (openai 3.57, anthropic 2.14, google-genai 3.6, cohere 7.3,
mistralai 3.7, ollama 0.6); OpenTelemetry GenAI, `gen_ai.provider.name`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple


class Route(NamedTuple):
    """What a path says: the dialect of the answer, the operation, and what the URL holds."""

    dialect: str
    operation: str
    url_model: str = ""
    is_stream: bool = False
    """Whether the path itself asks for a stream."""
    poll_id: str = ""
    is_free_form: bool = False
    """The path is too common to be believed without a known host or a telling body."""
    only: str = ""
    """The one provider on whose hosts this path runs a model; empty: on any."""


_WATSONX = "ibm.watsonx.ai"

_SUFFIXES: tuple[tuple[str, Route], ...] = (
    ("/chat/completions", Route("oa.chat", "chat")),
    ("/fim/completions", Route("oa.chat", "text_completion")),
    ("/agents/completions", Route("oa.chat", "chat")),
    ("/completions", Route("oa.completions", "text_completion")),
    ("/responses/compact", Route("oa.responses", "chat")),
    ("/responses", Route("oa.responses", "chat", is_free_form=True)),
    ("/embeddings", Route("oa.embeddings", "embeddings", is_free_form=True)),
    ("/audio/transcriptions", Route("oa.transcribe", "transcription")),
    ("/audio/translations", Route("oa.transcribe", "transcription")),
    ("/audio/speech", Route("oa.speech", "speech")),
    ("/images/generations", Route("oa.images", "image_generation")),
    ("/images/edits", Route("oa.images", "image_generation")),
    ("/images/variations", Route("oa.images", "image_generation")),
    ("/v1/messages", Route("an.messages", "chat")),
    ("/interactions", Route("gg.interactions", "generate_content", is_free_form=True)),
    ("/v1/images", Route("oa.images", "image_generation", only="openrouter")),
    ("/v1/complete", Route("an.complete", "text_completion", only="anthropic")),
    ("/multimodalembeddings", Route("oa.embeddings", "embeddings", is_free_form=True)),
    ("/contextualizedembeddings", Route("oa.embeddings", "embeddings", is_free_form=True)),
    ("/text/chatcompletion_v2", Route("oa.chat", "chat", only="minimax")),
    ("/inference:complete", Route("oa.chat", "chat", only="snowflake")),
    ("/text/chat", Route("oa.chat", "chat", only=_WATSONX)),
    ("/text/chat_stream", Route("oa.chat", "chat", "", True, only=_WATSONX)),
    ("/text/generation", Route("watsonx", "text_completion", only=_WATSONX)),
    ("/text/generation_stream", Route("watsonx", "text_completion", "", True, only=_WATSONX)),
    ("/generation/text", Route("watsonx", "text_completion", only=_WATSONX)),
    ("/generation/text_stream", Route("watsonx", "text_completion", "", True, only=_WATSONX)),
    ("/text/embeddings", Route("watsonx", "embeddings", only=_WATSONX)),
    ("/generate", Route("hf.generate", "text_completion", is_free_form=True)),
    ("/generate_stream", Route("hf.generate", "text_completion", "", True, is_free_form=True)),
    ("/v2/chat", Route("cohere", "chat", is_free_form=True)),
    ("/v2/embed", Route("cohere", "embeddings", is_free_form=True)),
    ("/v2/rerank", Route("cohere", "rerank", is_free_form=True)),
    ("/v1/chat", Route("cohere", "chat", is_free_form=True)),
    ("/v1/generate", Route("cohere", "text_completion", is_free_form=True)),
    ("/v1/embed", Route("cohere", "embeddings", is_free_form=True)),
    ("/rerank", Route("cohere", "rerank", is_free_form=True)),
    ("/v1/classify", Route("cohere", "classify", is_free_form=True)),
    ("/v1/summarize", Route("cohere", "text_completion", is_free_form=True)),
    ("/api/chat", Route("ollama", "chat", is_free_form=True)),
    ("/api/generate", Route("ollama", "text_completion", is_free_form=True)),
    ("/api/embed", Route("ollama", "embeddings", is_free_form=True)),
    ("/api/embeddings", Route("ollama", "embeddings", is_free_form=True)),
)
_BY_LAST_SEGMENT: dict[str, list[tuple[str, Route]]] = {}
for _suffix, _route in sorted(_SUFFIXES, key=lambda row: -len(row[0])):
    _BY_LAST_SEGMENT.setdefault(_suffix.rpartition("/")[2], []).append((_suffix, _route))

_MODEL_METHOD = re.compile(
    r"/(?:(?:models|tunedModels|endpoints)/([^/:]+)|v1internal):([A-Za-z]+)$"
)
_MODEL_METHODS = {
    "generateContent": Route("gemini", "generate_content"),
    "streamGenerateContent": Route("gemini", "generate_content", is_stream=True),
    "embedContent": Route("gemini", "embeddings"),
    "batchEmbedContents": Route("gemini", "embeddings"),
    "asyncBatchEmbedContent": Route("gemini", "embeddings"),
    "predict": Route("vertex.predict", "embeddings"),
    "rawPredict": Route("an.messages", "chat"),
    "streamRawPredict": Route("an.messages", "chat", is_stream=True),
}
_BEDROCK = re.compile(
    # A model may be an ARN, which has slashes of its own once the path is decoded.
    r"/model/(.+)/(invoke-with-response-stream|invoke|converse-stream|converse)$"
)
_CONVERSATION = re.compile(r"/v1/conversations(?:/[^/]+(?:/restart)?)?$")
"""Mistral's agents; OpenAI's path of the same name holds messages and runs no model."""

_HUGGING_FACE_MODEL = re.compile(r"/models/([^/]+(?:/[^/]+)?)$")
_OTHER_PUBLISHER = re.compile(r"/publishers/(?!anthropic/)|/endpoints/")
_POLLED = re.compile(r"/(responses|interactions)/([A-Za-z0-9_.-]+)(/cancel)?$")
_CLOUDFLARE = re.compile(r"/ai/run/(@[a-z]+/.+)$")
_AZURE_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)/")


def route_of(method: str, path: str) -> Route | None:
    """What a request's method and path (percent-decoded, without query) say; None: not ours."""
    if method == "GET":
        return _polled(path, is_cancel=False)
    if method != "POST":
        return None
    path = path.rstrip("/")
    for suffix, route in _BY_LAST_SEGMENT.get(path.rpartition("/")[2], ()):
        if path.endswith(suffix):
            return _with_deployment(route, path)
    return _in_url(path)


def _in_url(path: str) -> Route | None:
    """Routes whose model stands in the URL."""
    if matched := _MODEL_METHOD.search(path):
        model, method = matched.groups()
        route = _MODEL_METHODS.get(method)
        if route is None or model == "count-tokens":  # Vertex counts for free
            return None
        if method.endswith("awPredict") and _OTHER_PUBLISHER.search(path):
            route = route._replace(dialect="oa.chat")
        return route._replace(url_model=model or "")
    if matched := _BEDROCK.search(path):
        return _on_bedrock(*matched.groups())
    if matched := _CLOUDFLARE.search(path):
        return Route("cloudflare", "chat", matched[1], is_free_form=True)
    if _CONVERSATION.search(path):
        return Route("mistral.conversations", "chat", only="mistral_ai")
    if not path:  # an inference endpoint of one's own
        return Route("hf.generate", "text_completion", only="huggingface")
    if matched := _HUGGING_FACE_MODEL.search(path):
        return Route("hf.generate", "text_completion", matched[1], only="huggingface")
    return _polled(path, is_cancel=True)


def _on_bedrock(model: str, action: str) -> Route:
    """Bedrock: what a model does stands in its name alone."""
    dialect = "bedrock.converse" if action.startswith("converse") else "bedrock.invoke"
    operation = "chat"
    if dialect == "bedrock.invoke":
        operation = next((kind for word, kind in _BEDROCK_OPERATIONS if word in model), "chat")
    return Route(dialect, operation, model, is_stream=action.endswith("stream"))


_BEDROCK_OPERATIONS = (
    ("embed", "embeddings"),
    ("rerank", "rerank"),
    ("titan-text", "text_completion"),
    ("titan-tg1", "text_completion"),
)


def _polled(path: str, *, is_cancel: bool) -> Route | None:
    """A background response asked for again, or cancelled."""
    matched = _POLLED.search(path)
    if matched is None or bool(matched[3]) is not is_cancel:
        return None
    kind, poll_id = matched[1], matched[2]
    if kind == "responses":
        if not poll_id.startswith("resp"):
            return None
        return Route("oa.responses", "chat", poll_id=poll_id)
    return Route("gg.interactions", "generate_content", poll_id=poll_id, is_free_form=True)


def _with_deployment(route: Route, path: str) -> Route:
    matched = _AZURE_DEPLOYMENT.search(path)
    return route._replace(url_model=matched[1]) if matched else route


@dataclass(frozen=True, slots=True)
class Host:
    """Whose a host is."""

    provider: str
    takes_include_usage: bool = False
    """Known to accept `stream_options.include_usage`, and to tell usage to no one who doesn't ask.

    Groq, xAI, DeepSeek and OpenRouter state it in the last chunk anyway: there asking would
    only change the app's bytes (include_usage.py).
    """


_EXACT_HOSTS: dict[str, Host] = {
    "api.anthropic.com": Host("anthropic"),
    "generativelanguage.googleapis.com": Host("gcp.gemini"),
    "aiplatform.googleapis.com": Host("gcp.vertex_ai"),
    "api.mistral.ai": Host("mistral_ai"),
    "codestral.mistral.ai": Host("mistral_ai"),
    "api.cohere.com": Host("cohere"),
    "api.cohere.ai": Host("cohere"),
    "api.groq.com": Host("groq"),
    "api.x.ai": Host("x_ai"),
    "api.deepseek.com": Host("deepseek"),
    "api.perplexity.ai": Host("perplexity"),
    "openrouter.ai": Host("openrouter"),
    "api.together.ai": Host("together", takes_include_usage=True),
    "api.together.xyz": Host("together", takes_include_usage=True),
    "api-inference.together.ai": Host("together", takes_include_usage=True),
    "api.fireworks.ai": Host("fireworks", takes_include_usage=True),
    "router.huggingface.co": Host("huggingface"),
    "api-inference.huggingface.co": Host("huggingface"),
    "api.cerebras.ai": Host("cerebras"),
    "api.moonshot.ai": Host("moonshot_ai"),
    "api.moonshot.cn": Host("moonshot_ai"),
    "api.novita.ai": Host("novita"),
    "api.sambanova.ai": Host("sambanova"),
    "api.hyperbolic.xyz": Host("hyperbolic"),
    "api.studio.nebius.com": Host("nebius"),
    "api.cloudflare.com": Host("cloudflare"),
    "gateway.ai.cloudflare.com": Host("cloudflare"),
    "api.minimax.io": Host("minimax"),
    "api.z.ai": Host("zai"),
    "dashscope.aliyuncs.com": Host("alibaba"),
    "dashscope-intl.aliyuncs.com": Host("alibaba"),
    "api.ai21.com": Host("ai21"),
    "api.voyageai.com": Host("voyageai"),
    "api.jina.ai": Host("jina"),
    "models.github.ai": Host("github"),
    "models.inference.ai.azure.com": Host("azure.ai.inference"),
    "api.deepinfra.com": Host("deepinfra"),
    "integrate.api.nvidia.com": Host("nvidia"),
    "inference.baseten.co": Host("baseten"),
    "ollama.com": Host("ollama"),
    "api.writer.com": Host("writer"),
    "api.arcee.ai": Host("arcee"),
    "api.avian.io": Host("avian"),
    "api.doubleword.ai": Host("doubleword"),
    "api.githubcopilot.com": Host("github-copilot"),
    "api.meta.ai": Host("meta"),
    "api.llama.com": Host("meta"),
    "api.minimax.chat": Host("minimax"),
    "api.minimaxi.com": Host("minimax"),
    "open.bigmodel.cn": Host("zhipuai"),
    "oai.endpoints.kepler.ai.cloud.ovh.net": Host("ovhcloud"),
    "api.quicksilverpro.io": Host("quicksilverpro"),
    "ai-gateway.vercel.sh": Host("vercel"),
    "api.siliconflow.com": Host("siliconflow"),
    "api.siliconflow.cn": Host("siliconflow"),
    "api.scaleway.ai": Host("scaleway"),
    "api.inference.crusoecloud.com": Host("crusoe"),
    "api.lambda.ai": Host("lambda"),
    "api.friendli.ai": Host("friendli"),
    "api.upstage.ai": Host("upstage"),
    "api.replicate.com": Host("replicate"),
    "api.portkey.ai": Host("portkey"),
    "api.featherless.ai": Host("featherless"),
    "llm.chutes.ai": Host("chutes"),
    "api.tokenfactory.nebius.com": Host("nebius"),
    "cloudcode-pa.googleapis.com": Host("gcp.gen_ai"),
}
_FOUNDRY = Host("azure.ai.inference")
_AZURE_OPENAI = Host("azure.ai.openai")
"""Azure OpenAI behind Foundry's host: whether it takes `include_usage` isn't known."""

_GATEWAY_PATH = re.compile(r"/v1/[^/]+/[^/]+/([^/]+)/")
_BEHIND_A_GATEWAY = {
    "openai": "openai",
    "anthropic": "anthropic",
    "google-ai-studio": "gcp.gemini",
    "google-vertex-ai": "gcp.vertex_ai",
    "azure-openai": "azure.ai.openai",
    "aws-bedrock": "aws.bedrock",
    "groq": "groq",
    "mistral": "mistral_ai",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "perplexity-ai": "perplexity",
    "grok": "x_ai",
    "openrouter": "openrouter",
    "huggingface": "huggingface",
    "cerebras": "cerebras",
}
"""Providers by their segment in the path of Cloudflare's AI gateway."""

_HOST_SUFFIXES: tuple[tuple[str, Host], ...] = (
    (".openai.azure.com", Host("azure.ai.openai", takes_include_usage=True)),
    (".cognitiveservices.azure.com", Host("azure.ai.openai", takes_include_usage=True)),
    (".azure-api.net", Host("azure.ai.openai", takes_include_usage=True)),
    (".services.ai.azure.com", _FOUNDRY),
    (".models.ai.azure.com", Host("azure.ai.inference")),
    ("-aiplatform.googleapis.com", Host("gcp.vertex_ai")),
    (".endpoints.huggingface.cloud", Host("huggingface")),
    (".rep.googleapis.com", Host("gcp.vertex_ai")),
    (".mistral.ai", Host("mistral_ai")),
    (".ml.cloud.ibm.com", Host(_WATSONX)),
    (".cloud.databricks.com", Host("databricks")),
    (".azuredatabricks.net", Host("databricks")),
    (".gcp.databricks.com", Host("databricks")),
    (".snowflakecomputing.com", Host("snowflake")),
    (".inference.heroku.com", Host("heroku")),
    (".modal.run", Host("modal")),
    (".modal.direct", Host("modal")),
    (".openrouter.ai", Host("openrouter")),
    (".x.ai", Host("x_ai")),
    (".groq.com", Host("groq")),
    (".volces.com", Host("volcengine")),
)
_OPENAI = re.compile(r"(?:[a-z]{2}\.)?api\.openai\.com")
_BEDROCK_HOST = re.compile(r"bedrock-(?:runtime|mantle)(?:-fips)?\..*(?:amazonaws|api\.aws)")
_OPENAI_HOST = Host("openai", takes_include_usage=True)
_BEDROCK_PROVIDER = Host("aws.bedrock")


def host_of(host: str, path: str = "") -> Host | None:
    """Whose a host is, lower case, without port; None: nobody's that we know.

    Where several providers share a host the path says which one is asked.
    """
    known = _host_alone(host)
    if known is _FOUNDRY and "/openai/" in path:
        return _AZURE_OPENAI
    if known is not None and known.provider == "cloudflare":
        matched = _GATEWAY_PATH.match(path)
        if matched is not None and matched[1] in _BEHIND_A_GATEWAY:
            return Host(_BEHIND_A_GATEWAY[matched[1]])
    return known


def _host_alone(host: str) -> Host | None:
    known = _EXACT_HOSTS.get(host)
    if known is not None:
        return known
    if _OPENAI.fullmatch(host):
        return _OPENAI_HOST
    if _BEDROCK_HOST.match(host):
        return _BEDROCK_PROVIDER
    for suffix, found in _HOST_SUFFIXES:
        if host.endswith(suffix):
            return found
    return None


_PROVIDER_OF_DIALECT = {
    "an.messages": "anthropic",
    "gemini": "gcp.gemini",
    "gg.interactions": "gcp.gemini",
    "vertex.predict": "gcp.vertex_ai",
    "bedrock.invoke": "aws.bedrock",
    "bedrock.converse": "aws.bedrock",
    "cohere": "cohere",
    "ollama": "ollama",
    "cloudflare": "cloudflare",
    "hf.generate": "huggingface",
}


def route_at(route: Route, known: Host | None) -> Route:
    """The route where a host speaks another dialect than its path is known for."""
    is_cohere_chat = route.dialect == "cohere" and route.operation == "chat"
    if is_cohere_chat and known is not None and known.provider == "writer":
        return route._replace(dialect="oa.chat")
    return route


def provider_of(dialect: str, host: Host | None) -> str:
    """The provider's OpenTelemetry name; of an unknown host, the one whose dialect it speaks."""
    return host.provider if host else _PROVIDER_OF_DIALECT.get(dialect, "openai")


_TELLING_FIELDS = {
    "oa.chat": ("messages", "prompt"),
    "oa.completions": ("prompt",),
    "oa.responses": ("input", "previous_response_id", "conversation", "prompt"),
    "oa.embeddings": ("input",),
    "oa.speech": ("input",),
    "oa.images": ("prompt",),
    "an.messages": ("messages", "thread", "thread_id"),
    "gg.interactions": ("input", "previous_interaction_id"),
    "cohere": ("messages", "message", "texts", "inputs", "images", "documents", "prompt", "text"),
    "ollama": ("messages", "prompt", "input"),
    "cloudflare": ("messages", "prompt", "text", "input"),
    "hf.generate": ("inputs",),
}


def body_speaks(route: Route, body: dict[str, object]) -> bool:
    """Whether a JSON body is one of the dialect that the path suggests.

    Asked where the host is unknown: an app's own `/api/chat` is nobody's LLM call.
    """
    telling = _TELLING_FIELDS.get(route.dialect)
    if telling is None:
        return True
    if route.dialect == "hf.generate":  # names no model: one is served
        return isinstance(body.get("inputs"), str) and "parameters" in body
    names_model = "model" in body or bool(route.url_model) or route.dialect == "cohere"
    return names_model and any(name in body for name in telling)
