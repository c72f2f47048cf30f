"""An API key may be a function of Elixir, which each request calls."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.port import elixir
from erlport_bridge.port.protocol import ElixirAnswer
from erlport_bridge.programs.models.api_keys import KeyFunction, key_function
from erlport_bridge.programs.models.configuration import language_model

HOST = "http://127.0.0.1:9"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[ElixirAnswer]:
    """Answer calls of Elixir functions with these, in order; the ids are those of the calls."""
    waiting: list[Any] = []

    def send(call: Any) -> None:
        value, failed = waiting.pop(0)
        assert (call.module, call.function, call.arguments) == (
            "Elixir.DSPex.Python.Callbacks",
            "call",
            ["f1", {}],
        )
        elixir.answered(ElixirAnswer(call.id, value, failed))

    monkeypatch.setattr(elixir, "_send", send)
    return waiting


@pytest.mark.parametrize("value", [None, "key", 1, ["key"]])
def test_key_that_is_not_a_function(value: object) -> None:
    assert key_function(value, "config", "openai/m") is None


def test_function_without_an_id_is_refused() -> None:
    with pytest.raises(OperationError, match=r"config\.api_key\.callback"):
        key_function({}, "config", "openai/m")


@pytest.mark.parametrize("way", ["task", "thread"])
def test_key_is_read_anew_each_time(answers: list[Any], way: str) -> None:
    function = KeyFunction("f1", "config.api_key", "openai/m")
    answers += [("first-key", False), ("second-key", False)]
    read = function.read_sync if way == "thread" else lambda: asyncio.run(function.read())
    assert [read(), read()] == ["first-key", "second-key"]


@pytest.mark.parametrize("way", ["task", "thread"])
@pytest.mark.parametrize(
    ("answer", "failed", "part"),
    [("it is sealed", True, "it is sealed"), (None, False, "printable ASCII"), ("sk-secret\n", False, "printable")],
)
def test_failure_is_of_kind_auth_and_shows_no_value(
    answers: list[Any], way: str, answer: Any, failed: bool, part: str
) -> None:
    function = KeyFunction("f1", "config.api_key", "openai/m")
    answers.append((answer, failed))
    with pytest.raises(dspy.LMAuthError, match="gave no API key") as caught:
        function.read_sync() if way == "thread" else asyncio.run(function.read())
    assert part in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_model_has_the_connections_limit_and_cache_of_its_current_key(answers: list[Any]) -> None:
    config = {"model": "m", "api_base": HOST, "requests_per_minute": 5, "cache": True, "temperature": 0.5}
    model = language_model("openai", {**config, "api_key": {"callback": "f1"}})
    assert "f1" not in repr(model)
    answers += [("first-key", False), ("second-key", False)]
    for key in ("first-key", "second-key"):
        keyed = asyncio.run(model.lm._with_current_key())
        configured = language_model("openai", {**config, "api_key": key}).lm
        assert keyed.kwargs == configured.kwargs
        assert keyed.limit is configured.limit
        assert keyed.partition == configured.partition
        assert keyed._engine_store is configured._engine_store
    assert "api_key" not in model.lm.kwargs
