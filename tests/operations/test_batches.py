"""A batch answers a list, one result for each item, also if its time ends before its items are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from erlport_bridge.term import Atom
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess
from tests.term.test_ordering import seeded, shuffled

TEXT = "question -> answer"
LARGE = "x" * 70_000
# What takes longer to read than the batch has time.
ITEMS: dict[str, list[Any]] = {
    "many items": [{"question": "x"}] * 10_000,
    "large items": [{"question": LARGE}] * 20,
    "items of many parts": [{"question": [[number, "b"] for number in range(20_000)]}] * 3,
    "items that are no maps": [[{"a": 1}] * 100] * 1_000,
}


def _program(port: PortProcess) -> str:
    id_: str = port.done("create_program", {"signature": "question: Any -> answer"})["id"]
    return id_


# Name -> the operation with its arguments, of a program, items and options.
_OPERATIONS: dict[str, Callable[[str, list[Any], dict[str, Any]], list[Any]]] = {
    "execute_batch": lambda _, items, opts: ["dspy.Predict", "question: Any -> answer", items, opts],
    "execute_program_batch": lambda program, items, opts: [None, program, items, opts],
    "evaluate_program": lambda program, items, opts: [
        *(None, program, [{"question": item, "answer": "x"} for item in items]),
        {"metric": "exact_match", **opts},
    ],
}


@pytest.mark.parametrize("items", ITEMS)
@pytest.mark.parametrize("operation", _OPERATIONS)
def test_time_that_ends_while_items_are_read_is_the_error_of_each_item(
    port: PortProcess, operation: str, items: str
) -> None:
    """The whole batch was one error, and the results of items that could have been answered were lost."""
    port.done("configure_lm", Atom("embedded"), {})
    arguments = _OPERATIONS[operation](_program(port), ITEMS[items], {"timeout": 1})
    answer = port.done(operation, *arguments)
    results = answer["results"] if operation == "evaluate_program" else answer
    assert len(results) == len(ITEMS[items])
    assert results[-1][0] == "error"
    assert results[-1][1][1]["kind"] == "timeout"
    assert results[-1][1][1]["stage"] == "queue"


@pytest.mark.parametrize("question", ["x", LARGE])
def test_the_time_of_an_item_begins_with_the_item(port: PortProcess, model_server: ModelServer, question: str) -> None:
    """It began with the batch: items behind one that took its time had none left."""
    slow, quick = {"fields": {"answer": "late"}, "delay_ms": 10_000}, {"fields": {"answer": "in time"}}
    model_server.script("items", slow, quick)
    opts = {"lm": openai(model_server, "scripted:items"), "item_timeout": 3_000, "max_concurrency": 1}
    late, done = port.done("execute_batch", "dspy.Predict", TEXT, [{"question": question}] * 2, opts)
    assert late[1][1]["kind"] == "timeout"
    assert done[0] == "ok", done[1][1]["message"]
    assert done[1]["answer"] == "in time"


def test_keys_of_each_item_are_sorted(port: PortProcess, model_server: ModelServer) -> None:
    item = {"question": {"z": {"b": 1, "a": 2}, "c": [{"y": 1, "x": 2}], "m": 0}}
    items = [shuffled(item, seeded(seed)) for seed in range(8)]
    opts = {"lm": openai(model_server, "answer")}
    port.done("execute_batch", "dspy.Predict", "question: Any -> answer", items, opts)
    assert len({str(request.body["messages"]) for request in model_server.requests}) == 1
