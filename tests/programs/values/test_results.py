"""Inputs are checked against a signature, and results become terms."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from decimal import Decimal
from typing import Any

import dspy
import pydantic
import pytest

from erlport_bridge.errors import EncodeError, OperationError
from erlport_bridge.programs.signatures.spec import build_signature, parse_signature
from erlport_bridge.programs.values.inputs import input_values
from erlport_bridge.programs.values.results import plain
from erlport_bridge.term import Atom, FrozenList, ImproperList, decode, encode

IMAGE = "data:image/png;base64,iVBORw0KGgo="
SPEC = parse_signature("context: list[str], question, hint: str | None -> answer")


def refused(inputs: Any, **options: Any) -> OperationError:
    with pytest.raises(OperationError) as raised:
        input_values(SPEC, inputs, **options)
    assert raised.value.kind == "input"
    return raised.value


def test_inputs_have_atoms_or_strings_as_keys() -> None:
    values = input_values(SPEC, {Atom("context"): ["a"], "question": Atom("why"), "hint": "b"})
    assert values == {"context": ["a"], "question": "why", "hint": "b"}
    assert {type(key) for key in values} == {str}


def test_field_that_may_be_nil_may_be_left_out() -> None:
    assert input_values(SPEC, {"context": [], "question": "?"}) == {"context": [], "question": "?", "hint": None}


def test_all_missing_inputs_are_named() -> None:
    error = refused({})
    assert error.message == "missing at inputs: context, question; given: nothing"
    assert error.facts["path"] == "inputs.context"
    assert refused({"context": []}).message == "missing at inputs: question; given: context"


def test_unknown_input_is_named_with_the_nearest() -> None:
    error = refused({"context": [], "qestion": "?"})
    assert error.message == 'unknown input "qestion" at inputs (did you mean "question"?); missing at inputs: question'
    assert error.facts["path"] == "inputs.qestion"
    message = refused({"context": [], "question": "?", "zebra": 1}).message
    assert message == 'unknown input "zebra" at inputs; the signature takes context, question, hint'


def test_error_has_the_path_that_the_caller_gives() -> None:
    error = refused({"context": ["a", 1], "question": "?"}, path="inputs[3]")
    assert error.message == "expected a string at inputs[3].context[1], got 1"
    assert error.facts["path"] == "inputs[3].context[1]"


@pytest.mark.parametrize("inputs", [None, "question", [("question", "?")], 5])
def test_inputs_are_a_map(inputs: Any) -> None:
    assert refused(inputs).message.startswith("expected a map such as %{")


@pytest.mark.parametrize("key", [1, b"\xff", None, (1, 2)])
def test_keys_are_names(key: Any) -> None:
    assert "expected an atom or a string as a key of inputs, got " in refused({key: 1}).message


class _Colour(enum.Enum):
    RED = "red"
    BOTH = ("red", 2)


class _Level(enum.IntEnum):
    LOW = 1


class _Person(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str
    born: datetime.date | None = None


@dataclasses.dataclass(frozen=True)
class _Point:
    x: int
    tags: tuple[str, ...] = ()


NOW = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.timezone.utc)
PID = decode(b"\x83X\x77\x01a" + bytes(12))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**100,
        1.5,
        "é",
        b"\xff",
        Atom("ok"),
        NOW,
        NOW.date(),
        NOW.time(),
        Decimal("1.10"),
        range(1, 4),
        PID,
        ImproperList((1,), 2),
        [],
        [1, [2, ("a", {"b": {3}})]],
        {"a": 1, 2: "b", Atom("c"): None, None: 0, 1.5: ()},
        {FrozenList([1]): FrozenList(["a"])},
        frozenset({1}),
    ],
)
def test_value_that_is_a_term_is_unchanged(value: Any) -> None:
    assert plain(value) == value
    assert type(plain(value)) is type(value) or isinstance(value, frozenset)


@pytest.mark.parametrize(
    ("value", "term"),
    [
        (_Colour.RED, "red"),
        (_Colour.BOTH, ("red", 2)),
        (_Level.LOW, 1),
        ({_Colour.RED: _Level.LOW}, {"red": 1}),
        (
            _Person.model_validate({"name": "Ada", "born": NOW.date(), "age": 36}),
            {"name": "Ada", "born": NOW.date(), "age": 36},
        ),
        ([_Point(1, ("a",))], [{"x": 1, "tags": ("a",)}]),
        (
            dspy.Prediction(answer=_Colour.RED, n=[_Person(name="B")]),
            {"answer": "red", "n": [{"name": "B", "born": None}]},
        ),
        (dspy.Example(q="a").with_inputs("q"), {"q": "a"}),
        (dspy.Prediction.from_completions([{"a": 1}, {"a": 2}]).completions, {"a": [1, 2]}),
        (dspy.Code(code="x = 1"), "x = 1"),
        (dspy.Code["java"](code="x"), "x"),
        (dspy.Reasoning(content="why"), "why"),
        (dspy.Image(IMAGE), {"$type": "Image", "url": IMAGE}),
        (dspy.Audio(data="AAAA", audio_format="wav"), {"$type": "Audio", "data": "AAAA", "audio_format": "wav"}),
        (dspy.File(file_id="f"), {"$type": "File", "file_data": None, "file_id": "f", "filename": None}),
        (
            dspy.History(messages=[{"q": dspy.Image(IMAGE)}]),
            {"$type": "History", "messages": [{"q": {"$type": "Image", "url": IMAGE}}]},
        ),
        (
            dspy.ToolCalls(tool_calls=[dspy.ToolCalls.ToolCall(id="c", name="f", args={"p": _Point(1)})]),
            {
                "$type": "ToolCalls",
                "tool_calls": [{"id": "c", "name": "f", "args": {"p": {"x": 1, "tags": ()}}}],
                "tool_call_results": None,
            },
        ),
    ],
)
def test_object_becomes_a_term_of_its_parts(value: Any, term: Any) -> None:
    found = plain(value)
    assert found == term
    assert type(found) is type(term)
    assert decode(encode(found)) == term


def test_tool_is_described_without_its_function() -> None:
    def add(x: int, y: int) -> int:
        """Add two numbers."""
        return x + y

    assert plain(dspy.Tool(add)) == {
        "$type": "Tool",
        "name": "add",
        "desc": "Add two numbers.",
        "args": {"x": {"type": "integer"}, "y": {"type": "integer"}},
    }


class _Opaque:
    def __str__(self) -> str:
        raise AssertionError("an object's own text is not a term")

    __repr__ = __reduce__ = __str__


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (_Opaque(), "cannot encode a value of type test_values._Opaque"),
        ({"answer": [1, _Opaque()]}, 'cannot encode a value of type test_values._Opaque at ["answer"][1]'),
        (dspy.Prediction(a={"b": (_Opaque(),)}), '_Opaque at ["a"]["b"][0]'),
        (_Person.model_validate({"name": "x", "friend": _Opaque()}), '_Opaque at ["friend"]'),
        (datetime.timedelta(1), "cannot encode a value of type datetime.timedelta"),
        (1j, "cannot encode a value of type builtins.complex"),
        (len, "cannot encode a value of type builtins.builtin_function_or_method"),
        (_Point, "cannot encode a value of type builtins.type"),
        ({"a": {(1, 2): 3}}, 'cannot encode a key of type tuple at ["a"]'),
        ({_Opaque: 1}, "cannot encode a key of type type"),
        ({_Colour.RED: 1, "red": 2}, 'cannot encode a map with the key "red" twice'),
        ([{_Point(1)}], "cannot encode a set whose elements have fields at [0]"),
    ],
)
def test_other_values_are_an_error_with_type_and_path(value: Any, message: str) -> None:
    with pytest.raises(EncodeError) as raised:
        plain(value)
    assert str(raised.value).replace(f"{__name__}.", "test_values.").endswith(message)


def test_path_begins_where_the_caller_says() -> None:
    with pytest.raises(EncodeError) as raised:
        plain([_Opaque()], '["answer"]')
    assert raised.value.path == '["answer"][0]'


def test_value_that_contains_itself_is_an_error() -> None:
    own_list: list[Any] = [1]
    own_list.append({"again": own_list})
    own_map: dict[str, Any] = {}
    own_map["me"] = own_map
    person = _Person(name="x")
    person.friend = person  # type: ignore[attr-defined]
    for value, path in ((own_list, '[1]["again"]'), (own_map, '["me"]'), (person, '["friend"]')):
        with pytest.raises(EncodeError, match="a value that contains itself") as raised:
            plain(value)
        assert raised.value.path == path


def test_same_value_twice_is_not_a_cycle() -> None:
    shared = [1]
    assert plain({"a": shared, "b": [shared, shared]}) == {"a": [1], "b": [[1], [1]]}


def test_depth_has_a_limit() -> None:
    value: Any = []
    for _ in range(10_000):
        value = [value]
    with pytest.raises(EncodeError, match="nested deeper than 100 levels"):
        plain(value)


@pytest.mark.parametrize(
    ("type_text", "value"),
    [
        ("dspy.Image", dspy.Image(IMAGE)),
        ("list[dspy.Image]", [dspy.Image(IMAGE)]),
        ("dspy.Audio", dspy.Audio(data="AAAA", audio_format="mp3")),
        ("dspy.File", dspy.File(file_data="data:application/pdf;base64,AAAA", filename="a.pdf")),
        ("dspy.Code['python']", dspy.Code["python"](code="x = 1")),
        ("dspy.Reasoning", dspy.Reasoning(content="why")),
        ("dspy.History", dspy.History(messages=[{"q": "a", "i": dspy.Image(IMAGE), "n": [1, {"b": None}]}])),
        (
            "dspy.ToolCalls",
            dspy.ToolCalls(
                tool_calls=[dspy.ToolCalls.ToolCall(id="c", name="f", args={"x": 1})],
                tool_call_results={"tool_call_results": [{"call_id": "c", "name": "f", "value": 2, "is_error": False}]},
            ),
        ),
        ("Decimal", Decimal("1.10")),
        ("datetime", NOW),
        ("tuple[int, set[str]]", (1, {"a"})),
    ],
)
def test_result_over_the_wire_is_an_input_again(type_text: str, value: Any) -> None:
    spec = parse_signature(f"x: {type_text} -> y")
    term = decode(encode(plain(value)))
    again = input_values(spec, {"x": term})["x"]
    assert plain(again) == plain(value)
    assert type(again).__name__ == type(value).__name__
    assert dspy.ChatAdapter().format(build_signature(spec), [], {"x": again})[-1]["content"]
