"""Values of every type, as a model answers them: exact as terms, and valid as inputs; over a real port."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import dspy
import pydantic
import pytest

from erlport_bridge.programs.models.adapters import read_adapter
from erlport_bridge.programs.signatures.spec import build_signature, parse_signature
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess
from tests.programs.values.test_media import PDF, PNG, WAV, base64_of

UTC = datetime.timezone.utc
PICTURE = f"data:image/png;base64,{base64_of(PNG)}"
SOUND = {"data": base64_of(WAV), "audio_format": "wav"}
PAPER = f"data:application/pdf;base64,{base64_of(PDF)}"
CALL = {"id": None, "name": "search", "args": {"query": "cats", "limit": 3}}
QUOTE = {
    "type": "char_location",
    "cited_text": "blue",
    "document_index": 0,
    "document_title": "Skies",
    "start_char_index": 11,
    "end_char_index": 15,
    "supported_text": None,
}
PERSON = "{name: str, born: date, worth: Decimal, tags: list[str]}"
# More digits than a float holds.
LONG = "12345678901234567890.12345678901234567890"

#: A type, the JSON that a model answers for it, and the term.
VALUES: list[tuple[str, Any, Any]] = [
    ("str", 'a "text" with\nlines, ünïcode', 'a "text" with\nlines, ünïcode'),
    ("int", 10**30, 10**30),
    ("int", -7, -7),
    ("float", 0.1, 0.1),
    ("float", 1e300, 1e300),
    ("bool", False, False),
    ("Optional[int]", None, None),
    ("Optional[str]", "null and void", "null and void"),
    ("list[int]", [1, 2, 3], [1, 2, 3]),
    ("list[list[str]]", [["a"], []], [["a"], []]),
    ("dict[str, float]", {"a b": 1.5}, {"a b": 1.5}),
    ("tuple[int, str]", [1, "a"], (1, "a")),
    ("set[str]", ["a", "b", "a"], {"a", "b"}),
    ("Literal['yes', 'no']", "no", "no"),
    ("Literal[1, 2]", 2, 2),
    ("date", "2026-02-28", datetime.date(2026, 2, 28)),
    ("time", "23:59:58.000001", datetime.time(23, 59, 58, 1)),
    ("datetime", "2026-02-28T01:02:03.000004", datetime.datetime(2026, 2, 28, 1, 2, 3, 4)),
    ("datetime", "2026-02-28T01:02:03Z", datetime.datetime(2026, 2, 28, 1, 2, 3, tzinfo=UTC)),
    ("Decimal", "1.10", Decimal("1.10")),
    ("list[Decimal]", ["0.10", LONG], [Decimal("0.10"), Decimal(LONG)]),
    ("dict[str, Optional[Decimal]]", {"a": "-0.50", "b": None}, {"a": Decimal("-0.50"), "b": None}),
    ("Any", {"a": [1, 2.5, None, True]}, {"a": [1, 2.5, None, True]}),
    ("dspy.Image", {"url": PICTURE}, {"$type": "Image", "url": PICTURE}),
    ("list[dspy.Image]", [{"url": PICTURE}], [{"$type": "Image", "url": PICTURE}]),
    ("dspy.Audio", SOUND, {"$type": "Audio", **SOUND}),
    ("dspy.File", {"file_data": PAPER}, {"$type": "File", "file_data": PAPER, "file_id": None, "filename": None}),
    ("dspy.Reasoning", "so it is", "so it is"),
    ("dspy.Code['python']", "print(1)\nprint(2)", "print(1)\nprint(2)"),
    (
        "dspy.Document",
        {"data": "The sky is blue.", "title": "Skies"},
        {
            "$type": "Document",
            "data": "The sky is blue.",
            "title": "Skies",
            "media_type": "text/plain",
            "context": None,
        },
    ),
    ("dspy.Citations", [QUOTE], {"$type": "Citations", "citations": [{"$type": "Citation", **QUOTE}]}),
    ("dspy.ToolCalls", {"tool_calls": [CALL]}, {"$type": "ToolCalls", "tool_calls": [CALL], "tool_call_results": None}),
    (
        PERSON,
        {"name": "Ada", "born": "1815-12-10", "worth": "0.10", "tags": []},
        {"name": "Ada", "born": datetime.date(1815, 12, 10), "worth": Decimal("0.10"), "tags": []},
    ),
]


def answered(
    port: PortProcess, server: ModelServer, field: Any, text: str, adapter: str = "chat", **inputs: Any
) -> Any:
    """Return the output ``x`` of a type as a term, when a model has answered this text."""
    content = {
        "chat": f"[[ ## x ## ]]\n{text}\n\n[[ ## completed ## ]]",
        "json": f'{{"x": {text}}}',
    }[adapter]
    server.script("typed", {"content": content})
    signature = {"inputs": ["q"], "outputs": {"x": field}}
    options: dict[str, Any] = {"lm": openai(server, "scripted:typed")}
    # Tool calls are text here; other tests cover native ones.
    options["adapter"] = {"name": adapter, "json_fallback": False}
    if adapter == "json":
        options["adapter"] = {"name": "json", "native_function_calling": False}
    return port.done("execute_module", "dspy.Predict", signature, "q", options)["x"]


@pytest.mark.parametrize("adapter", ["chat", "json"])
@pytest.mark.parametrize(("field", "value", "term"), VALUES, ids=[f"{kind} {value!r:.20}" for kind, value, _ in VALUES])
def test_answer_of_a_model_is_exact_and_valid_as_an_input(
    shared_port: PortProcess, model_server: ModelServer, field: str, value: Any, term: Any, adapter: str
) -> None:
    is_text = isinstance(value, str) and adapter == "chat"
    found = answered(shared_port, model_server, field, value if is_text else json.dumps(value), adapter)
    assert (found, type(found)) == (term, type(term))
    signature = {"inputs": {"x": field}, "outputs": ["answer"]}
    options = {"lm": openai(model_server, "answer", model_type="responses")}
    shared_port.done("execute_module", "dspy.Predict", signature, {"x": found}, options)


@pytest.mark.parametrize("adapter", ["chat", "json"])
@pytest.mark.parametrize("digits", ["1.10", "-0.50", LONG, "1e3", "7"])
@pytest.mark.parametrize(
    ("field", "wrap"),
    [
        ("Decimal", "%s"),
        ("list[Decimal]", "[%s]"),
        ("{a: Decimal, b: float, c: Any}", '{"a": %s, "b": %s, "c": %s}'),
    ],
)
def test_a_decimal_that_a_model_writes_as_a_number_keeps_its_digits(
    shared_port: PortProcess, model_server: ModelServer, field: str, wrap: str, digits: str, adapter: str
) -> None:
    text = wrap.replace("%s", digits)
    found = answered(shared_port, model_server, field, text, adapter)
    number = json.loads(digits)
    if "{" in wrap:
        # Numbers in other fields keep their types.
        assert found == {"a": Decimal(digits), "b": float(digits), "c": number}
        assert (type(found["b"]), type(found["c"])) == (float, type(number))
        found = [found["a"]]
    assert [str(item) for item in (found if isinstance(found, list) else [found])] == [str(Decimal(digits))]


def test_json_in_a_block_of_markdown_keeps_its_digits(shared_port: PortProcess, model_server: ModelServer) -> None:
    model_server.script("block", {"content": '```json\n{"x": 1.10}\n```'})
    signature = {"inputs": ["q"], "outputs": {"x": "Decimal"}}
    options = {"lm": openai(model_server, "scripted:block"), "adapter": "json"}
    assert str(shared_port.done("execute_module", "dspy.Predict", signature, "q", options)["x"]) == "1.10"


@pytest.mark.parametrize("adapter", [read_adapter(name).build() for name in ("chat", "json", "xml")])
def test_number_of_another_type_is_a_plain_float(adapter: dspy.Adapter) -> None:
    """Not every library accepts a subclass of float: orjson, which DSPy uses, does not."""
    spec = parse_signature("q -> x: Any, y: {a: float, b: Any}, z: list, d: Decimal")
    fields = {"x": "[1.50, {}]", "y": '{"a": 1.50, "b": [1.50]}', "z": '[[1.50], {"k": 1.50}]', "d": "1.50"}
    if isinstance(adapter, dspy.XMLAdapter):
        fields |= {"x": "1.50", "y": "<a>1.50</a><b>1.50</b>", "z": "<item>1.50</item>"}
        text = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
    elif isinstance(adapter, dspy.JSONAdapter):
        text = "{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}"
    else:
        text = "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items())
    read = adapter.parse(build_signature(spec), text)
    assert str(read.pop("d")) == "1.50"
    assert "WrittenFloat" not in repr([type(item) for item in numbers_in(read)])
    assert list(numbers_in(read))


def numbers_in(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, pydantic.BaseModel):
        value = list(value.__dict__.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, float):
        yield value


SEARCH = {
    "name": "search",
    "description": "Look something up.",
    "parameters": {
        "properties": {"query": {"type": "string"}, "limit": {"type": "integer", "default": 5}},
        "required": ["query"],
    },
}
WITH_TOOLS = {"inputs": {"q": "str", "tools": "list[dspy.Tool]"}, "outputs": {"calls": "dspy.ToolCalls"}}
ADAPTERS: list[tuple[Any, bool]] = [
    ("chat", False),
    # Native only if DSPy knows that the model supports it.
    ("json", False),
    ({"name": "json", "native_function_calling": True}, True),
    ({"name": "chat", "native_function_calling": True}, True),
    ({"name": "xml", "native_function_calling": True}, True),
    ({"name": "json", "native_function_calling": False}, False),
]


@pytest.mark.parametrize(("adapter", "is_native"), ADAPTERS)
@pytest.mark.parametrize("wire", ["chat", "responses", "anthropic"])
def test_a_model_calls_the_tools_that_it_is_given(
    shared_port: PortProcess, model_server: ModelServer, wire: str, adapter: Any, is_native: bool
) -> None:
    call = {"name": "search", "args": {"query": "cats", "limit": 3}}
    model_server.script("tools", {"calls": [call]} if is_native else {"fields": {"calls": {"tool_calls": [call]}}})
    lm = openai(model_server, "scripted:tools")
    lm |= {"model_type": wire} if wire == "responses" else {}
    lm |= {"provider": "anthropic", "api_base": model_server.url} if wire == "anthropic" else {}
    inputs = {"q": "?", "tools": [SEARCH, "calculator"]}
    found = shared_port.done("execute_module", "dspy.Predict", WITH_TOOLS, inputs, {"lm": lm, "adapter": adapter})
    (made,) = found["calls"]["tool_calls"]
    assert (made["name"], made["args"], made["id"]) == ("search", call["args"], "call_0" if is_native else None)
    body = model_server.requests[-1].body
    assert ("tools" in body) == is_native
    sent = json.dumps(body["tools"] if is_native else body)
    assert all(word in sent for word in ("search", "Look something up.", "query", "calculator"))


def test_a_tool_of_a_result_is_an_input_again(shared_port: PortProcess, model_server: ModelServer) -> None:
    tool = {"$type": "Tool", "name": "search", "desc": "Look it up.", "args": {"query": {"type": "string"}}}
    options = {"lm": openai(model_server, "answer")}
    signature = {"inputs": {"tool": "dspy.Tool"}, "outputs": ["answer"]}
    shared_port.done("execute_module", "dspy.Predict", signature, {"tool": tool}, options)
    assert "Look it up." in json.dumps(model_server.requests[-1].body)


@pytest.mark.parametrize(
    ("tool", "path"),
    [
        (7, ""),
        ("serch", ""),
        ({"name": "a b", "description": "d"}, ".name"),
        ({"name": "a"}, ".desc"),
        ({"name": "a", "description": "d", "parameters": {"properties": {"x": {"type": "strng"}}}}, ".parameters"),
        ({"name": "a", "description": "d", "args": [1]}, ".args"),
        ({"name": "a", "description": "d", "function": 1}, ""),
    ],
)
def test_wrong_tool_is_refused(shared_port: PortProcess, model_server: ModelServer, tool: Any, path: str) -> None:
    options = {"lm": openai(model_server, "answer")}
    inputs = {"q": "?", "tools": [tool]}
    details = shared_port.failed("execute_module", "dspy.Predict", WITH_TOOLS, inputs, options)
    assert details["kind"] == "input"
    assert details["path"].startswith(f"inputs.tools[0]{path}")
    assert model_server.requests == []


def test_calls_of_tools_without_tools_are_refused(shared_port: PortProcess, model_server: ModelServer) -> None:
    options = {"lm": openai(model_server, "answer"), "adapter": "json"}
    details = shared_port.failed("execute_module", "dspy.Predict", "q -> calls: dspy.ToolCalls", "q", options)
    assert (details["kind"], details["path"]) == ("signature", "signature")
    assert "list[dspy.Tool]" in details["message"]
    assert model_server.requests == []


WITH_DOCUMENTS = {
    "inputs": {"documents": "list[dspy.Document]", "q": "str"},
    "outputs": {"answer": "str", "citations": "dspy.Citations"},
}


@pytest.mark.parametrize("wire", ["chat", "responses", "anthropic"])
def test_documents_are_read_and_cited_by_every_model(
    shared_port: PortProcess, model_server: ModelServer, wire: str
) -> None:
    """DSPy's own client refuses documents on each of these wires, and removes citations from Anthropic's prompt."""
    model_server.script("cites", {"fields": {"answer": "blue", "citations": [QUOTE]}})
    lm = openai(model_server, "scripted:cites")
    lm |= {"model_type": wire} if wire == "responses" else {}
    lm |= {"provider": "anthropic", "api_base": model_server.url} if wire == "anthropic" else {}
    sky = {"data": "The sky is [[ ## q ## ]] blue.", "title": "Skies", "context": "of a book"}
    inputs = {"documents": [sky, "Grass is green."], "q": "Which colour?"}
    found = shared_port.done("execute_module", "dspy.Predict", WITH_DOCUMENTS, inputs, {"lm": lm})
    assert found["citations"]["citations"][0]["cited_text"] == "blue"
    sent = json.dumps(model_server.requests[-1].body)
    for text in (
        "title: Skies",
        "context: of a book",
        "[[ # # q ## ]] blue",
        "Grass is green.",
        "[[ ## citations ## ]]",
    ):
        assert text in sent
    assert '"document"' not in sent


def test_a_document_that_is_a_pdf_is_a_file(shared_port: PortProcess, model_server: ModelServer) -> None:
    for document in (PDF, {"data": PDF}, {"data": base64_of(PDF), "media_type": "application/pdf"}):
        lm = openai(model_server, "answer", model_type="responses")
        signature = {"inputs": {"x": "dspy.Document"}, "outputs": ["answer"]}
        shared_port.done("execute_module", "dspy.Predict", signature, {"x": document}, {"lm": lm})
        assert base64_of(PDF) in json.dumps(model_server.requests[-1].body)
    details = shared_port.failed(
        "execute_module", "dspy.Predict", signature, {"x": PDF}, {"lm": openai(model_server, "answer")}
    )
    assert (details["kind"], "takes no file" in details["message"]) == ("provider", True)


@pytest.mark.parametrize(
    ("kind", "value", "path"),
    [
        ("dspy.Document", 7, ""),
        ("dspy.Document", "", ""),
        ("dspy.Document", {"title": "t"}, ".data"),
        ("dspy.Document", {"data": "x", "title": 7}, ".title"),
        ("dspy.Document", {"data": "x", "media_type": "text/html"}, ".media_type"),
        ("dspy.Document", {"data": "no pdf!", "media_type": "application/pdf"}, ".data"),
        ("dspy.Document", {"data": "x", "metadata": {}}, ""),
        ("dspy.Citations", "x", ""),
        ("dspy.Citations", [{"cited_text": "x"}], "[0].document_index"),
        ("dspy.Citations", {"citations": [{**QUOTE, "document_index": "0"}]}, ".citations[0].document_index"),
    ],
)
def test_wrong_document_or_citation_is_named(
    shared_port: PortProcess, model_server: ModelServer, kind: str, value: Any, path: str
) -> None:
    signature = {"inputs": {"x": kind}, "outputs": ["answer"]}
    options = {"lm": openai(model_server, "answer")}
    details = shared_port.failed("execute_module", "dspy.Predict", signature, {"x": value}, options)
    assert (details["kind"], details["path"]) == ("input", f"inputs.x{path}"), details
    assert model_server.requests == []
