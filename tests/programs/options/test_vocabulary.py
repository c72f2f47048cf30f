"""A vocabulary reads options, completes them with defaults, and describes them."""

from __future__ import annotations

from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.optimizing import optimizers
from erlport_bridge.optimizing.compiling import COMPILE_OPTIONS
from erlport_bridge.programs.execution import BATCH_OPTIONS, EVALUATION_OPTIONS, STREAM_OPTIONS
from erlport_bridge.programs.execution.call_options import PROGRAM_CALL_OPTIONS
from erlport_bridge.programs.models.configuration import MODEL_OPTIONS
from erlport_bridge.programs.modules.catalogue import ENTRIES
from erlport_bridge.programs.options import (
    BooleanOption,
    ChoiceOption,
    ExactNumberOption,
    IntegerOption,
    IntegersOption,
    NumberOption,
    Option,
    TextOption,
    TimeoutOption,
    Vocabulary,
)
from erlport_bridge.term import Atom, decode, encode

KNOWN = Vocabulary(
    IntegerOption(name="count", default=3, minimum=1, maximum=5, description="how many"),
    BooleanOption(name="quick", default=False, description="whether it is quick"),
    TextOption(name="label", description="a name"),
)
EVERY_OPTION: list[Option] = [
    *PROGRAM_CALL_OPTIONS.values(),
    *MODEL_OPTIONS.values(),
    *(BATCH_OPTIONS | EVALUATION_OPTIONS | STREAM_OPTIONS | COMPILE_OPTIONS).values(),
    *(option for entry in ENTRIES.values() for option in entry.options),
    *(option for entry in optimizers.ENTRIES.values() for option in entry.options),
]


def test_only_given_options_are_read() -> None:
    assert KNOWN.read({"count": 2, "other": 1}, "opts") == {"count": 2}


def test_nil_leaves_an_option_out() -> None:
    assert KNOWN.read({"count": None, "quick": None, "label": None}, "opts") == {}


def test_skipped_names_are_not_read() -> None:
    assert KNOWN.read({"count": "wrong", "label": "x"}, "opts", skip=["count"]) == {"label": "x"}


def test_options_left_out_have_their_defaults() -> None:
    assert KNOWN.with_defaults({"count": 2}) == {"count": 2, "quick": False, "label": None}


def test_all_options_are_read_from_a_keyword_list() -> None:
    assert KNOWN.read_all([(Atom("label"), Atom("x"))]) == {"count": 3, "quick": False, "label": "x"}


def test_unknown_option_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(OperationError, match=r'unknown option "cuont" at opts \(did you mean "count"') as caught:
        KNOWN.read_all({"cuont": 1})
    assert caught.value.facts["path"] == "opts.cuont"


def test_union_prefers_the_second_vocabulary() -> None:
    other = Vocabulary(TextOption(name="count", description="another"), TextOption(name="more", description="more"))
    both = KNOWN | other
    assert list(both) == ["count", "quick", "label", "more"]
    assert both["count"] is other["count"]
    assert list(both.without("count", "more")) == ["quick", "label"]


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        (IntegerOption(name="x", minimum=1, maximum=5, description=""), 6, "an integer from 1 to 5"),
        (IntegerOption(name="x", minimum=1, maximum=5, description=""), True, "an integer from 1 to 5"),
        (IntegerOption(name="x", minimum=1, maximum=5, expected="", description=""), 0, "1 to 5"),
        (IntegerOption(name="x", minimum=1, description=""), 0, "a positive integer"),
        (IntegerOption(name="x", description=""), 1.0, "an integer"),
        (NumberOption(name="x", description=""), "1", "a number"),
        (ExactNumberOption(name="x", description=""), True, "a number"),
        (BooleanOption(name="x", description=""), 1, "true or false"),
        (TextOption(name="x", description=""), "", "a string"),
        (TimeoutOption(name="x", description=""), 0, "milliseconds, from 1 to 4294967295,"),
        (IntegersOption(name="x", minimum=1, maximum=5, most=2, description=""), [1, 1], "a list of 1 to 2 integers"),
    ],
)
def test_wrong_value_is_reported_with_its_path(option: Option, value: object, expected: str) -> None:
    with pytest.raises(OperationError) as caught:
        option.read(value, "opts.x")
    assert caught.value.kind == "input"
    assert caught.value.message.startswith(f"expected {expected}")
    assert "opts.x" in caught.value.facts["path"]


def test_wrong_element_of_a_list_is_reported_with_its_index() -> None:
    with pytest.raises(OperationError, match=r"an integer from 1 to 5 at opts.x\[1\], got 6"):
        IntegersOption(name="x", minimum=1, maximum=5, most=3, description="").read([1, 6], "opts.x")


def test_unknown_choice_is_reported_with_the_choices() -> None:
    with pytest.raises(OperationError, match=r'unknown choice "lihgt" at opts\.x \(did you mean "light"'):
        ChoiceOption(name="x", choices=("light", "heavy"), description="").read("lihgt", "opts.x")


@pytest.mark.parametrize(("value", "read"), [(0, 0), (0.5, 0.5), (2, 2)])
def test_exact_number_keeps_its_type(value: float, read: float) -> None:
    found = ExactNumberOption(name="x", description="").read(value, "x")
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize("option", EVERY_OPTION, ids=lambda option: option.name)
def test_every_option_is_described_as_a_term(option: Option) -> None:
    described: dict[str, Any] = decode(encode(option.describe()))
    assert described["type"]
    assert described["description"], option.name
    assert not described["description"].endswith(".")


@pytest.mark.parametrize("option", EVERY_OPTION, ids=lambda option: option.name)
def test_every_default_is_a_value_of_its_option(option: Option) -> None:
    if option.default is not None:
        assert option.read(option.default, option.name) == option.default
