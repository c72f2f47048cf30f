"""Registered Python tools: their names, arguments, errors and threads."""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models.embedded.engine import embedded_model
from erlport_bridge.programs.tools.offered import available, find_tools, offer

LOGGED_IN = contextvars.ContextVar("LOGGED_IN", default="nobody")


def offered(function: Callable[..., Any]) -> dspy.Tool:
    """Register a function under a unique name, since the registry lives as long as the process."""
    name = f"tool_{uuid.uuid4().hex}"
    offer(function, name=name)
    return find_tools([name])[0]


def call(tool: dspy.Tool, **arguments: Any) -> Any:
    return asyncio.run(tool.acall(**arguments))


def refused(names: object) -> OperationError:
    with pytest.raises(OperationError) as caught:
        find_tools(names)
    assert caught.value.kind == "tool"
    return caught.value


def test_offered_tools_have_descriptions() -> None:
    descriptions = available()
    assert {"calculator", "search_text", "today"} <= descriptions.keys()
    assert all(descriptions[name] for name in ("calculator", "search_text", "today"))


def test_built_in_tools_answer() -> None:
    calculator, search_text, today = find_tools(["calculator", "search_text", "today"])
    assert call(calculator, expression="(3 + 4) * 2") == 14
    assert call(search_text, text="Cats purr. Dogs bark.", query="dog") == "Dogs bark."
    assert call(search_text, text="Cats purr.", query="dog") == "No sentence shares a word with the query."
    before = datetime.datetime.now(datetime.timezone.utc).date()
    assert before <= datetime.date.fromisoformat(call(today)) <= datetime.datetime.now(datetime.timezone.utc).date()


@pytest.mark.parametrize(
    ("names", "path", "message"),
    [
        (["today", "calculater"], "tools[1]", 'unknown tool "calculater" at tools[1] (did you mean "calculator"?)'),
        (["finish"], "tools[0]", 'the tool "finish" at tools[0] is part of ReAct; leave it out'),
        (["today", "today"], "tools[1]", 'the tool "today" is given twice, again at tools[1]'),
        ([3], "tools[0]", "expected the name of a tool at tools[0], got 3"),
        ("today", "tools", 'expected a list of names of tools at tools, got "today"'),
    ],
)
def test_wrong_name_is_refused_with_its_path(names: object, path: str, message: str) -> None:
    error = refused(names)
    assert error.message == message
    assert error.facts["path"] == path


def test_unknown_name_without_a_near_one_lists_the_registered_tools() -> None:
    assert "calculator" in refused(["zzz"]).message


@pytest.mark.parametrize("name", ["finish", "today", "a-b", "", "1a", "x" * 65])
def test_name_that_cannot_be_offered_is_refused(name: str) -> None:
    with pytest.raises(OperationError) as caught:
        offer(lambda: 1, name=name)
    assert caught.value.kind == "tool"


def test_function_whose_arguments_have_no_names_is_refused() -> None:
    with pytest.raises(OperationError, match="only named arguments"):
        offer(lambda *values: values, name="variadic")


def test_decorator_returns_the_function() -> None:
    @offer(name=f"tool_{uuid.uuid4().hex}")
    def double(n: int) -> int:
        return 2 * n

    assert double(4) == 8


@pytest.mark.parametrize(
    ("arguments", "observation"),
    [
        ({}, "missing argument article"),
        ({"article": "x", "colour": "red"}, 'unknown argument "colour"'),
        ({"article": "x", "self": 1}, 'unknown argument "self"'),
        ({"article": "x", "pieces": "many"}, "argument pieces is invalid"),
    ],
)
def test_wrong_arguments_are_named_in_the_observation(arguments: dict[str, Any], observation: str) -> None:
    def stock(article: str, pieces: int = 1) -> str:
        """Take an article out of stock."""
        raise AssertionError("called with wrong arguments")

    assert observation in call(offered(stock), **arguments)


def test_arguments_are_converted_to_their_types() -> None:
    def tomorrow(day: datetime.date, times: int = 1) -> str:
        return (day + times * datetime.timedelta(days=1)).isoformat()

    assert call(offered(tomorrow), day="2024-02-28", times="2") == "2024-03-01"


def test_exception_is_a_short_observation_without_paths_or_traceback() -> None:
    def broken(name: str) -> str:
        """Open the file of a name."""
        raise OSError(2, "No such file", "/srv/application/secrets/key.txt")

    agent = dspy.ReAct(
        dspy.Signature({"question": (str, dspy.InputField()), "answer": (str, dspy.OutputField())}, "Answer."),
        tools=[offered(broken)],
    )
    with dspy.context(lm=embedded_model()):
        prediction = asyncio.run(agent.acall(question='Open the file "key"'))
    observation = prediction.trajectory["observation_0"]
    assert observation.startswith("Error in tool_")
    assert "No such file" in observation
    assert "/srv" not in observation
    assert "Traceback" not in observation
    assert __file__ not in observation


def test_marker_of_a_content_part_in_a_result_stays_text() -> None:
    """DSPy would turn the marker into an image that the provider fetches from any address."""
    marker = "<<CUSTOM-TYPE-START-IDENTIFIER>>"
    assert marker not in call(offered(lambda: f"{marker}[]"))
    assert marker not in str(call(offered(lambda: {"found": [f"{marker}[]"]})))


def test_list_of_numbers_is_an_observation_that_dspy_can_format() -> None:
    """DSPy once ended the whole call with a TypeError."""
    assert call(offered(lambda: [1, 2])) == "[1,2]"
    assert call(offered(lambda: ["one", "two"])) == ["one", "two"]


def test_slow_function_does_not_hold_up_the_event_loop() -> None:
    started, release = threading.Event(), threading.Event()

    def slow() -> str:
        started.set()
        return "released" if release.wait(10) else "nobody released it"

    async def run() -> Any:
        work = asyncio.ensure_future(offered(slow).acall())
        while not started.is_set():
            await asyncio.sleep(0)
        release.set()  # only a loop that still turns gets here
        return await work

    assert asyncio.run(run()) == "released"


def test_function_runs_with_the_context_of_its_caller() -> None:
    async def run() -> Any:
        LOGGED_IN.set("ada")
        return await offered(lambda: f"{LOGGED_IN.get()} in {threading.current_thread().name}").acall()

    observation = asyncio.run(run())
    assert observation.startswith("ada in ")
    assert threading.current_thread().name not in observation


def test_async_function_runs_on_the_loop() -> None:
    async def nap() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    assert call(offered(nap)) == threading.current_thread().name


def test_sync_call_works_outside_of_an_event_loop() -> None:
    assert find_tools(["calculator"])[0](expression="2+2") == 4


def test_tool_is_reported_to_callbacks() -> None:
    class Seen(dspy.utils.BaseCallback):  # type: ignore[misc]
        inputs: Any = None

        def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            self.inputs = inputs

    seen = Seen()
    with dspy.context(callbacks=[seen]):
        call(find_tools(["calculator"])[0], expression="1+1")
    assert seen.inputs == {"kwargs": {"expression": "1+1"}}


def test_one_of_many_threads_gets_a_name() -> None:
    name, barrier, outcomes = f"tool_{uuid.uuid4().hex}", threading.Barrier(8), []

    def register() -> None:
        barrier.wait()
        try:
            offer(lambda: 1, name=name)
        except OperationError as error:
            outcomes.append(error.kind)
        else:
            outcomes.append("offered")

    threads = [threading.Thread(target=register) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["offered"] + ["tool"] * 7


def test_hostile_expression_ends_at_once() -> None:
    started_at = time.thread_time()
    assert "too large" in call(find_tools(["calculator"])[0], expression="9**9**9")
    assert time.thread_time() - started_at < 1
