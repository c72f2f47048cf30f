"""Generated types: a right value in each of 20 renderings is read, a wrong value is refused with its path.

``GENERATED_TYPES=3000 python -m pytest tests/programs/values/test_generated_answers.py`` tries more types. A failure
names its seed, which ``GENERATED_FROM`` repeats.
"""

from __future__ import annotations

import copy
import datetime
import json
import os
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import dspy
import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.execution.output_checks import check_outputs
from erlport_bridge.programs.models.adapters import read_adapter
from erlport_bridge.programs.signatures import build_signature, parse_signature
from erlport_bridge.programs.values import plain, problem_of

COUNT = int(os.environ.get("GENERATED_TYPES", "300"))
FIRST = int(os.environ.get("GENERATED_FROM", "0"))
BLOCK = 25
_ADAPTERS = {name: read_adapter(name).build() for name in ("chat", "json", "xml")}

# Texts that look like values of other types, where a member of a union or `Any` could take them for such.
TEXTS = [
    "see [a] or {b}",
    "[todo] call Bo",
    "{a} and {b}",
    "null and void",
    "7 apples",
    "AT&T <b>",
    'say "yes"',
    "ünïcode 🎉",
    "True story",
]
# Texts that are values of other types, where JSON tells them apart.
NESTED_TEXTS = [*TEXTS, "42", "null", "true", "2024-01-01", "", "[1]", '{"a": 1}', "two\nlines", "back\\slash", "1.50"]


class Wrong(NamedTuple):
    """A value that does not fit, in JSON, and the path of its place below the field."""

    value: Any
    path: str


class Kind(NamedTuple):
    """A generated type.

    Attributes:
        text: The type.
        value: A value as it is to be read.
        written: The value in JSON.
        wrong: Values that do not fit, each in the place of ``written``.
        shape: The kind of JSON, by which members of a union are told apart.
    """

    text: str
    value: Any
    written: Any
    wrong: list[Wrong]
    shape: str


class Number(str):
    """A number with digits that a float does not hold, for JSON."""


def kind(random_: random.Random, depth: int = 0) -> Kind:
    makers: list[Callable[[random.Random, int], Kind]] = [*SCALARS]
    if depth < 3:
        makers += [*CONTAINERS, *CONTAINERS]
    return random_.choice(makers)(random_, depth)


def at(*values: Any) -> list[Wrong]:
    return [Wrong(value, "") for value in values]


def text_kind(random_: random.Random, depth: int) -> Kind:
    value = random_.choice(NESTED_TEXTS if depth else TEXTS)
    if random_.random() < 0.3:
        return Kind("str(max_length=40)", value, value, at(None, True, ["a"], "x" * 41), "text")
    return Kind("str", value, value, at(None, False, ["a"], {"a": "b"}), "text")


def integer_kind(random_: random.Random, _depth: int) -> Kind:
    value = random_.choice([0, 7, -3, 10**18, 10**30])
    if random_.random() < 0.3:
        return Kind("int(ge=-5)", value, value, at(-6, "seven", True), "integer")
    return Kind("int", value, value, at("seven", True, 7.5, None, [7], "", "1,234"), "integer")


def float_kind(random_: random.Random, _depth: int) -> Kind:
    value = random_.choice([0.5, -1e300, 2.25])
    return Kind("float", value, value, at("much", False, None, [0.5]), "float")


def boolean_kind(random_: random.Random, _depth: int) -> Kind:
    value = random_.random() < 0.5
    return Kind("bool", value, value, at(1, 0, "maybe", None, 1.0), "boolean")


def decimal_kind(random_: random.Random, _depth: int) -> Kind:
    text = random_.choice(["1.10", "-0.50", "12345678901234567890.12345678901234567890", "7"])
    return Kind("Decimal", Decimal(text), Number(text), at("much", True, None), "decimal")


def date_kind(random_: random.Random, _depth: int) -> Kind:
    value = random_.choice([datetime.date(2024, 2, 29), datetime.date(1, 1, 1)])
    return Kind("date", value, value.isoformat(), at(1999, "tomorrow", "1999", None, True, "2023-02-29"), "text")


def time_kind(random_: random.Random, _depth: int) -> Kind:
    value = random_.choice([datetime.time(23, 59, 58, 1), datetime.time(0)])
    return Kind("time", value, value.isoformat(), at(3600, "noon", "12:00:00+02:00", None), "text")


def moment_kind(random_: random.Random, _depth: int) -> Kind:
    value = random_.choice([datetime.datetime(2024, 2, 29, 1, 2, 3), datetime.datetime(2024, 1, 1)])
    return Kind("datetime", value, value.isoformat(), at(1700000000, "1.5", "soon", None), "text")


def choice_kind(random_: random.Random, _depth: int) -> Kind:
    choices: list[Any] = random_.choice(
        [["yes", "no"], ["true", "false", "null"], [1, 2, 3], ["a b", "c|d", "[e]"], ["1", 2]]
    )
    value = random_.choice(choices)
    text = f"Literal[{', '.join(json.dumps(choice) for choice in choices)}]"
    return Kind(text, value, value, at("other", 77, None, [], 1.5), "text" if isinstance(value, str) else "integer")


def any_kind(random_: random.Random, depth: int) -> Kind:
    nested: list[Any] = [1, 2.5, None, True, {"a": ["b", {"c": None}]}, [], {}]
    value = random_.choice([*nested, random_.choice(NESTED_TEXTS if depth else TEXTS)])
    return Kind("Any", value, value, [], "any")


def list_kind(random_: random.Random, depth: int) -> Kind:
    item = kind(random_, depth + 1)
    count = random_.randrange(3)
    wrong = [Wrong([item.written, one.value], f"[1]{one.path}") for one in item.wrong[:3]]
    values = [copy.deepcopy(item.value) for _ in range(count)]
    return Kind(f"list[{item.text}]", values, [item.written] * count, [*wrong, *at(7, {"a": 1}, True)], "list")


def set_kind(random_: random.Random, depth: int) -> Kind:
    item = random_.choice([text_kind, integer_kind, date_kind, decimal_kind])(random_, depth + 1)
    wrong = [Wrong([one.value], f"[0]{one.path}") for one in item.wrong[:3]]
    return Kind(f"set[{item.text}]", {item.value}, [item.written], [*wrong, *at(7, {"a": 1})], "list")


def tuple_kind(random_: random.Random, depth: int) -> Kind:
    first, second = kind(random_, depth + 1), kind(random_, depth + 1)
    wrong = [Wrong([first.written, one.value], f"[1]{one.path}") for one in second.wrong[:3]]
    text = f"tuple[{first.text}, {second.text}]"
    return Kind(text, (first.value, second.value), [first.written, second.written], [*wrong, *at([], 7)], "list")


def map_kind(random_: random.Random, depth: int) -> Kind:
    item = kind(random_, depth + 1)
    key_type, key, written = random_.choice(
        [
            ("str", "a b", "a b"),
            ("str", "42", "42"),
            ("int", 42, "42"),
            ("date", datetime.date(2024, 1, 1), "2024-01-01"),
        ]
    )
    wrong = [Wrong({written: one.value}, f'["{written}"]{one.path}') for one in item.wrong[:3]]
    return Kind(
        f"dict[{key_type}, {item.text}]", {key: item.value}, {written: item.written}, [*wrong, *at([1], 7, True)], "map"
    )


def object_kind(random_: random.Random, depth: int) -> Kind:
    members = {
        name: kind(random_, depth + 1)
        for name in random_.sample(["name", "size", "parts", "home"], random_.randint(1, 3))
    }
    name, member = next(iter(members.items()))
    written = {key: one.written for key, one in members.items()}
    wrong = [Wrong({**written, name: one.value}, f".{name}{one.path}") for one in member.wrong[:3]]
    value: dict[str, Any] = {key: one.value for key, one in members.items()}
    texts = [f"{key}: {one.text}" for key, one in members.items()]
    if random_.random() < 0.5:
        texts.append("extra: int | None")
        value["extra"] = None
    if random_.random() < 0.3:
        texts.append("unit: str(default='mm')")
        value["unit"] = "mm"
    if member.text != "Any" and not takes_nil(member):
        wrong.append(Wrong({key: one for key, one in written.items() if key != name}, ""))
    return Kind(f"{{{', '.join(texts)}}}", value, written, [*wrong, *at([1], 7)], "map")


def takes_nil(one: Kind) -> bool:
    return "None" in one.text.split(" | ")


def optional_kind(random_: random.Random, depth: int) -> Kind:
    item = kind(random_, depth)
    # In a section, `null` is a choice of that name rather than nil.
    if item.text == "Any" or " | " in item.text or '"null"' in item.text:
        return item
    wrong = [one for one in item.wrong if one.value is not None and one.value != ""]
    if random_.random() < 0.4:
        return Kind(f"{item.text} | None", None, None, wrong, "nil")
    return Kind(f"{item.text} | None", item.value, item.written, wrong, item.shape)


def union_kind(random_: random.Random, depth: int) -> Kind:
    makers = [text_kind, random_.choice([integer_kind, float_kind]), boolean_kind]
    makers += [random_.choice([list_kind, tuple_kind]), random_.choice([map_kind, object_kind])] if depth < 2 else []
    members = [make(random_, depth + 1 if depth else 0) for make in random_.sample(makers, 2)]
    value = random_.choice(members)
    return Kind(" | ".join(member.text for member in members), value.value, value.written, [], value.shape)


SCALARS: list[Callable[[random.Random, int], Kind]] = [
    *(text_kind, integer_kind, float_kind, boolean_kind, decimal_kind, date_kind, time_kind, moment_kind, choice_kind),
    any_kind,
]
CONTAINERS = [list_kind, set_kind, tuple_kind, map_kind, object_kind, optional_kind, union_kind]


# --- Renderings


def in_json(value: Any, **options: Any) -> str:
    numbers: dict[str, str] = {}

    def marked(item: Any) -> Any:
        if isinstance(item, Number):
            mark = f"@number{len(numbers)}@"
            numbers[f'"{mark}"'] = str(item)
            return mark
        if isinstance(item, dict):
            return {key: marked(one) for key, one in item.items()}
        return [marked(one) for one in item] if isinstance(item, list) else item

    text = json.dumps(marked(value), ensure_ascii=options.pop("ensure_ascii", False), **options)
    for mark, digits in numbers.items():
        text = text.replace(mark, digits)
    return text


def in_python(value: Any) -> str:
    """Return a value as Python writes it; a ``Decimal`` would lose digits, so such values are written as JSON."""
    return in_json(value) if any(isinstance(one, Number) for one in leaves(value)) else repr(value)


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from leaves(one)
    else:
        yield value


def section(text: str) -> str:
    return f"[[ ## v ## ]]\n{text}\n\n[[ ## completed ## ]]"


def fenced(text: str, language: str = "json") -> str:
    return f"```{language}\n{text}\n```"


def renderings(one: Kind) -> list[tuple[str, str, str]]:
    """Return 20 answers: a name, the adapter that reads it, and the text."""
    is_text = isinstance(one.written, str) and not isinstance(one.written, Number)
    is_container = isinstance(one.written, dict | list)
    compact, pretty = in_json(one.written), in_json(one.written, indent=2)
    plain_text = str(one.written) if is_text else compact
    # A text is a text: it stands in a section as it is. In a block, or in prose, it would be another text.
    block = plain_text if is_text else fenced(pretty)
    whole = in_json({"v": one.written})
    return [
        ("chat", "chat", section(plain_text)),
        ("chat, pretty", "chat", section(plain_text if is_text else pretty)),
        ("chat, Python", "chat", section(plain_text if is_text else in_python(one.written))),
        ("chat, ASCII", "chat", section(plain_text if is_text else in_json(one.written, ensure_ascii=True))),
        ("chat, block", "chat", section(block)),
        ("chat, block without language", "chat", section(plain_text if is_text else fenced(compact, ""))),
        ("chat, Python block", "chat", section(plain_text if is_text else fenced(in_python(one.written), "py"))),
        ("chat, prose around", "chat", f"Sure, here it is.\n\n{section(plain_text)}\n\nAnything else?"),
        ("chat, no end", "chat", f"[[ ## v ## ]]\n{plain_text}"),
        (
            "chat, block in prose",
            "chat",
            section(f"Here you are:\n{block}\nAnything else?" if is_prose(one) else block),
        ),
        (
            "chat, value in prose",
            "chat",
            section(f"It is {compact}, I think." if is_prose(one) and is_container else plain_text),
        ),
        ("chat, another section", "chat", f"[[ ## thought ## ]]\nhm\n\n{section(plain_text)}"),
        ("json", "json", whole),
        ("json, pretty", "json", in_json({"v": one.written}, indent=2, ensure_ascii=True)),
        ("json, block", "json", fenced(whole)),
        ("json, block in prose", "json", f"Sure:\n\n{fenced(whole)}\n\nAnything else?"),
        ("json, in prose", "json", f"The object is {whole}, as asked."),
        ("json, wrapped", "json", f'{{"response": {whole}}}'),
        ("xml", "xml", f"<v>{escape(plain_text)}</v>"),
        ("xml, prose around", "xml", f"Sure: \n<v>\n{escape(plain_text)}\n</v>\nAnything else?"),
    ]


def is_prose(one: Kind) -> bool:
    """Return whether prose around a list or map is surely prose: no member of the type takes text."""
    return isinstance(one.written, dict | list) and not any(
        part.startswith(("str", "Any")) for part in top_members(one.text)
    )


def top_members(text: str) -> list[str]:
    depth, members, current = 0, [], ""
    for character in text:
        depth += (character in "[({") - (character in "])}")
        if character == "|" and depth == 0:
            members.append(current.strip())
            current = ""
        else:
            current += character
    return [*members, current.strip()]


def same(found: Any, expected: Any) -> bool:
    """Compare values and types at every depth: in Python ``True == 1 == 1.0``."""
    if type(found) is not type(expected):
        return False
    if isinstance(found, dict):
        return found.keys() == expected.keys() and all(
            type(key) is type(other) and same(found[key], expected[other])
            for key, other in zip(sorted(found, key=repr), sorted(expected, key=repr), strict=True)
        )
    if isinstance(found, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(found, set):
        return sorted(map(repr, found)) == sorted(map(repr, expected))
    return str(found) == str(expected)


def generated(seed: int) -> Kind:
    return kind(random.Random(seed))  # noqa: S311 - it makes test data


def signature_of(one: Kind) -> Any:
    return build_signature(parse_signature({"inputs": ["q"], "outputs": {"v": one.text}}))


BLOCKS = range(FIRST, FIRST + COUNT, BLOCK)


@pytest.mark.parametrize("first", BLOCKS)
def test_right_value_is_read_in_each_of_20_renderings(first: int) -> None:
    read = 0
    for seed in range(first, min(first + BLOCK, FIRST + COUNT)):
        one = generated(seed)
        signature = signature_of(one)
        for name, adapter, text in renderings(one):
            found = plain(_ADAPTERS[adapter].parse(signature, text))["v"]
            assert same(found, one.value), (seed, name, one.text, text, found, one.value)
            read += 1
    assert read == 20 * min(BLOCK, FIRST + COUNT - first)


def wrong_values() -> Iterator[tuple[int, Kind, Wrong]]:
    """Yield as many wrong values as there are types, each of another generated type."""
    found, seed = 0, FIRST
    while found < COUNT:
        one = generated(seed)
        if one.wrong:
            yield seed, one, random.Random(seed).choice(one.wrong)  # noqa: S311
            found += 1
        seed += 1


def test_wrong_value_is_refused_with_its_path() -> None:
    refused = 0
    for seed, one, wrong in wrong_values():
        text = in_json(wrong.value)
        for adapter, answer in (("json", f'{{"v": {text}}}'), ("chat", section(text))):
            if adapter == "chat" and wrong.path == "" and takes_any_text(one):
                continue
            sentence, path = problem_in(adapter, one, answer)
            assert path == f"outputs.v{wrong.path}", (seed, adapter, one.text, text, sentence)
            assert f" at {path}" in sentence
            refused += adapter == "json"
    assert refused == COUNT


def problem_in(adapter: str, one: Kind, answer: str) -> tuple[str, str]:
    """Return the sentence and the path of the error of an answer."""
    spec = parse_signature({"inputs": ["q"], "outputs": {"v": one.text}})
    try:
        found = _ADAPTERS[adapter].parse(build_signature(spec), answer)
        check_outputs(spec, found)
    except dspy.AdapterParseError as error:
        return problem_of(error)
    except OperationError as error:
        return error.message, error.facts["path"]
    raise AssertionError(f"{answer} was read as {found} for {one.text}")


def takes_any_text(one: Kind) -> bool:
    """Return whether the text of a section is the value whatever it says."""
    # `null` is a choice of that name.
    return any(part.startswith("str") or '"null"' in part for part in top_members(one.text))
