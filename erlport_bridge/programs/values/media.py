"""Read images, audio and files from terms as values of DSPy.

| field | accepted terms |
| --- | --- |
| each | bytes of a known media type; ``%{data: bytes, media_type: "image/png"}``; a base64 data URI |
| ``dspy.Image`` | ``%{url: data_uri}``; an http or https address, only if the call has ``allow_urls: true`` |
| ``dspy.Audio`` | ``%{data: base64, audio_format: "wav"}`` |
| ``dspy.File`` | ``%{file_data: data_uri}``; ``%{file_id: id}``; any map may also have a ``filename`` |

The media type of bytes is detected from the first bytes. No file is opened and no address is fetched here: text is a
data URI, an address for the provider to fetch, or an error.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.text import neutral, text_of
from erlport_bridge.programs.values import media_types
from erlport_bridge.term import Atom, shown

#: The key that tags a map with the name of a DSPy type.
TYPE_KEY: Final = "$type"

# Only characters of base64: in a looser URI an end marker of DSPy's content parts could hide.
_DATA_URI: Final = re.compile(
    r"data:(?P<media_type>[\w.+-]+/[\w.+-]+)(?:;[\w.+-]+=[\w.+-]+)*;base64,(?P<data>[A-Za-z0-9+/]+={0,2})", re.ASCII
)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_AUDIO_FORMAT: Final = re.compile(r"[\w.+-]{1,32}", re.ASCII)
# The characters of RFC 3986; an address must percent-encode all others.
_ADDRESS: Final = re.compile(
    r"https?://[A-Za-z0-9.:\[\]@_~%!$&'()*+,;=-]+(?:[/?#][A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*)?"
)
_MAX_ADDRESS_CHARACTERS: Final = 8_192
# The id of a file that was uploaded to a provider. Not an address, which LiteLLM would accept here and fetch.
_FILE_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,255}(?:/[\w.-]{1,256})*", re.ASCII)
_MAX_FILENAME_CHARACTERS: Final = 255

_urls_allowed: ContextVar[bool] = ContextVar("urls_allowed", default=False)


def allow_urls(allowed: bool) -> None:
    """Set whether the call in this context may pass addresses to its provider, which fetches them; default: no."""
    _urls_allowed.set(allowed)


def urls_are_allowed() -> bool:
    """Return whether the call in this context may pass addresses to its provider."""
    return _urls_allowed.get()


def is_file_id(value: object) -> bool:
    """Return whether a value can be the id of an uploaded file, rather than an address or a path."""
    text = text_of(value)
    return text is not None and _FILE_ID.fullmatch(text) is not None and ".." not in text


def is_base64(value: str) -> bool:
    """Return whether a text has only characters of base64."""
    return _BASE64.fullmatch(value) is not None


def image(value: object, path: str) -> dspy.Image:
    """Read a value for ``dspy.Image``.

    Raises:
        OperationError: Of kind ``input``: ``value`` is not an image, or is an address and the call may not pass any.
    """
    if isinstance(value, dict):
        given = entries(value, "Image", ("url", "data", "media_type"), path)
        if "url" not in given:
            return dspy.Image(url=_uri_of_bytes(given, "image/png", path))
        _only_one_source(given, "url", path)
        value, path = given["url"], f"{path}.url"
    elif (uri := _uri_if_bytes(value, "image/png", path)) is not None:
        return dspy.Image(url=uri)
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return dspy.Image(url=_allowed_address(value, path))
    return dspy.Image(url=_data_uri(value, path, "image/png"))


def audio(value: object, path: str) -> dspy.Audio:
    """Read a value for ``dspy.Audio``.

    Raises:
        OperationError: Of kind ``input``: ``value`` is not audio.
    """
    if isinstance(value, dict):
        given = entries(value, "Audio", ("data", "audio_format", "media_type"), path)
        if "audio_format" in given:
            # The map of a result, whose data is base64.
            _only_one_source(given, "audio_format", path, but=("data",))
            data = _matching(_BASE64, "base64", given.get("data"), f"{path}.data")
            name = _matching(_AUDIO_FORMAT, 'a format such as "wav"', given["audio_format"], f"{path}.audio_format")
            return dspy.Audio(data=data, audio_format=name)
        uri = _uri_of_bytes(given, "audio/wav", path)
    else:
        uri = _uri_if_bytes(value, "audio/wav", path) or _data_uri(value, path, "audio/wav")
    found = _DATA_URI.fullmatch(uri)
    if found is None or not found["media_type"].startswith("audio/"):
        raise mismatch("a data URI of audio", value, path)
    return dspy.Audio(data=found["data"], audio_format=media_types.audio_format(found["media_type"]))


def file(value: object, path: str) -> dspy.File:
    """Read a value for ``dspy.File``.

    Raises:
        OperationError: Of kind ``input``: ``value`` is not a file.
    """
    if not isinstance(value, dict):
        uri = _uri_if_bytes(value, "application/pdf", path)
        return dspy.File(file_data=uri or _data_uri(value, path, "application/pdf"))
    given = entries(value, "File", ("file_data", "file_id", "filename", "data", "media_type"), path)
    filename = _filename(given.pop("filename"), f"{path}.filename") if "filename" in given else None
    if "data" in given or "media_type" in given:
        return dspy.File(file_data=_uri_of_bytes(given, "application/pdf", path), filename=filename)
    if not given and filename is None:
        raise mismatch("a map with data, file_data, file_id or filename", value, path)
    file_data, file_id = given.get("file_data"), given.get("file_id")
    if file_data is not None:
        file_data = _data_uri(file_data, f"{path}.file_data", "application/pdf")
    if file_id is not None:
        file_id = _file_id(file_id, f"{path}.file_id")
    return dspy.File(file_data=file_data, file_id=file_id, filename=filename)


def entries(value: Mapping[Any, Any], type_name: str, known: tuple[str, ...], path: str) -> dict[str, Any]:
    """Return the entries of a map for a DSPy type, without those that are ``nil``.

    Raises:
        OperationError: Of kind ``input``: the map is tagged with another type, or has an unknown key.
    """
    tag = value.get(TYPE_KEY, type_name)
    unknown = [key for key in value if key != TYPE_KEY and key not in known]
    if tag != type_name or unknown:
        raise mismatch(f"a map for {type_name} with {', '.join(known)}", value, path)
    return {str(key): item for key, item in value.items() if item is not None and key != TYPE_KEY}


def mismatch(expected: str, value: object, path: str, remedy: str = "") -> OperationError:
    """Return the error about a term that a field does not accept."""
    return OperationError("input", f"expected {expected} at {path}, got {shown(value)}{remedy}", path=path)


def _only_one_source(given: Mapping[str, Any], source: str, path: str, but: tuple[str, ...] = ()) -> None:
    others = [name for name in given if name != source and name not in but]
    if others:
        message = f"expected either {source} or {others[0]} at {path}, got both"
        raise OperationError("input", message, path=f"{path}.{others[0]}")


def _uri_if_bytes(value: object, example: str, path: str) -> str | None:
    """Return the data URI of a value that is bytes of a known media type, or ``None`` if it is something else.

    A binary that is valid UTF-8 arrives as text. No data URI and no address begins like media of a known type.
    """
    data = _bytes_of(value)
    if data is None or (isinstance(value, str) and media_types.detected(data) is None):
        return None
    return _uri_of_bytes({"data": value}, example, path, data_path=path)


def _uri_of_bytes(given: Mapping[str, Any], example: str, path: str, data_path: str | None = None) -> str:
    """Return the data URI of ``data``, with the given ``media_type`` or the type detected from the first bytes."""
    data_path = data_path or f"{path}.data"
    _only_one_source(given, "data", path, but=("media_type",))
    data = _bytes_of(given.get("data"))
    if not data:
        raise mismatch("the bytes, as a binary that is not empty,", given.get("data"), data_path)
    kind = example.partition("/")[0]
    if "media_type" in given:
        media_type = _media_type(given["media_type"], kind, example, f"{path}.media_type")
        if media_types.contradicts(media_type, data):
            raise OperationError(
                "input",
                f"expected the bytes of {media_type} at {data_path}, got {_described(data)}; "
                "what is base64 already goes into a data URI",
                path=data_path,
            )
    else:
        media_type = media_types.detected(data) or ""
        if not media_type or (kind != "application" and not media_type.startswith(f"{kind}/")):
            what = {"application": "a file", "image": "an image"}.get(kind, kind)
            raise OperationError(
                "input",
                f"expected the bytes of {what} of a known kind at {data_path}, got {_described(data)}; "
                f'say what they are: %{{data: bytes, media_type: "{example}"}}',
                path=data_path,
            )
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _bytes_of(value: object) -> bytes | None:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and not isinstance(value, Atom):
        return value.encode("utf-8", "surrogatepass")
    return None


def _described(data: bytes) -> str:
    kind = media_types.detected(data)
    return f"{len(data)} bytes of {kind}" if kind else f"{len(data)} bytes that begin as no kind known here"


def _media_type(value: object, kind: str, example: str, path: str) -> str:
    text = text_of(value)
    media_type = media_types.canonical(text) if text else ""
    if not media_types.MEDIA_TYPE.fullmatch(media_type) or (
        kind != "application" and not media_type.startswith(f"{kind}/")
    ):
        raise mismatch(f'a media type such as "{example}"', value, path)
    return media_type


def _data_uri(value: object, path: str, media_type: str) -> str:
    if not isinstance(value, str) or not _DATA_URI.fullmatch(value):
        is_text = isinstance(value, str)
        remedy = "; addresses are not fetched and files are not opened, give the bytes" if is_text else ""
        raise mismatch(f'the bytes, or a data URI such as "data:{media_type};base64,…",', value, path, remedy)
    return str(value)


def _allowed_address(value: str, path: str) -> str:
    if len(value) > _MAX_ADDRESS_CHARACTERS or not _ADDRESS.fullmatch(value):
        raise mismatch("an http or https address of the characters of RFC 3986", value, path)
    if not urls_are_allowed():
        raise mismatch(
            "the bytes, or a data URI,",
            value,
            path,
            "; an address is for the provider to fetch, and only with the option allow_urls: true",
        )
    return str(value)


def _file_id(value: object, path: str) -> str:
    if not is_file_id(value):
        raise mismatch('the id of a file that was uploaded to the provider, such as "file-abc123",', value, path)
    return str(text_of(value))


def _filename(value: object, path: str) -> str:
    text = text_of(value)
    if not text or len(text) > _MAX_FILENAME_CHARACTERS:
        raise mismatch(f"a name of at most {_MAX_FILENAME_CHARACTERS} characters", value, path)
    return neutral(text)


def _matching(pattern: re.Pattern[str], description: str, value: object, path: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise mismatch(description, value, path)
    return str(value)
