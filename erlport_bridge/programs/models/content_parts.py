"""Check the content parts of a prompt (images, audio, files) right before a request is sent to a model.

DSPy writes such a value into the text of a prompt between two markers, and makes a content part of any text between
them. :mod:`erlport_bridge.dspy_patches.content_markers` gives this process secret markers, so that text which a model
or a tool wrote stays text. :func:`checked` refuses parts that an engine would lose silently, and addresses that the
caller has not allowed anyone to fetch. It also sees values that a model answered or that an application's module made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from erlport_bridge import dspy_patches
from erlport_bridge.dspy_patches import content_markers
from erlport_bridge.errors import OperationError
from erlport_bridge.programs.text import quoted
from erlport_bridge.programs.values import documents, media
from erlport_bridge.term import shown

#: Kinds of content that an engine may send.
IMAGE: Final = "image"
#: The address of an image, which the provider fetches.
ADDRESS: Final = "address of an image"
AUDIO: Final = "audio"
ANY_AUDIO: Final = "audio but WAV and MP3"
FILE: Final = "file"
TEXT_FILE: Final = "file but PDF"
FILENAME: Final = "filename"

#: The kinds that DSPy's own client sends on each wire, beside text. (It sends audio to Anthropic as an empty text.)
CHAT: Final = frozenset({IMAGE, ADDRESS})
RESPONSES: Final = frozenset({IMAGE, ADDRESS, AUDIO, FILE, TEXT_FILE})
GEMINI: Final = RESPONSES
#: Anthropic accepts only PDF as a base64 document.
ANTHROPIC: Final = frozenset({IMAGE, ADDRESS, FILE})
#: LiteLLM may fetch an address itself, from this machine.
LITELLM: Final = frozenset({IMAGE, AUDIO, ANY_AUDIO, FILE, TEXT_FILE, FILENAME})
#: A model function in Elixir gets every kind that DSPy's form of a request can hold.
ELIXIR: Final = RESPONSES
TEXT_ALONE: Final[frozenset[str]] = frozenset()

_FORMATS_OF_AUDIO: Final = ("wav", "mp3")
_PUBLIC_MARKERS: Final = (
    (content_markers.SECRET_START, content_markers.PUBLIC_START),
    (content_markers.SECRET_END, content_markers.PUBLIC_END),
)
_OF_PLAIN_TEXT: Final = frozenset({"role", "content"})
_ROLES: Final = ("system", "user", "assistant")
# dict first: nearly every message is a dict, and the check for it is far faster than the check for Mapping.
_MAPPINGS: Final = (dict, Mapping)
_NOT_FETCHED: Final = "; addresses are not fetched and files are not opened"
_REMEDIES: Final[Mapping[str, str]] = {
    ADDRESS: "; give the bytes",
    ANY_AUDIO: "; give WAV or MP3",
    TEXT_FILE: "; text can be a field of type str",
    FILENAME: "; leave it out, or give it as a field of type str",
}


def checked(messages: Sequence[Any], carried: frozenset[str], model: str) -> Sequence[Any]:
    """Return the messages of a request after a check of their content parts.

    Args:
        messages: Messages in the form of OpenAI's chat completions.
        carried: The kinds of content that the engine sends beside text, such as :data:`CHAT`.
        model: The name of the model that gets the request, for errors.

    Returns:
        The same messages. A secret marker that DSPy left in the text is replaced by DSPy's public marker, since no
        model may learn the secret ones.

    Raises:
        OperationError: Of kind ``input``: a part has an address that the caller has not allowed, or is not media. Of
            kind ``provider``: the engine does not send a part's kind. Of kind ``missing_dependency``: DSPy's public
            markers are in use, so that text could pose as a content part.
    """
    if all(map(_is_plain_text, messages)):
        return messages
    # No copy unless something changes: DSPy recognizes the messages of its adapters by identity.
    if any(documents.is_part(part) for message in messages for part in _parts(message)):
        messages = [_with_documents(message) for message in messages]
    for message in messages:
        for part in _parts(message):
            if part.get("type") != "text":
                dspy_patches.require("content_markers", "content parts of a prompt that are not text")
            for kind in _kinds(part):
                if kind not in carried:
                    raise _not_sent(kind, carried, model)
    return _public(messages) if _has_secret(messages) else messages


def _is_plain_text(message: Any) -> bool:
    """Return whether a message is text that is sent as it is, as most are."""
    if type(message) is not dict or message.keys() != _OF_PLAIN_TEXT:
        return False
    content = message["content"]
    return type(content) is str and content_markers.SECRET not in content and message["role"] in _ROLES


def _parts(message: Any) -> list[Mapping[str, Any]]:
    content = message.get("content") if isinstance(message, _MAPPINGS) else None
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []


def _with_documents(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if not _parts(message):
        return message
    content = [documents.content_of(part) if documents.is_part(part) else part for part in message["content"]]
    return {**message, "content": content}


def _kinds(part: Mapping[str, Any]) -> Iterator[str]:
    """Yield the kinds of content that a part consists of; raise an error if the part is invalid."""
    form = part.get("type")
    held = part.get(str(form))
    if form == "image_url":
        url = held.get("url") if isinstance(held, Mapping) else held
        yield IMAGE
        if not _is_data(url):
            _check_address(url)
            yield ADDRESS
    elif form == "input_audio" and isinstance(held, Mapping):
        yield AUDIO
        if held.get("format") not in _FORMATS_OF_AUDIO:
            yield ANY_AUDIO
    elif form == "file" and isinstance(held, Mapping):
        data, file_id = held.get("file_data"), held.get("file_id")
        if not ((data is None or _is_data(data)) and (file_id is None or media.is_file_id(file_id))):
            message = "expected the bytes of a file of the prompt, or the id of one that was uploaded to the provider"
            raise OperationError("input", f"{message}, got {shown(file_id if data is None else data)}{_NOT_FETCHED}")
        yield FILE
        if data is not None and not data.startswith("data:application/pdf;"):
            yield TEXT_FILE
        if held.get("filename") is not None:
            yield FILENAME


def _is_data(url: object) -> bool:
    return isinstance(url, str) and url.startswith("data:")


def _check_address(url: object) -> None:
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        message = f"expected an image of the prompt as a data URI or at an http address, got {shown(url)}"
        raise OperationError("input", f"{message}{_NOT_FETCHED}")
    if not media.urls_are_allowed():
        message = f"an image of the prompt is at the address {quoted(url)}"
        raise OperationError("input", f"{message}, for the provider to fetch; that needs the option allow_urls: true")


def _not_sent(kind: str, carried: frozenset[str], model: str) -> OperationError:
    sent = " and ".join(sorted(carried & {IMAGE, AUDIO, FILE})) or "text alone"
    return OperationError(
        "provider",
        f"{model} takes no {kind} here (what can be sent to it: {sent}){_REMEDIES.get(kind, '')}",
        model=model,
    )


def _has_secret(value: Any) -> bool:
    if isinstance(value, str):
        return content_markers.SECRET in value
    items: Iterable[Any] = ()
    if isinstance(value, _MAPPINGS):
        items = value.values()
    elif isinstance(value, list | tuple):
        items = value
    return any(map(_has_secret, items))


def _public(value: Any) -> Any:
    if isinstance(value, str):
        for secret, public in _PUBLIC_MARKERS:
            value = value.replace(secret, public)
        return value
    if isinstance(value, Mapping):
        return {key: _public(item) for key, item in value.items()}
    return [_public(item) for item in value] if isinstance(value, list | tuple) else value
