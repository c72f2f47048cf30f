"""Every limit just below and just above, through the operations; the port and other calls live on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import (
    DEMOS,
    ENTRIES,
    ID_BYTES,
    MODEL_DEPTH,
    MODELS,
    NAME_BYTES,
    OPTIONS,
    REPLY_BYTES,
    SCHEMA_BYTES,
    SCHEMA_PARTS,
    TOOLS,
    Limit,
    size_of,
)
from erlport_bridge.term import Atom
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

QA = "question -> answer"
ASK = ("dspy.Predict", QA, {"question": "hi"})
EMBEDDED = {"lm": Atom("embedded")}
SMALL = 20_000


@pytest.fixture(scope="module")
def port() -> Iterator[PortProcess]:
    with PortProcess() as running:
        running.done("configure_lm", "embedded", {})
        yield running


def refused(details: dict[str, Any], limit: Limit, path: str, most: int | None = None) -> None:
    """Check that an error is that of a limit."""
    assert (details["kind"], details["limit"]) == (limit.kind, most or limit.default), details["message"]
    assert details["path"] == path
    assert details.get("option") == limit.option
    assert details["message"].startswith(f"expected at most {details['limit']} {limit.unit} at {path}, got ")
    assert (limit.option or "") in details["message"]


def exact(size: int, sign: str = "x") -> str:
    return sign * (size // len(sign.encode()))


# What an id is in: the operation and its arguments.
IDS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "opts.request_id": lambda one: ("execute_module", *ASK, {"request_id": one, **EMBEDDED}),
    "opts.session_id": lambda one: ("configure_lm", "embedded", {}, {"session_id": one}),
    "session_id": lambda one: ("session_info", one),
    "program_id": lambda one: ("execute_program", None, one, {"question": "hi"}),
    "request_id": lambda one: ("cancel", one),
    "opts.conversation": lambda one: ("execute_program", None, "p", {"question": "hi"}, {"conversation": one}),
    "opts.lm.callback": lambda one: ("validate_module", *ASK[:2], {"lm": {"provider": "elixir", "callback": one}}),
    "token": lambda one: ("model_piece", one, "text"),
}
NAMES: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "module": lambda one: ("describe_module", one),
    "command": lambda one: ("handle", one, []),
    "opts.lm.model": lambda one: (
        "validate_module",
        *ASK[:2],
        {"lm": {"provider": "openai_compatible", "api_base": "http://127.0.0.1:1/v1", "model": one}},
    ),
    "opts.tools[0]": lambda one: ("validate_module", "dspy.ReAct", QA, {"tools": [one]}),
    "opts.tools[0].name": lambda one: ("validate_module", "dspy.ReAct", QA, {"tools": [{"name": one}]}),
    "opts.adapter.name": lambda one: ("validate_module", *ASK[:2], {"adapter": {"name": one}}),
    "spec.modules[0].name": lambda one: (
        "create_program",
        {"signature": QA, "modules": [{"module": "dspy.Predict", "name": one}]},
    ),
}


@pytest.mark.parametrize("write", [str, lambda text: [ord(one) for one in text]], ids=["binary", "charlist"])
@pytest.mark.parametrize("sign", ["x", "\u00e9", "\U0001f600"])
@pytest.mark.parametrize(
    ("path", "call", "limit"),
    [(path, call, ID_BYTES) for path, call in IDS.items()] + [(path, call, NAME_BYTES) for path, call in NAMES.items()],
    ids=[*IDS, *NAMES],
)
def test_id_or_name_just_below_the_limit_is_taken_and_just_above_refused(
    port: PortProcess, path: str, call: Any, limit: Limit, sign: str, write: Any
) -> None:
    """A request_id of a megabyte was taken, and stood in each log line and error."""
    status, result = port.operate(*call(write(exact(limit.default, sign))))
    if status == "error":  # nothing of this name: but its size is not what is wrong
        assert "limit" not in result[1], result
        assert len(result[1]["message"]) < 3_000
    for longer in (exact(limit.default, sign) + "x", "x" * 1024 * 1024):
        details = port.failed(*call(write(longer)))
        refused(details, limit, path)
        assert len(details["message"]) < 300


COUNTS = {
    "options": (OPTIONS, "opts", lambda count: ("validate_module", *ASK[:2], {f"o{n}": 1 for n in range(count)})),
    "entries": (
        ENTRIES,
        "spec",
        lambda count: ("validate_module", {"module": "dspy.Predict", **{f"o{n}": 1 for n in range(count - 1)}}, QA),
    ),
    "tools": (
        TOOLS,
        "opts.tools",
        lambda count: (
            "validate_module",
            "dspy.ReAct",
            QA,
            {"tools": [{"name": f"t{n}", "description": "d", "callback": "1"} for n in range(count)]},
        ),
    ),
    "demos": (
        DEMOS,
        "opts.demos",
        lambda count: ("execute_module", *ASK, {"demos": [{"question": "a", "answer": "b"}] * count}),
    ),
    "models": (MODELS, "opts.lm", lambda count: ("execute_module", *ASK, {"lm": [Atom("embedded")] * count})),
    "fallbacks": (
        MODELS,
        "opts.lm.fallbacks",
        lambda count: ("execute_module", *ASK, {"lm": {"provider": "embedded", "fallbacks": ["embedded"] * count}}),
    ),
}


@pytest.mark.parametrize(("limit", "path", "call"), COUNTS.values(), ids=COUNTS)
def test_count_just_below_the_limit_is_taken_and_just_above_refused(
    port: PortProcess, limit: Limit, path: str, call: Any
) -> None:
    status, result = port.operate(*call(limit.default))
    assert status == "ok" or "limit" not in result[1]
    for count in (limit.default + 1, max(10_000, limit.default + 2)):
        refused(port.failed(*call(count)), limit, path)


def described(parameters: dict[str, Any]) -> tuple[Any, ...]:
    tool = {"name": "t", "description": "d", "callback": "1", "parameters": parameters}
    return "validate_module", "dspy.ReAct", QA, {"tools": [tool]}


def test_parameters_of_a_tool_are_bounded(port: PortProcess) -> None:
    """2,000 parameters took 8.5 s; the same tools again take no time."""
    for count, limit in ((300, None), (2_000, SCHEMA_PARTS), (100_000, SCHEMA_BYTES)):
        properties = {f"p{n}": {"type": "string", "description": "what it is"} for n in range(count)}
        call = described({"properties": properties})
        if limit is None:
            port.done(*call)
        else:
            refused(port.failed(*call), limit, "opts.tools[0].parameters")
    many = [
        {
            "name": f"t{n}",
            "description": "d",
            "callback": "1",
            "parameters": {"properties": {f"p{i}": {} for i in range(40)}},
        }
        for n in range(TOOLS.default)
    ]
    refused(port.failed("validate_module", "dspy.ReAct", QA, {"tools": many}), SCHEMA_PARTS, "opts.tools")


@pytest.mark.parametrize("around", [lambda one: {"type": "array", "items": one}, lambda one: {"anyOf": [one]}])
@pytest.mark.parametrize("depth", [10, 41, 200])
def test_schema_that_nests_deep_is_refused(port: PortProcess, around: Any, depth: int) -> None:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = around(schema)
    status, result = port.operate(*described({"properties": {"a": schema}}))
    assert status == ("ok" if depth == 10 else "error"), result
    if status == "error":
        assert result[1]["kind"] == "input"
        assert "expected a JSON schema that nests at most " in result[1]["message"]


@pytest.mark.parametrize("depth", [90, 130, 250, 480])
@pytest.mark.parametrize(
    "around", [lambda one: [one], lambda one: {"a": one}, lambda one: (one,), lambda one: {"of": one}]
)
@pytest.mark.parametrize(
    "place", ["inputs", "lm", "demos", "tools", "adapter", "option", "spec", "signature", "metric"]
)
def test_deep_term_is_an_error_of_its_call_in_every_place(
    port: PortProcess, place: str, around: Any, depth: int
) -> None:
    deep: Any = "end"
    for _ in range(depth):
        deep = around(deep)
    calls: dict[str, tuple[Any, ...]] = {
        "inputs": ("execute_module", *ASK[:2], {"question": deep}),
        "lm": ("execute_module", *ASK, {"lm": deep}),
        "demos": ("execute_module", *ASK, {"demos": [{"question": deep, "answer": "b"}]}),
        "tools": ("execute_module", "dspy.ReAct", *ASK[1:], {"tools": [deep]}),
        "adapter": ("execute_module", *ASK, {"adapter": deep}),
        "option": ("execute_module", *ASK, {"temperature": deep}),
        "spec": ("execute_module", {"module": "dspy.BestOfN", "of": deep}, *ASK[1:]),
        "signature": ("execute_module", "dspy.Predict", {"inputs": {"q": deep}, "outputs": "answer"}, {"q": "hi"}),
        "metric": ("evaluate_program", None, "p", [{"question": "hi"}], {"metric": deep}),
    }
    details = port.failed(*calls[place])
    assert details["kind"] in ("input", "signature", "provider", "tool", "module_not_found", "program_not_found")
    assert len(details["message"]) < 2_000
    assert port.done("ping", "later")["payload"] == "later"


def test_models_nest_up_to_the_limit(port: PortProcess) -> None:
    lm: Any = {"provider": "embedded"}
    for _ in range((MODEL_DEPTH.default - 1) // 2):
        lm = {"provider": "embedded", "fallbacks": [lm]}
    port.done("execute_module", *ASK, {"lm": lm})
    refused(
        port.failed("execute_module", *ASK, {"lm": {"provider": "embedded", "fallbacks": [lm]}}), MODEL_DEPTH, "opts.lm"
    )


# Programs and conversations --------------------------------------------------------------------------------------


def test_program_and_all_programs_are_bounded() -> None:
    environment = {"DSPEX_MAX_PROGRAM_BYTES": str(SMALL), "DSPEX_MAX_PROGRAMS_BYTES": str(3 * SMALL)}
    with PortProcess(environment=environment) as port:
        spec = {"signature": QA, "instructions": "x" * (SMALL - 200)}
        first = port.done("create_program", spec)
        details = port.failed("create_program", {**spec, "instructions": "x" * SMALL})
        assert (details["kind"], details["option"], details["path"]) == ("input", "DSPEX_MAX_PROGRAM_BYTES", "spec")
        for _ in range(2):
            port.done("create_program", spec)
        details = port.failed("create_program", spec)
        assert (details["kind"], details["option"]) == ("overloaded", "DSPEX_MAX_PROGRAMS_BYTES")
        port.done("delete_program", first["session_id"], first["id"])
        port.done("create_program", spec)


def test_conversation_and_all_conversations_are_bounded() -> None:
    environment = {"DSPEX_MAX_CONVERSATION_BYTES": str(SMALL), "DSPEX_MAX_CONVERSATIONS_BYTES": str(3 * SMALL)}
    with PortProcess(environment=environment) as port:
        program = port.done("create_program", {"signature": QA, "history": True, "lm": Atom("embedded")})
        named = (program["session_id"], program["id"])
        turns = [{"question": f"{n}", "answer": "x" * (SMALL // 4)} for n in range(10)]
        found = port.done("seed_conversation", *named, "one", turns)
        assert (found["turn_count"], SMALL * 3 // 4 < found["bytes"] <= SMALL) == (3, True)
        kept = port.done("conversation", *named, "one")["turns"]
        assert [turn["question"] for turn in kept] == ["7", "8", "9"]
        # A turn that is too large alone is not kept.
        assert (
            port.done("seed_conversation", *named, "one", [{"question": "q", "answer": "x" * SMALL}])["turn_count"] == 0
        )
        for name in ("one", "two", "three", "four"):
            port.done("seed_conversation", *named, name, turns)
        details = port.failed("execute_program", *named, {"question": "hi"}, {"conversation": "one"})
        assert (details["kind"], details["option"]) == ("overloaded", "DSPEX_MAX_CONVERSATIONS_BYTES")
        port.done("cut_conversation", *named, "two", 1)
        port.done("execute_program", *named, {"question": "hi"}, {"conversation": "one"})


# Tools -----------------------------------------------------------------------------------------------------------

OFFERS = """
from erlport_bridge.programs.tools import offer

@offer
def text_of(size: int) -> str:
    return "x" * size

@offer
def list_of(size: int) -> list:
    return ["x" * 100] * (size // 108)
"""


@pytest.mark.parametrize("tool", ["text_of", "list_of"])
@pytest.mark.parametrize(
    ("size", "is_allowed"), [(SMALL - 200, True), (SMALL + 200, False), (100 * 1024 * 1024, False)]
)
def test_result_of_a_tool_is_bounded(
    tmp_path: Any, model_server: ModelServer, tool: str, size: int, is_allowed: bool
) -> None:
    (tmp_path / "my_tools.py").write_text(OFFERS)
    name = f"tools-{tool}-{size}"
    step = {"next_thought": "look", "next_tool_name": tool, "next_tool_args": {"size": size}}
    done = {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": {}}
    model_server.script(name, *({"fields": one} for one in (step, done, {"reasoning": "r", "answer": "a"})))
    environment = {"PYTHONPATH": f"{tmp_path}:{_path()}", "DSPEX_MAX_TOOL_RESULT_BYTES": str(SMALL)}
    with PortProcess(["--preload=my_tools"], environment=environment) as port:
        options = {"lm": openai(model_server, f"scripted:{name}"), "tools": [tool]}
        found = port.done("execute_module", "dspy.ReAct", *ASK[1:], options)
    observed = str(found["trajectory"]["observation_0"])
    if is_allowed:
        assert "xxxx" in observed
    else:
        assert observed.startswith(f"Error in {tool}: expected at most {SMALL} bytes at its result, got ")
        assert "DSPEX_MAX_TOOL_RESULT_BYTES" in observed


def _path() -> str:
    import os

    return os.environ.get("PYTHONPATH", "")


WRONG_LIMIT = "expected a positive integer in the environment at DSPEX_MAX_REPLY_BYTES"


def test_wrong_limit_in_the_environment_is_named() -> None:
    with PortProcess(environment={"DSPEX_MAX_REPLY_BYTES": "many"}) as port:
        assert WRONG_LIMIT in str(port.call("dspy_bridge", "ping", "x"))


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "", "9" * 30])
def test_limit_that_is_no_positive_integer_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_MAX_REPLY_BYTES", text)
    with pytest.raises(OperationError, match=WRONG_LIMIT):
        REPLY_BYTES.check(1, "here")


@pytest.mark.parametrize("inputs", [[1, 2], [0], [7, 8, 9], [1, 2, 3.5], [[1]]])
def test_list_of_numbers_as_inputs_is_no_text(port: PortProcess, inputs: list[Any]) -> None:
    """``[1, 2]`` was read as a text of control characters, about which the errors were."""
    details = port.failed("execute_module", *ASK[:2], inputs)
    assert details["message"].startswith("expected a map such as %{question: …} at inputs, got [")
    assert port.done("execute_module", *ASK[:2], [ord(one) for one in "Hi\tthere"])


# Sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "size"),
    [("x" * 100, 108), (b"x" * 100, 108), (2**800, 108), (["x"] * 10, 98), ({"a": "b"}, 26), ((1.5, None), 24)],
)
def test_size_of_a_value_is_about_that_of_its_term(value: Any, size: int) -> None:
    assert size_of(value, 1_000) == size


def test_size_is_not_counted_beyond_the_limit() -> None:
    shared: Any = ["x" * 10]
    for _ in range(60):  # 2^60 texts as a term
        shared = [shared, shared]
    begun = time.monotonic()
    assert size_of(shared, 100_000) > 100_000
    assert time.monotonic() - begun < 5


def of_modules(depth: int) -> Any:
    """Return a module with this number of modules in one another."""
    spec: Any = "dspy.Predict"
    for _ in range(depth - 1):
        reward = {"check": "words", "field": "answer", "minimum": 0}
        spec = {"module": "dspy.BestOfN", "N": 1, "reward": reward, "of": spec}
    return spec


def nested(depth: int) -> Any:
    """Return a list with this number of levels."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def union(members: int) -> dict[str, Any]:
    return {"inputs": ["question"], "outputs": {"answer": (Atom("union"), [Atom("string")] * members)}}


#: The fixed limits that stand in no table of the code -> the limit, and a call for a size.
FIXED: dict[str, tuple[int, Callable[[int], tuple[Any, ...]]]] = {
    "modules": (5, lambda size: ("execute_module", of_modules(size), QA, {"question": "hi"}, EMBEDDED)),
    "stages": (20, lambda size: ("create_program", {"signature": "a -> b", "modules": ["dspy.Predict"] * size})),
    "fields": (
        100,
        lambda size: ("validate_module", "dspy.Predict", ", ".join(f"f{n}" for n in range(size - 1)) + "->z"),
    ),
    "characters": (65_536, lambda size: ("validate_module", "dspy.Predict", "a -> b".ljust(size))),
    "type": (
        20,
        lambda size: ("validate_module", "dspy.Predict", f"a -> b: {'list[' * (size - 1)}int{']' * (size - 1)}"),
    ),
    "members": (
        256,
        lambda size: ("validate_module", "dspy.Predict", f"a -> b: Literal[{', '.join(map(str, range(size)))}]"),
    ),
    "union": (256, lambda size: ("validate_module", "dspy.Predict", union(size))),
    "value": (100, lambda size: ("execute_module", "dspy.Predict", "a: Any -> b", {"a": nested(size)}, EMBEDDED)),
}


@pytest.mark.parametrize(("most", "call"), FIXED.values(), ids=FIXED)
def test_error_of_each_fixed_limit_has_it(port: PortProcess, most: int, call: Callable[[int], tuple[Any, ...]]) -> None:
    """Its details had none, and a program of too many stages was not told how many they were."""
    port.done(*call(most))
    details = port.failed(*call(most + 1))
    assert details["limit"] == most, details
    assert str(most) in details["message"]
