"""Values that models write: what is read as which value, and what is refused, by kind, for each adapter."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from typing import Any

import dspy
import pytest

from erlport_bridge.programs.models.adapters import read_adapter
from erlport_bridge.programs.signatures import build_signature, parse_signature
from erlport_bridge.programs.values import plain, problem_of
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

_ADAPTERS = {name: read_adapter(name).build() for name in ("chat", "json", "xml")}


def read(field: Any, text: str, adapter: str = "chat") -> Any:
    """Return the output ``v`` of an answer: a section of chat, an element of XML, or a value of JSON."""
    answer = {
        "chat": f"[[ ## v ## ]]\n{text}\n\n[[ ## completed ## ]]",
        "json": f'{{"v": {text}}}',
        "xml": f"<v>{text}</v>",
    }
    signature = build_signature(parse_signature({"inputs": ["t"], "outputs": {"v": field}}))
    return _ADAPTERS[adapter].parse(signature, answer[adapter])["v"]


def refused(field: Any, text: str, adapter: str = "chat") -> tuple[str, str]:
    """Return the sentence and the path of an answer that cannot be read."""
    with pytest.raises(dspy.AdapterParseError) as caught:
        read(field, text, adapter)
    return problem_of(caught.value)


def same(found: Any, expected: Any) -> bool:
    """Compare values and types: in Python ``True == 1 == 1.0``."""
    return repr(found) == repr(expected) and type(found) is type(expected)


OPTIONAL_SHORT = ("optional", ("string", [("max_length", 12)]))
TEXT_OR_LIST = ("union", ["string", ("list", "string")])


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        (OPTIONAL_SHORT, "2024-01-01", "2024-01-01"),
        (OPTIONAL_SHORT, "[1] {a}", "[1] {a}"),
        (("optional", ("string", [("pattern", "^[a-z:]+$")])), "a:b", "a:b"),
        (("optional", ("enum", ["true", "false"])), "true", "true"),
        (("optional", ("enum", ["1", "2"])), "2", "2"),
        (("optional", ("enum", ["null", "x"])), "x", "x"),
        ("Literal['true', True]", "true", "true"),
        (TEXT_OR_LIST, "see [a] or {b}", "see [a] or {b}"),
        (TEXT_OR_LIST, "[a] first", "[a] first"),
        (("union", [("list", "string"), "string"]), "[todo] call Bo", "[todo] call Bo"),
        (("union", [{"a": "string"}, "string"]), "{a} or {b}", "{a} or {b}"),
        (("union", ["date", "string"]), "2024-01-01", "2024-01-01"),
        ("Decimal | str", "about 7", "about 7"),
        ("str | int", "7 apples", "7 apples"),
        ("str | None", "None of them", "None of them"),
        ("str | None", '"quoted"', '"quoted"'),
        ("Any", "[todo] call Bo", "[todo] call Bo"),
        ("Any", "see {b}", "see {b}"),
        ("Any", '"2.50"', "2.50"),
        ("Any", '("a note")', '("a note")'),
        ("Any", "{note}", "{note}"),
        ("Any", "Yes: 7", "Yes: 7"),
        ("str", "[1, 2]", "[1, 2]"),
        ("str", "null", "null"),
        ("str", "2.50", "2.50"),
    ],
)
def test_text_stays_text_where_a_member_takes_it(field: Any, text: str, value: str) -> None:
    """DSPy repairs any text to JSON: it made ``["b}"]`` of ``see [a] or {b}``, and refused ``true`` for an enum."""
    assert same(read(field, text), value)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        (TEXT_OR_LIST, '["a", "b"]', ["a", "b"]),
        (TEXT_OR_LIST, '```json\n["a"]\n```', ["a"]),
        (TEXT_OR_LIST, '"a"', "a"),
        ("str | int", "7", 7),
        ("int | str", "seven", "seven"),
        ("float | int", "7", 7),
        ("int | float", "7.5", 7.5),
        ("float | str", "7", 7.0),
        ("bool | str", "True", True),
        ("bool | int", "1", 1),
        ("str | None", "null", None),
        ("str | None", "None", None),
        ("int | None", "null", None),
        ("int | None", "None", None),
        ("int | None", "7", 7),
        ("date | datetime", "2024-01-01", datetime.date(2024, 1, 1)),
        ("datetime | date", "2024-01-01", datetime.date(2024, 1, 1)),
        ("date | datetime", "2024-01-01T00:00:00", datetime.datetime(2024, 1, 1)),
        ("list[int] | list[str]", '["1"]', ["1"]),
        ("list[str] | list[int]", "[1]", [1]),
        ("Any", "7", 7),
        ("Any", '{"a": [1.50, null]}', {"a": [1.5, None]}),
        ("Any", "{'a': True}", {"a": True}),
        ("Any", "null", None),
    ],
)
def test_member_that_needs_the_least_conversion_is_taken(field: Any, text: str, value: Any) -> None:
    assert same(read(field, text), value)


def test_member_of_a_union_of_objects_is_the_one_with_all_keys() -> None:
    people = ("union", [{"name": "string"}, {"name": "string", "age": "integer"}])
    assert read(people, '{"name": "Ada", "age": 36}').age == 36
    assert not hasattr(read(people, '{"name": "Ada"}'), "age")


# A type, what a model writes in JSON, and what is expected in the error.
CHANGED_BY_DSPY: list[tuple[str, str, str]] = [
    ("date", "1999", "a date"),
    ("date", '"1999"', "a date"),
    ("date", "0", "a date"),
    ("datetime", "1700000000", "a date and time"),
    ("datetime", '"1.5"', "a date and time"),
    ("time", "3600", "a time of day"),
    ("datetime", '"2024-01-01T00:00:00.1234567"', "a date and time"),
    ("int", "true", "an integer"),
    ("int", "7.5", "an integer"),
    ("int", "null", "an integer"),
    ("float", "false", "a number"),
    ("float", "1e999", "a number that a float can hold"),
    ("Decimal", "true", "a decimal number"),
    ("bool", "1", "true or false"),
    ("bool", "0", "true or false"),
    ("bool", '"1"', "true or false"),
    ("str", "null", "a string"),
    ("str", "false", "a string"),
    ("str", "[1]", "a string"),
    ("str", '{"a": 1}', "a string"),
    ("Literal[1, 2]", "true", "one of 1, 2"),
    ("Literal[0, 'a']", "false", 'one of 0, "a"'),
    ("list[str]", '"a"', "a list"),
    ("list[str]", '{"a": "b"}', "a list"),
    ("set[Any]", "[1, true]", "a set of elements that Python tells apart"),
    ("dict[int, str]", '{"1": "a", "01": "b"}', "the key 1 once"),
    ("tuple[int, int]", "[1, 2, 3]", "a tuple of 2 elements"),
]
WITHOUT_TERM: list[tuple[str, str, str]] = [
    ("time", '"12:00:00+02:00"', "a time of day without a time zone"),
    ("time", '"12:00:00Z"', "a time of day without a time zone"),
    ("str", '"a\\ud800b"', "a string without half a surrogate pair"),
    ("Any", '"a\\udfff"', "a string without half a surrogate pair"),
    ("dspy.Reasoning", '"a\\ud800b"', "a string without half a surrogate pair"),
    ("dspy.Code", '{"code": "\\ud800"}', "a string without half a surrogate pair"),
    ("dict[str, int]", '{"\\ud800": 1}', "a string without half a surrogate pair"),
    ("Any", f"{'[' * 90}{']' * 90}", "a value of at most 80 levels"),
]


@pytest.mark.parametrize(
    ("wrap", "text", "place"),
    [
        ("%s", "%s", ""),
        ("list[%s]", "[%s]", "[0]"),
        ("{a: %s}", '{"a": %s}', ".a"),
        ("dict[str, %s]", '{"k": %s}', '["k"]'),
    ],
)
@pytest.mark.parametrize(("field", "value", "expected"), CHANGED_BY_DSPY + WITHOUT_TERM)
def test_value_that_does_not_fit_is_refused_with_its_path(
    field: str, value: str, expected: str, wrap: str, text: str, place: str
) -> None:
    """DSPy read ``1999`` as a date of 1970, ``null`` as the text ``None``, and ``true`` as 1."""
    sentence, path = refused(wrap.replace("%s", field), text.replace("%s", value), "json")
    assert path.startswith(f"outputs.v{place}")
    assert sentence.startswith(f"expected {expected} at outputs.v{place}")
    if wrap != "%s":
        assert refused(wrap.replace("%s", field), text.replace("%s", value), "chat") == (sentence, path)


@pytest.mark.parametrize("adapter", ["chat", "xml"])
@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("date", "1999"),
        ("datetime", "1700000000"),
        ("time", "12:00+01:00"),
        ("int", "True"),
        ("int", "seven"),
        ("float", "false"),
        ("bool", "1"),
        ("int", "1,234"),
        ("Literal['yes', 'no']", "maybe"),
    ],
)
def test_text_that_does_not_fit_is_refused_with_its_path(field: str, text: str, adapter: str) -> None:
    sentence, path = refused(field, text, adapter)
    assert (path, sentence.endswith(f" at outputs.v, got {json.dumps(text)}")) == ("outputs.v", True), sentence


@pytest.mark.parametrize(
    ("field", "value"),
    [("list[str]", "see [a] or {b}"), ("list[str]", "[todo] call Bo"), ("list[int]", "[1, 2"), ("dict", "{")],
)
def test_list_is_not_made_of_text_with_brackets(field: str, value: str) -> None:
    sentence, path = refused(field, value)
    assert (path, "expected a" in sentence) == ("outputs.v", True)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("int", "7.0", 7),
        ("int", '"7"', 7),
        ("int", "+7", 7),
        ("int", "**7**", 7),
        ("int", "`7`", 7),
        ("int", "1_000", 1000),
        ("int", "```py\n7\n```", 7),
        ("int", "1e3", 1000),
        ("float", "7", 7.0),
        ("float", "NaN", float("nan")),
        ("Decimal", "1.10", Decimal("1.10")),
        ("Decimal", '"1.10"', Decimal("1.10")),
        ("bool", "TRUE", True),
        ("bool", "yes", True),
        ("bool", "No", False),
        ("date", '"2024-02-29"', datetime.date(2024, 2, 29)),
        ("datetime", "2024-02-29 12:30", datetime.datetime(2024, 2, 29, 12, 30)),
        ("Literal['a', 'b']", '"a"', "a"),
        ("Literal['a', 'b']", "Literal['a']", "a"),
        ("Literal[1, 2]", "2", 2),
        ("Literal[True, 'maybe']", "True", True),
        ("list[int]", '["1", 2.0]', [1, 2]),
        ("list[str]", "[1.50, 7]", ["1.50", "7"]),
        ("list[str]", "[a, b]", ["a", "b"]),
        ("list[str]", "['a', 'b',]", ["a", "b"]),
        ("tuple[int, str]", "(1, 'a')", (1, "a")),
        ("dict[int, str]", '{"1": "a"}', {1: "a"}),
        ("dict[bool, date]", '{"true": "2024-01-01"}', {True: datetime.date(2024, 1, 1)}),
        ("list[str]", 'Here you are:\n```json\n["a"]\n```\nAnything else?', ["a"]),
        ("list[str]", 'The list is ["a"]. Anything else?', ["a"]),
        ("list[str]", '["two\nlines"]', ["two\nlines"]),
    ],
)
def test_value_that_loses_nothing_is_read(field: str, text: str, value: Any) -> None:
    assert same(read(field, text), value)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("list[str] | None", "null", None),
        ("set[str] | None", " None ", None),
        ("list[str] | None", "<item>null</item>", ["null"]),
        ("list[str] | None", "a", ["a"]),
        ("dict[str, int] | None", "null", None),
        ("int | str", "7", 7),
        ("list[int | str]", "<item>7</item><item>x</item>", [7, "x"]),
        ("Any", "[todo] call Bo", "[todo] call Bo"),
    ],
)
def test_text_of_an_element_is_read_as_in_chat(field: str, text: str, value: Any) -> None:
    """An element ``null`` of the type ``list[str] | None`` was the list ``["null"]``."""
    assert same(read(field, text, "xml"), value)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("date", r'"\"2024-02-29\""', datetime.date(2024, 2, 29)),
        ("int", r'"\"7\""', 7),
        ("list[str]", r'"[\"a\"]"', ["a"]),
        ("{a: int}", r'"{\"a\": 7}"', {"a": 7}),
        ("int | None", '"null"', None),
        ("bool", '"True"', True),
    ],
)
def test_json_within_a_string_of_json_is_read(field: str, text: str, value: Any) -> None:
    assert same(plain(read(field, text, "json")), value)


@pytest.mark.parametrize(
    "answer",
    [
        '{"v": 7}',
        '{"response": {"v": 7}}',
        '{"name": "json_tool_call", "arguments": {"v": 7}}',
        '[{"v": 7}]',
        '```json\n{"v": 7}\n```',
        '```py\n{"v": 7}\n```',
        "```\n{'v': 7}\n```",
        'Sure! Here it is:\n\n```json\n{"response": {"v": 7}}\n```\n\nAnything else?',
        'I chose {"v": 7}, as asked.',
        "{v: 7,}",
        '{"v": "7"}',
        '{"v": 7, "remark": "extra"}',
    ],
)
def test_wrapping_around_the_json_object_is_left_out(answer: str) -> None:
    signature = build_signature(parse_signature("t -> v: int"))
    assert _ADAPTERS["json"].parse(signature, answer) == {"v": 7}


FAILING: list[tuple[str, Any, str, str]] = [
    (
        "chat",
        {"a": "integer", "b": "integer"},
        "[[ ## b ## ]]\n7\n\n[[ ## a ## ]]\nseven",
        'expected an integer at outputs.a, got "seven"',
    ),
    ("json", {"a": "integer"}, '{"a": "seven"}', 'expected an integer at outputs.a, got "seven"'),
    ("xml", {"a": "integer"}, "<a>seven</a>", 'expected an integer at outputs.a, got "seven"'),
    (
        "json",
        {"a": ("list", {"n": "integer"})},
        '{"a": [{"n": 1}, {"n": "x"}]}',
        'expected an integer at outputs.a[1].n, got "x"',
    ),
    (
        "chat",
        {"a": {"n": ("integer", [("le", 3)])}},
        '[[ ## a ## ]]\n{"n": 4}',
        "expected a value less than or equal to 3 at outputs.a.n, got 4",
    ),
    (
        "chat",
        {"a": "string", "b": "string"},
        "[[ ## a ## ]]\nyes",
        'expected the fields a, b in the model\'s answer, got "[[ ## a ## ]]\\nyes"; missing: b',
    ),
    ("json", {"a": "string"}, "no idea", 'expected the field a in the model\'s answer, got "no idea"'),
]


@pytest.mark.parametrize(("adapter", "outputs", "content", "message"), FAILING)
def test_error_names_field_type_and_value_and_what_was_paid(
    shared_port: PortProcess, model_server: ModelServer, adapter: str, outputs: Any, content: str, message: str
) -> None:
    model_server.script("wrong", {"content": content})
    options = {"lm": openai(model_server, "scripted:wrong"), "adapter": {"name": adapter}, "timeout": 20_000}
    if adapter != "json":
        options["adapter"]["json_fallback"] = False  # type: ignore[index]
    signature = {"inputs": ["q"], "outputs": outputs}
    details = shared_port.failed("execute_module", "dspy.Predict", signature, "q", options)
    assert (details["kind"], details["type"], details["message"]) == ("parse", "AdapterParseError", message)
    path = message.partition(" at ")[2].partition(",")[0] or f"outputs.{message[-1] if 'missing' in message else 'a'}"
    assert details["path"] == path
    assert details["usage"]["openai/scripted:wrong"]["total_tokens"] > 0


def test_refused_constraint_says_what_was_paid(shared_port: PortProcess, model_server: ModelServer) -> None:
    model_server.script("high", {"fields": {"a": 4}}, {"fields": {"a": 5}})
    options = {"lm": openai(model_server, "scripted:high"), "parse_retries": 1}
    details = shared_port.failed("execute_module", "dspy.Predict", "q -> a: int(le=3)", "q", options)
    assert (details["kind"], details["path"]) == ("parse", "outputs.a")
    _, second = model_server.requests
    assert details["usage"]["openai/scripted:high"]["total_tokens"] > 10
    assert "expected a value less than or equal to 3 at outputs.a" in json.dumps(second.body)


def test_value_without_a_term_is_asked_for_again(shared_port: PortProcess, model_server: ModelServer) -> None:
    """It was an error of kind ``encode``, for which ``parse_retries`` did not hold."""
    model_server.script("zoned", {"fields": {"at": "12:00:00+02:00"}}, {"fields": {"at": "12:00:00"}})
    options = {"lm": openai(model_server, "scripted:zoned"), "parse_retries": 1, "adapter": {"json_fallback": False}}
    found = shared_port.done("execute_module", "dspy.Predict", "q -> at: time", "q", options)
    assert found["at"] == datetime.time(12)
    assert len(model_server.requests) == 2
