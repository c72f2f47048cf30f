"""Detect the media type of bytes from their first bytes: ``image/png``, ``audio/wav``, ``application/pdf``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

#: The form of a media type, without characters that have a meaning in data URIs or prompts.
MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}/[a-z0-9][a-z0-9.+-]{0,63}")

# First bytes -> media type. "." stands for any byte.
_SIGNATURES: Final = tuple(
    (re.compile(pattern, re.DOTALL), media_type)
    for pattern, media_type in (
        (rb"\x89PNG\r\n\x1a\n", "image/png"),
        (rb"\xff\xd8\xff", "image/jpeg"),
        (rb"GIF8[79]a", "image/gif"),
        (rb"RIFF....WEBP", "image/webp"),
        (rb"BM....\0\0\0\0", "image/bmp"),
        (rb"II\*\0|MM\0\*", "image/tiff"),
        (rb"....ftypavi[fs]", "image/avif"),
        (rb"....ftyp(?:hei[cxms]|hev[cx]|mif1|msf1)", "image/heic"),
        (rb"RIFF....WAVE", "audio/wav"),
        (rb"ID3|\xff[\xfb\xf3\xf2\xfa]", "audio/mpeg"),
        (rb"\xff[\xf1\xf9]", "audio/aac"),
        (rb"OggS", "audio/ogg"),
        (rb"fLaC", "audio/flac"),
        (rb"FORM....AIF[FC]", "audio/aiff"),
        (rb"....ftyp(?:M4A|mp42|isom)", "audio/mp4"),
        (rb"%PDF-", "application/pdf"),
    )
)
_KNOWN: Final = frozenset(media_type for _, media_type in _SIGNATURES)

_ALIASES: Final[Mapping[str, str]] = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "image/x-ms-bmp": "image/bmp",
    "image/heif": "image/heic",
    "audio/mp3": "audio/mpeg",
    "audio/x-mpeg": "audio/mpeg",
    "audio/x-mp3": "audio/mpeg",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/m4a": "audio/mp4",
    "audio/x-m4a": "audio/mp4",
    "audio/x-aac": "audio/aac",
    "audio/x-flac": "audio/flac",
    "audio/x-aiff": "audio/aiff",
    "application/x-pdf": "application/pdf",
}
# Media types of audio -> providers' names of the format, where the two differ.
_AUDIO_FORMATS: Final[Mapping[str, str]] = {"audio/mpeg": "mp3", "audio/mp4": "m4a"}


def detected(data: bytes) -> str | None:
    """Return the media type that the first bytes show, or ``None`` if they match no known type."""
    return next((media_type for pattern, media_type in _SIGNATURES if pattern.match(data)), None)


def canonical(media_type: str) -> str:
    """Return the usual name of a media type: ``image/jpeg`` for ``image/jpg``."""
    lower = media_type.lower()
    return _ALIASES.get(lower, lower)


def contradicts(media_type: str, data: bytes) -> bool:
    """Return whether bytes cannot be of a media type: its first bytes are known, and ``data`` begins otherwise."""
    return media_type in _KNOWN and detected(data) != media_type


def audio_format(media_type: str) -> str:
    """Return a provider's name for the audio format of a media type: ``mp3`` for ``audio/mpeg``."""
    media_type = canonical(media_type)
    return _AUDIO_FORMATS.get(media_type, media_type.partition("/")[2].removeprefix("x-"))
