"""HTTP/1.1 bytes: a request read, a response's head, its body cut into what is written at once."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from tests.support.provider.answer import Answer, Part
from tests.support.provider.encodings import compressed

if TYPE_CHECKING:
    import asyncio

    from tests.support.provider.asked import Asked


def read_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, target and lower-case headers; of several with one name the last."""
    request, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = request.split(" ", 2)
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return method, target, headers


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """A request's body, by length or chunked."""
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    pieces = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        pieces.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return b"".join(pieces)


def wire_parts(
    asked: Asked, answer: Answer, headers: dict[str, str], cut: int | None
) -> tuple[list[Part], str]:
    """The body as pieces of wire bytes, encoded and cut up as wished."""
    parts = list(answer.parts)
    if not answer.is_stream and cut:
        whole = parts[0]
        middle = len(whole.data) // 2
        parts = [Part(whole.data[:middle]), Part(whole.data[middle:], whole.output_tokens)]
    encoding = asked.wish.get("force_encoding", "")
    accepted = headers.get("accept-encoding", "")
    if asked.wish.get("encoding", "-") in accepted.replace(" ", "").split(","):
        encoding = asked.wish["encoding"]
    if encoding:
        *packed, end = compressed([part.data for part in parts], encoding)
        parts = [Part(data, p.output_tokens) for data, p in zip(packed, parts, strict=True)]
        parts.append(Part(end, is_trailer=True))
    if size := asked.wish_int("pieces"):
        parts = _recut(parts, size)
    return parts, encoding


def _recut(parts: list[Part], size: int) -> list[Part]:
    """The same bytes in pieces of `size`; a part's tokens go with its last byte."""
    data = b"".join(part.data for part in parts)
    said = sum(len(part.data) for part in parts if not part.is_trailer)
    ends = list(accumulate(len(part.data) for part in parts))
    pieces = []
    for start in range(0, len(data), size):
        tokens = sum(
            part.output_tokens
            for part, end in zip(parts, ends, strict=True)
            if start < end <= start + size
        )
        # A decoder has everything before the last bytes, the encoding's flush marker, arrive.
        pieces.append(Part(data[start : start + size], tokens, is_trailer=start >= said - 16))
    return pieces


def head_of(answer: Answer, length: int | None, encoding: str = "") -> bytes:
    """A response's status line and headers; no length: chunked."""
    reason = {200: "OK", 404: "Not Found", 429: "Too Many Requests"}.get(answer.status, "Said So")
    lines = [f"HTTP/1.1 {answer.status} {reason}", f"content-type: {answer.content_type}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    lines += [f"content-encoding: {encoding}"] if encoding else []
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return ("\r\n".join([*lines, framing]) + "\r\n\r\n").encode()


def framed(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""
