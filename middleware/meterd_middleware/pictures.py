"""What a picture in a request counts as input: by its size and the model's own rule.

    base64 of the first bytes ──size_of()──▶ width, height ──tokens_of()──▶ tokens

| models | rule |
|---|---|
| gpt-4o, 4.1, 4.5 | low 85; within 2048², short side 768: 85 + 170 a 512² tile |
| gpt-4o-mini; o1, o3; gpt-5 | the same with 2,833 + 5,667; 75 + 150; 70 + 140 |
| gpt-4.1-mini, gpt-5-mini; -nano; o4-mini | at most 1,536 patches of 32², × 1.62; 2.46; 1.72 |
| later OpenAI | 32² patches × 1.2 |
| Claude | width × height / 725, at most 1,661; from 5 on 4,005 |
| Gemini | 1,090 |

A picture whose size can't be read, or that is a link, counts as one of a megapixel: links are
never followed.

Sources: OpenAI, "Images and vision"; Anthropic, "Vision"; sizes measured in November 2026 on
pictures of 1024² and 12 megapixels.
"""

from __future__ import annotations

import binascii
import math
import struct

UNSEEN_TOKENS = 1_100
"""A picture of about a megapixel, as GPT, Claude and Gemini bill it within 35 %."""

HEAD_CHARACTERS = 32 * 1024
"""Of a picture's base64, how much is looked at: a JPEG states its size behind its metadata."""

_PATCHED = (
    ("gpt-4.1-mini", 1.62),
    ("gpt-4.1-nano", 2.46),
    ("gpt-5-mini", 1.62),
    ("gpt-5-nano", 2.46),
    ("o4-mini", 1.72),
)
_TILED = (
    ("gpt-4o-mini", 2_833, 5_667),
    ("gpt-4o", 85, 170),
    ("chatgpt-4o", 85, 170),
    ("gpt-4.1", 85, 170),
    ("gpt-4.5", 85, 170),
    ("gpt-4-turbo", 85, 170),
    ("o1", 75, 150),
    ("o3", 75, 150),
    ("gpt-5-", 70, 140),  # gpt-5.1 and later are other models
)
"""Beginnings of names: tokens of a picture, and of each of its tiles."""

PATCHES_MAX = 1_536


def tokens_of(model: str, provider: str, size: tuple[int, int] | None, *, is_low: bool) -> int:
    """Tokens of one picture.

    Args:
        size: width and height in pixels; None: unknown.
        is_low: the request asks for low detail.
    """
    name = model.rpartition("/")[2].lower()
    if "gemini" in name or provider.startswith("gcp.gemini"):
        return 1_090
    if "claude" in name or provider == "anthropic":
        return _of_claude(name, size)
    for prefix, factor in _PATCHED:
        if name.startswith(prefix):
            return _in_scaled_patches(size, factor)
    for prefix, whole, tile in _TILED:
        if f"{name}-".startswith(prefix):
            return whole if is_low else whole + tile * _tiles(size)
    if is_low:
        return 85
    if size is None:
        return UNSEEN_TOKENS
    return round(_patches(*size) * 1.2)


def _of_claude(name: str, size: tuple[int, int] | None) -> int:
    if size is None:
        return UNSEEN_TOKENS
    most = 1_661 if any(older in name for older in ("claude-3", "-4-", "-4.", "-4@")) else 4_005
    return max(1, min(size[0] * size[1] // 725, most))


def _tiles(size: tuple[int, int] | None) -> int:
    if size is None:
        return 4  # of about a megapixel
    width, height = size
    scale = min(1.0, 2048 / max(width, height))
    scale *= min(1.0, 768 / (min(width, height) * scale))
    across, down = (-(-max(1, round(side * scale)) // 512) for side in (width, height))
    return across * down


def _patches(width: float, height: float) -> int:
    return math.ceil(width / 32) * math.ceil(height / 32)


def _in_scaled_patches(size: tuple[int, int] | None, factor: float) -> int:
    """Patches of a picture that is scaled down until no more than `PATCHES_MAX` cover it."""
    width, height = size or (1_024, 1_024)
    patches = _patches(width, height)
    if patches > PATCHES_MAX:
        scale = math.sqrt(32 * 32 * PATCHES_MAX / (width * height))
        across, down = width * scale / 32, height * scale / 32
        scale *= min(_whole(across) / across, _whole(down) / down)
        patches = round(max(1.0, width * scale / 32)) * round(max(1.0, height * scale / 32))
    return math.ceil(min(patches, PATCHES_MAX) * factor)


def _whole(patches: float) -> float:
    """As many whole patches as fit, where at least one does."""
    return math.floor(patches) if patches >= 1 else patches


def size_of(encoded: bytes) -> tuple[int, int] | None:
    """Width and height of a picture, from the start of its base64; None where they aren't told."""
    whole = len(encoded) - len(encoded) % 4
    try:
        data = binascii.a2b_base64(encoded[: min(whole, HEAD_CHARACTERS)])
    except ValueError:
        return None
    try:
        size = _size_in(data)
    except (struct.error, IndexError):
        return None
    return size if size is not None and 0 < size[0] < 2**17 and 0 < size[1] < 2**17 else None


def _size_in(data: bytes) -> tuple[int, int] | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = struct.unpack_from(">II", data, 16)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        width, height = struct.unpack_from("<HH", data, 6)
    elif data.startswith(b"\xff\xd8"):
        return _size_of_jpeg(data)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _size_of_webp(data)
    else:
        return None
    return width, height


def _size_of_jpeg(data: bytes) -> tuple[int, int] | None:
    """Segment by segment up to the frame header."""
    at = 2
    while data[at] == 0xFF:
        kind = data[at + 1]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def _size_of_webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
