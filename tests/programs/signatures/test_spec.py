"""Signatures: which are accepted, that DSPy builds the same class, and what hostile text cannot do."""

from __future__ import annotations

import asyncio
import inspect
import keyword
import re
import subprocess
import sys
from typing import Any, Literal

import dspy
import pytest
from dspy.utils import DummyLM
from hypothesis import given
from hypothesis import strategies as st

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.signatures.field_names import Reserved
from erlport_bridge.programs.signatures.spec import (
    MAX_FIELDS,
    MAX_SIGNATURE_CHARACTERS,
    RESERVED_INPUT_NAMES,
    RESERVED_NAMES,
    Field,
    SignatureSpec,
    build_signature,
    parse_signature,
)
from erlport_bridge.term import Atom, OrderedMap

shadowing = pytest.mark.filterwarnings("ignore:Field name:UserWarning")  # pytest resets the filter that the module sets


def refused(source: Any, **options: Any) -> OperationError:
    with pytest.raises(OperationError) as raised:
        parse_signature(source, **options)
    assert raised.value.kind == "signature"
    assert raised.value.facts["path"].startswith(("signature", "instructions"))
    assert len(raised.value.message) < 1_000
    return raised.value


@pytest.mark.parametrize(
    ("type_text", "is_possible"),
    [
        ("int(ge=5, le=1)", False),
        ("int(gt=1, lt=2)", False),
        ("float(gt=1, lt=2)", True),
        ("float(gt=1, le=1)", False),
        ("int(ge=1, le=1)", True),
        ("int(ge=1.2, le=1.8)", False),
        ("int(ge=0, gt=3, le=4)", True),
        ("Decimal(ge=2, lt=2)", False),
        ("str(min_length=3, max_length=2)", False),
        ("list[str](min_length=2, max_length=2)", True),
        ("dict[str, int(ge=3, lt=3)]", False),
        ("(int | str)(ge=5, le=1)", False),
        ("int(gt=0)", True),
        ("float(lt=0)", True),
    ],
)
def test_bounds_that_no_value_is_within_are_refused(type_text: str, is_possible: bool) -> None:
    """They were called valid, and every answer was an error."""
    if is_possible:
        assert parse_signature(f"a -> b: {type_text}").text.endswith(type_text)
    else:
        message = refused(f"a -> b: {type_text}").message
        assert "bounds that no value is within" in message
        # The bounds are shown too, those of the member or element that has them.
        assert re.search(r"has \w+(\[\w+\])?\(\w+=[\d.]+, \w+=[\d.]+\) with bounds", message), message


def test_fields_of_a_map_are_sorted_by_name() -> None:
    """A map of Elixir has no order that its caller could have meant."""
    source = {"inputs": {Atom("question"): None, "k": "int"}, "outputs": {"z": "str", "a": "str"}}
    assert parse_signature(source).text == "k: int, question: str -> a: str, z: str"


def test_text_form() -> None:
    spec = parse_signature("question, k: integer -> answer: list[string]", instructions="Be brief.")
    assert spec == SignatureSpec(
        (Field("question", "str", str), Field("k", "int", int)), (Field("answer", "list[str]", list[str]),), "Be brief."
    )
    assert spec.text == "question: str, k: int -> answer: list[str]"
    assert hash(spec) == hash(parse_signature("question:str,k:int->answer:list[str]", instructions="Be brief."))


@pytest.mark.parametrize(
    "source", ["question -> answer", Atom("question -> answer"), [ord(c) for c in "question -> answer"]]
)
def test_text_may_be_string_atom_or_charlist(source: Any) -> None:
    assert parse_signature(source).text == "question: str -> answer: str"


@pytest.mark.parametrize(
    "source",
    [
        {"inputs": ["question", "k: int"], "outputs": ["answer: list[str]"]},
        {Atom("inputs"): [Atom("question"), "k: int"], Atom("outputs"): "answer: list[str]"},
        {"inputs": ["question", ("k", Atom("integer"))], "outputs": {"answer": {"type": "list[str]"}}},
        {"inputs": OrderedMap(question="str", k="int"), "outputs": {"answer": {"type": "list[str]"}}},
        {"inputs": [(Atom("question"), Atom("string")), (Atom("k"), "int")], "outputs": {"answer": "list[str]"}},
        {"inputs": "question, k: int", "outputs": [{"name": "answer", "type": "list[str]"}], "instructions": None},
        {"inputs": [["question", None], ["k", "int"]], "outputs": {"answer": "list[str]"}, "instructions": " "},
    ],
)
def test_map_forms_mean_the_same(source: Any) -> None:
    assert parse_signature(source) == parse_signature("question, k: int -> answer: list[str]")


def test_map_form_has_descriptions_and_instructions() -> None:
    spec = parse_signature(
        {
            "inputs": [{Atom("name"): "question", Atom("desc"): "what is asked"}],
            "outputs": {"answer": {"type": "int", "description": [104, 105]}},
            "instructions": "Count.",
        }
    )
    assert spec.inputs == (Field("question", "str", str, "what is asked"),)
    assert spec.outputs == (Field("answer", "int", int, "hi"),)
    assert spec.instructions == "Count."
    signature = build_signature(spec)
    assert signature.instructions == "Count."
    assert signature.input_fields["question"].json_schema_extra["desc"] == "what is asked"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            42,
            'expected text such as "question -> answer", or a map, such as %{inputs: "question", outputs: "answer"}',
        ),
        (None, "at signature, got nil"),
        (b"\xff", "expected UTF-8 text at signature, got a binary that is not UTF-8"),
        ({b"\xff": 1}, "expected UTF-8 text at a key of signature, got a binary that is not UTF-8"),
        ({}, "a signature without inputs"),
        ({"inputs": ["a"]}, "a signature without outputs"),
        ({"inputs": ["a"], "outputs": []}, "a signature without outputs"),
        ({"input": ["a"], "outputs": ["b"]}, 'unknown key "input" at signature (did you mean "inputs"?)'),
        ({"zzz": 1}, 'unknown key "zzz" at signature; known keys: inputs, outputs, instructions'),
        ({"inputs": 3, "outputs": ["b"]}, "expected a list or a map of fields at signature.inputs, got 3"),
        ({"inputs": [3.5], "outputs": ["b"]}, "expected a string at signature.inputs[0], got 3.5"),
        (
            {"inputs": ["a: Thing"], "outputs": ["b"]},
            'unknown type "Thing" of field "a" at character 3 of signature.inputs[0]',
        ),
        ({"inputs": ["a, b"], "outputs": ["c"]}, 'expected one field, got "," at character 1 of signature.inputs[0]'),
        ({"inputs": {"a": "Thing"}, "outputs": ["b"]}, "at character 0 of signature.inputs.a"),
        ({"inputs": {"a": "int int"}, "outputs": ["b"]}, 'expected the end of the type, got "int" at character 4'),
        ({"inputs": {"a": b"\xff"}, "outputs": ["b"]}, "expected UTF-8 text at signature.inputs.a"),
        ({"inputs": {"a b": "int"}, "outputs": ["c"]}, 'field name "a b" is no identifier at signature.inputs'),
        ({"inputs": [{"type": "int"}], "outputs": ["c"]}, "a field without a name at signature.inputs[0]"),
        ({"inputs": {"a": {"desc": 4}}, "outputs": ["c"]}, "expected a string at signature.inputs.a.desc, got 4"),
        (
            {"inputs": "a b", "outputs": "c"},
            'expected "," or the end of the text, got "b" at character 2 of signature.inputs',
        ),
        ({"inputs": ["a"], "outputs": ["b"], "instructions": 5}, "expected a string at signature.instructions, got 5"),
        (
            {"inputs": {f"f{i}": "int" for i in range(101)}, "outputs": ["b"]},
            "expected at most 100 fields at signature.inputs",
        ),
    ],
)
def test_malformed_source_is_an_error_with_its_path(source: Any, message: str) -> None:
    assert message in refused(source).message


def test_instructions_are_text_and_given_once() -> None:
    both = {"inputs": ["a"], "outputs": ["b"], "instructions": "x"}
    assert parse_signature(both, instructions="x").instructions == "x"
    assert "given twice" in refused(both, instructions="y").message
    assert refused("a -> b", instructions=7).message == "expected a string at instructions, got 7"
    assert "not UTF-8" in refused("a -> b", instructions=b"\xff").message
    assert parse_signature("a -> b", instructions="  ").instructions is None


# For each of these DSPy's own parser would import a module, look up a name, drop a field, or fail late.
HOSTILE = [
    "",
    "   ",
    "->",
    "question",
    "question ->",
    "-> answer",
    "a -> b -> c",
    "a ->-> b",
    "a => b",
    "a, -> b",
    ", a -> b",
    "a,, b -> c",
    "a -> b,",
    "a b -> c",
    "a: -> b",
    "a:: int -> b",
    "q: antigravity -> a",
    "q -> a: this",
    "q: evil_side_effect -> a",
    "q: os.PathLike -> a",
    "q: os.system -> a",
    "q: subprocess.Popen -> a",
    "q: sys.modules -> a",
    "q: __import__ -> a",
    "q: __import__('os').system('true') -> a",
    "q: secret -> a",
    "q: request -> a",
    "q: list.__class__ -> a",
    "q: str.__subclasses__ -> a",
    "q: dspy.settings -> a",
    "q: dspy.Tool.func -> a",
    "q: Cls['x'] -> a",
    "q: dict['x'] -> a",
    "q: (lambda: 1) -> a",
    "q: [int] -> a",
    "q: f'{1}' -> a",
    "q: `int` -> a",
    "q: int = 3 -> a",
    "x=1 -> y",
    "*args -> y",
    "**kwargs -> y",
    "x, *, y -> z",
    "x, /, y -> z",
    "x): pass\nimport os\ndef g(y -> z",
    "x): pass -> z",
    "x; import os -> y",
    "a -> b # comment",
    "a\\\n -> b",
    "a, a -> b",
    "a -> a",
    "1a -> b",
    "class -> b",
    "None -> b",
    "_a -> b",
    "__class__ -> b",
    "a.b -> c",
    "$meta -> b",
    "ﬁeld -> b",  # the ligature: Python reads it as "field"
    "a\u200b -> b",
    "a -> b\x00",
    "q: 'int' -> a",
    "q: int" + "[int" * 10_000 + "]" * 10_000 + " -> a",
    "q: " + "list[" * 5_000 + "int" + "]" * 5_000 + " -> a",
    "q: " + "(" * 10_000 + " -> a",
    "q: " + "x." * 10_000 + "x -> a",
    "x" * 101 + " -> a",
    "x" * 60_000 + " -> a",
    "q: " + "x" * 60_000 + " -> a",
    "q: Literal['" + "\\" * 30_001 + "'] -> a",
    ",".join(f"f{i}" for i in range(MAX_FIELDS)) + " -> a",
    "a -> " + "b" * MAX_SIGNATURE_CHARACTERS,
    "a: Annotated[int, 1] -> b",
    "a: Callable[[int], str] -> b",
    "a: Type[int] -> b",
    "a: bytes -> b",
    "a: type -> b",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_refused_and_imports_nothing(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    """DSPy's own parser imports modules and looks up local variables, such as the two below."""
    secret, request = "hunter2", dict  # noqa: F841
    before = set(sys.modules)
    error = refused(text)
    assert set(sys.modules) == before
    assert secret not in error.message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("source", [[0xD800, 45, 62, 97], "a\ud800 -> b", {"inputs": ["\ud800"], "outputs": ["b"]}])
def test_lone_surrogate_is_not_text(source: Any) -> None:
    refused(source)


def test_error_says_position_and_remedy() -> None:
    assert refused("x=1 -> y").message == (
        'expected "," or "->", got "=" at character 1 of signature; a default stands with the type: k: int(default=3)'
    )
    assert 'a signature has exactly one "->"' in refused("a -> b -> c").message
    assert refused("a -> b, a").message == 'field "a" stands among the inputs and among the outputs'
    assert refused("a -> b, a").facts["path"] == "signature.outputs.a"
    assert refused("a, a -> b").message == 'field "a" stands twice among the inputs'


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"question {arrow} answer"
            for arrow in ("-", "=>", "→", "⇒", "—", "-->", ">", "<-", "~>", "|>", "=", ":", ",", "")
        ),
        "question",
        "question: str = answer: int",
        "question: int, answer: float(ge=0)",
        "",
    ],
)
def test_signature_without_an_arrow_is_an_error_that_names_it(text: str) -> None:
    """`question = answer` was told how a default is written, and `question: answer` that the type is unknown."""
    message = refused(text).message
    assert 'of signature; between the inputs and the outputs of a signature stands "->"' in message
    assert "default" not in message


def test_a_character_after_the_arrow_is_not_called_an_arrow() -> None:
    assert refused("a -> b: str(pattern=[a-z])").message.endswith(
        'unexpected character "-" at character 22 of signature'
    )


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("a? -> b", '; a field that may be left out has a type such as "str | None"'),
        ("a; b -> c", '; a comma separates fields: "context, question -> answer"'),
    ],
)
def test_characters_of_other_languages_have_their_meaning_here(text: str, remedy: str) -> None:
    assert refused(text).message.endswith(f"of signature{remedy}")


@pytest.mark.parametrize("name", [*sorted(RESERVED_NAMES), "model_config", "model_fields", "model_x"])
def test_reserved_name_is_refused(name: str) -> None:
    assert refused(f"a -> {name}").message == f'field name "{name}" is reserved by DSPy; choose another name'
    assert refused({"inputs": [name], "outputs": ["a"]}).facts["path"] == f"signature.inputs.{name}"


def test_prediction_is_an_output_only() -> None:
    assert parse_signature("features -> prediction").text == "features: str -> prediction: str"
    assert "is reserved by DSPy" in refused("prediction -> features").message


def test_module_reserves_further_names() -> None:
    assert parse_signature("question -> reasoning").outputs[0].name == "reasoning"
    reserved = Reserved(fields={"trajectory": "dspy.ReAct"}, inputs={"reasoning": "dspy.ReAct"})
    for signature in ("trajectory -> answer", "question -> trajectory", "reasoning -> answer"):
        name = "reasoning" if "reasoning" in signature else "trajectory"
        message = f'field name "{name}" is reserved by dspy.ReAct; choose another name'
        assert refused(signature, reserved=reserved).message == message
    assert parse_signature("question -> reasoning", reserved=reserved).text == "question: str -> reasoning: str"


def _names_that_dspy_uses() -> list[str]:
    names = set(RESERVED_NAMES | RESERVED_INPUT_NAMES)
    for cls in (dspy.Signature, type(dspy.Signature), dspy.Prediction, dspy.Example, dspy.Predict, dict):
        names.update(dir(cls))
    for function in (
        dspy.Predict.__init__,
        dspy.Predict._forward_preprocess,
        dspy.Predict._forward_postprocess,
        dspy.ChainOfThought.__init__,
        dspy.Example.__init__,
        dspy.Signature.insert,
        dspy.ChatAdapter.__call__,
        dspy.ChatAdapter.format,
    ):
        names.update(inspect.signature(inspect.unwrap(function)).parameters)
    return sorted(name for name in names if not name.startswith("_"))


@shadowing
@pytest.mark.parametrize("name", _names_that_dspy_uses())
@pytest.mark.parametrize("side", ["input", "output"])
def test_name_that_dspy_uses_is_refused_or_works(name: str, side: str) -> None:
    """``instance``, ``completions``, ``input_fields`` and others once broke inside DSPy, some of them silently."""
    text = f"other_input, {name} -> other_output" if side == "input" else f"other_input -> other_output, {name}"
    try:
        spec = parse_signature(text)
    except OperationError as error:
        if name in RESERVED_NAMES or name.startswith("model_") or keyword.iskeyword(name):
            return
        if side == "input" and name in RESERVED_INPUT_NAMES:
            return
        raise error
    outputs = {field.name: f"value of {field.name}" for field in spec.outputs}
    inputs = {field.name: f"input for {field.name}" for field in spec.inputs}
    for module_class, extra in ((dspy.Predict, {}), (dspy.ChainOfThought, {"reasoning": "because"})):
        module = module_class(build_signature(spec))
        lm = DummyLM([outputs | extra, outputs | extra])
        with dspy.context(lm=lm, trace=[]):
            predictions = [module(**inputs), asyncio.run(module.acall(**inputs))]
        for prediction in predictions:
            assert {key: prediction[key] for key in outputs} == outputs
        prompt = lm.history[-1]["messages"][-1]["content"]
        assert all(value in prompt for value in inputs.values())


ORDINARY = [
    "question -> answer",
    "context, question -> answer",
    "question: str, k: int -> answer: list[str], score: float",
    "text -> label: Literal['positive', 'negative'], sure: bool",
    "data: dict[str, list[int]] -> total: int | None, parts: tuple[int, str]",
    "image: dspy.Image, history: dspy.History -> caption: Optional[str], calls: dspy.ToolCalls",
    "value: Union[int, str] -> anything: Any",
]


@pytest.mark.parametrize("text", ORDINARY)
@pytest.mark.parametrize("instructions", [None, "Do it well."])
def test_built_class_is_what_dspy_builds(text: str, instructions: str | None) -> None:
    ours = build_signature(parse_signature(text, instructions=instructions))
    theirs = dspy.Signature(text, instructions)

    def described(signature: Any) -> list[Any]:
        extras = ({**field.json_schema_extra} for field in signature.fields.values())
        # DSPy notes whether a type was written, to accept wrong values silently; here no wrong value gets so far.
        return [{key: item for key, item in extra.items() if key != "IS_TYPE_UNDEFINED"} for extra in extras]

    assert ours.instructions == theirs.instructions
    assert list(ours.fields) == list(theirs.fields)
    assert {name: field.annotation for name, field in ours.fields.items()} == {
        name: field.annotation for name, field in theirs.fields.items()
    }
    assert described(ours) == described(theirs)
    assert dspy.ChatAdapter().format_system_message(ours) == dspy.ChatAdapter().format_system_message(theirs)


def test_equal_signatures_share_one_class() -> None:
    one = build_signature(parse_signature("q, c: Code['python'], l: Literal['a'] -> a"))
    assert (
        build_signature(parse_signature({"inputs": 'q:str,c:dspy.Code["python"], l:Literal["a"]', "outputs": "a"}))
        is one
    )
    assert build_signature(parse_signature("q, c: Code['java'], l: Literal['a'] -> a")) is not one


def test_literal_one_and_true_are_different_signatures() -> None:
    """``1 == True`` in Python: a cache must not mix them up."""
    classes = [build_signature(parse_signature(f"q -> a: Literal[{choice}]")) for choice in ("1", "True")]
    assert [cls.fields["a"].annotation for cls in classes] == [Literal[1], Literal[True]]


def test_field_named_like_a_method_does_not_warn() -> None:
    code = (
        "import dspy; from erlport_bridge.programs.signatures import *; "
        "dspy.ChainOfThought(build_signature(parse_signature('schema, json -> copy')))"
    )
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, check=False)
    assert done.stderr == b""
    assert done.returncode == 0


_NAMES = st.from_regex(r"[a-zé][a-z0-9_é]{0,8}", fullmatch=True)
_TYPES = st.sampled_from(
    ["str", "int", "list[str]", 'Literal["a, b", "->", "\\"", 1]', "dict[str, int | None]", "dspy.File"]
)


@given(st.lists(st.tuples(_NAMES, _TYPES), min_size=2, max_size=8, unique_by=lambda pair: pair[0]), st.data())
def test_canonical_text_parses_to_the_same_signature(fields: list[tuple[str, str]], data: st.DataObject) -> None:
    split = data.draw(st.integers(1, len(fields) - 1))
    sides = {"inputs": dict(fields[:split]), "outputs": dict(fields[split:])}
    try:
        spec = parse_signature(sides)
    except OperationError as error:
        assert "keyword" in error.message or "reserved" in error.message or "NFKC" in error.message  # noqa: PT017
        return
    assert parse_signature(spec.text) == spec
    assert parse_signature(spec.text).text == spec.text


@given(st.text(max_size=60) | st.text(alphabet="ab:,->[]|\"' .=*/int", max_size=60))
def test_any_text_gives_a_signature_or_a_signature_error(text: str) -> None:
    try:
        spec = parse_signature(text)
    except OperationError:
        return
    assert parse_signature(spec.text) == spec
