"""Read documents that a model may quote (``dspy.Document``), and its quotations (``dspy.Citations``).

DSPy's own client sends citable documents to no provider. Here a document is sent as text of the prompt, or as a file if
it is a PDF. The model writes citations as it writes any other output field.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

import dspy
import pydantic
from dspy.adapters.types.citation import Citations
from dspy.adapters.types.document import Document

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.text import neutral, text_of
from erlport_bridge.programs.values import media, media_types
from erlport_bridge.programs.values.media import entries, mismatch

_PDF: Final = "application/pdf"
_TEXT: Final = "text/plain"


def document(value: object, path: str) -> dspy.Type:
    """Read a value for ``dspy.Document``.

    Args:
        value: Text, the bytes of a PDF, or a map with ``data`` and optionally ``title``, ``context``, ``media_type``.
        path: The path of the value, for errors.

    Raises:
        OperationError: Of kind ``input``: ``value`` is not a document.
    """
    given: dict[str, Any] = {"data": value}
    if isinstance(value, dict):
        given, path = entries(value, "Document", ("data", "title", "context", "media_type"), path), f"{path}.data"
    place = path.removesuffix(".data")
    data = given.get("data")
    media_type = text_of(given.get("media_type", _PDF if _is_pdf(data) else _TEXT))
    if media_type == _PDF:
        data = _base64(data, path)
    elif media_type != _TEXT:
        raise mismatch(f'"{_TEXT}" or "{_PDF}"', given["media_type"], f"{place}.media_type")
    elif not text_of(data):
        raise mismatch("text, or the bytes of a PDF,", data, path)
    names = {name: _text(given[name], f"{place}.{name}") for name in ("title", "context") if name in given}
    found: dspy.Type = Document(
        data=data if media_type == _PDF else neutral(str(text_of(data))), media_type=media_type, **names
    )
    return found


def citations(value: object, path: str) -> dspy.Type:
    """Read a value for ``dspy.Citations``: a list of citations, or the map of a result.

    Raises:
        OperationError: Of kind ``input``: ``value`` is neither, or a citation is invalid.
    """
    if isinstance(value, dict):
        value, path = entries(value, "Citations", ("citations",), path).get("citations"), f"{path}.citations"
    if not isinstance(value, list):
        raise mismatch("a list of citations", value, path)
    return Citations(citations=[_citation(item, f"{path}[{index}]") for index, item in enumerate(value)])


def is_part(part: object) -> bool:
    """Return whether a content part is DSPy's form of a document or of a citation."""
    if not isinstance(part, Mapping):
        return False
    return "cited_text" in part or (part.get("type") == "document" and isinstance(part.get("source"), Mapping))


def content_of(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content part of a document or a citation as a part that providers accept: text, or a file."""
    if "cited_text" in part:
        return {"type": "text", "text": json.dumps(part, ensure_ascii=False)}
    source = part["source"]
    if source["type"] == "base64":
        return {"type": "file", "file": {"file_data": f"data:{source['media_type']};base64,{source['data']}"}}
    lines = [f"{name}: {part[name]}" for name in ("title", "context") if part.get(name)]
    return {"type": "text", "text": "\n".join([*lines, source["data"]])}


def _citation(value: object, path: str) -> Any:
    if not isinstance(value, dict):
        raise mismatch("a citation (a map with cited_text, document_index and its characters)", value, path)
    fields = tuple(Citations.Citation.model_fields)
    given = entries(value, "Citation", fields, path)
    try:
        found = Citations.Citation.model_validate(given, strict=True)
    except pydantic.ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join([path, *map(str, wrong["loc"])])
        raise OperationError("input", f"{wrong['msg'].lower()} at {where}", path=where) from None
    return found.model_copy(update={name: neutral(item) for name, item in given.items() if isinstance(item, str)})


def _is_pdf(data: object) -> bool:
    held = data.encode() if isinstance(data, str) else data
    return isinstance(held, bytes) and media_types.detected(held[:16]) == _PDF


def _base64(data: object, path: str) -> str:
    """Return the bytes of a PDF as base64; return base64 unchanged."""
    if isinstance(data, str) and media.is_base64(data):
        return data
    if not _is_pdf(data):
        raise mismatch("the bytes of a PDF, or these as base64,", data, path)
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode("ascii")  # type: ignore[arg-type]


def _text(value: object, path: str) -> str:
    text = text_of(value)
    if not text:
        raise mismatch("text", value, path)
    return neutral(text)
