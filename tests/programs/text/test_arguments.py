"""Arguments are read as Elixir and Erlang callers write them."""

from __future__ import annotations

from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.text import arguments
from erlport_bridge.term import Atom


@pytest.mark.parametrize("value", ["name", Atom("name"), [110, 97, 109, 101]])
def test_text_is_a_binary_an_atom_or_a_charlist(value: object) -> None:
    found = arguments.text(value, "module")
    assert (found, type(found)) == ("name", str)


@pytest.mark.parametrize("value", ["", [], None, 7, b"\xff", ["name"], {"name": 1}])
def test_other_terms_are_not_text(value: object) -> None:
    with pytest.raises(OperationError, match=r"at opts\.x"):
        arguments.text(value, "opts.x")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, {}),
        ([], {}),
        ({Atom("a"): 1, "b": 2}, {"a": 1, "b": 2}),
        ([(Atom("a"), 1), (Atom("b"), 2)], {"a": 1, "b": 2}),
    ],
)
def test_options_are_a_map_or_a_keyword_list(value: object, expected: dict[str, Any]) -> None:
    assert arguments.options(value, "opts") == expected


@pytest.mark.parametrize("value", [7, "text", [1], [("a", 1, 2)], {1: 2}, [(1, 2)]])
def test_other_terms_are_not_options(value: object) -> None:
    with pytest.raises(OperationError) as caught:
        arguments.options(value, "opts")
    assert (caught.value.kind, caught.value.facts["path"]) == ("input", "opts")


@pytest.mark.parametrize(
    "value", ["sk-secret", [["api_key", "sk-secret"]], ("sk-secret",), [("sk-secret", 1, 2)], [(("sk-secret",), 1)]]
)
def test_options_may_hold_a_key_and_are_not_shown(value: object) -> None:
    with pytest.raises(OperationError) as caught:
        arguments.options(value, "config")
    assert "sk-secret" not in caught.value.message


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 1), (2**32 - 1, 2**32 - 1), (None, None), (Atom("infinity"), None)]
)
def test_timeout_is_milliseconds_or_none(value: object, expected: int | None) -> None:
    assert arguments.timeout_ms(value) == expected


@pytest.mark.parametrize("value", [0, -1, 2**32, 10**400, 1.5, True, "1"])
def test_other_terms_are_not_a_timeout(value: object) -> None:
    with pytest.raises(OperationError, match=r"milliseconds.* at opts\.timeout"):
        arguments.timeout_ms(value)


def test_unknown_name_is_reported_with_the_nearest() -> None:
    with pytest.raises(OperationError, match=r'unknown option "mdel" at config \(did you mean "model"') as caught:
        arguments.only({"mdel": 1}, ["model", "api_key"], "option", "config")
    assert caught.value.facts["path"] == "config.mdel"
