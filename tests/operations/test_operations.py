"""The operations, over a real port, with real DSPy, the embedded model and a provider on loopback."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from erlport_bridge.programs.modules.catalogue import MODULES
from erlport_bridge.term import Atom, encode
from tests.deadlines import at_deadline
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

QA = "question -> answer"
# Stands for a term that Python cannot hold.
MERGED = "$merged$"
TEXT = (
    "Photosynthesis turns light into chemical energy. It happens in the chloroplasts of plants. "
    "A leaf holds about 500000 chloroplasts per square millimetre. Cats sleep 13 hours a day."
)


def test_ping_answers_versions_and_the_payload(shared_port: PortProcess) -> None:
    payload = [(Atom("a"), {"b": [1, 2.5, None]}), b"\xff", -(2**70)]
    answer = shared_port.done("ping", payload)
    assert answer["payload"] == payload
    assert answer["dspy"].startswith("3.4.")
    assert answer["model"]["provider"] == "embedded"
    assert "no language model" in answer["model"]["description"]


def test_predict_answers_from_the_text_and_says_what_it_cost(shared_port: PortProcess) -> None:
    inputs = {Atom("context"): TEXT, Atom("question"): "Where does photosynthesis happen?"}
    prediction = shared_port.done("execute_module", "dspy.Predict", "context, question -> answer", inputs)
    meta = prediction.pop("$meta")
    assert prediction == {"answer": "It happens in the chloroplasts of plants."}
    assert meta["completions"] == [prediction]
    assert meta["usage"]["embedded/extractive"]["total_tokens"] > 0
    assert meta["duration_ms"] > 0
    assert meta["warnings"] == []
    assert meta["model"] == "embedded/extractive"


def test_answers_have_the_types_of_the_signature(shared_port: PortProcess) -> None:
    signature = 'context, question -> hours: int, tags: list[str], topic: Literal["plants", "cats"], sure: bool'
    inputs = {"context": TEXT, "question": "How many hours do cats sleep?"}
    prediction = shared_port.done("execute_module", "dspy.Predict", signature, inputs)
    assert prediction["hours"] == 13
    assert prediction["topic"] == "cats"
    assert isinstance(prediction["sure"], bool)
    assert all(isinstance(tag, str) for tag in prediction["tags"])


@pytest.mark.parametrize("inputs", ["What is ETF?", [ord(letter) for letter in "What is ETF?"], Atom("What is ETF?")])
def test_text_as_inputs_fills_the_first_field(shared_port: PortProcess, inputs: Any) -> None:
    assert "What is ETF?" in shared_port.done("execute_module", "dspy.Predict", QA, inputs)["answer"]


def test_chain_of_thought_adds_its_reasoning(shared_port: PortProcess) -> None:
    prediction = shared_port.done("execute_module", "dspy.ChainOfThought", QA, {"question": "Why?"}, {"max_hops": 3})
    assert prediction["reasoning"]
    assert prediction["$meta"]["warnings"] == ['dspy.ChainOfThought takes no option "max_hops"; it was ignored']


def test_react_calls_the_tools_that_it_is_given(shared_port: PortProcess) -> None:
    options = {"tools": ["calculator"], "max_iters": 5}
    prediction = shared_port.done("execute_module", "dspy.ReAct", QA, {"question": "What is 12 * 12?"}, options)
    assert prediction["trajectory"]["tool_name_0"] == "calculator"
    assert "144" in prediction["answer"]


def test_program_of_thought_runs_code_in_its_sandbox(shared_port: PortProcess) -> None:
    inputs = {"question": "What is 6 * 7?"}
    prediction = shared_port.done("execute_module", "dspy.ProgramOfThought", "question -> answer: int", inputs)
    assert prediction["answer"] == 42


def test_multi_chain_comparison_compares_what_it_is_given_or_makes_it(shared_port: PortProcess) -> None:
    name = "dspy.MultiChainComparison"
    attempts = [{"reasoning": f"thought {number}", "answer": answer} for number, answer in enumerate(("A", "B", "B"))]
    given = shared_port.done("execute_module", name, QA, {"question": "A or B?", "completions": attempts})
    assert given["answer"] == "B"
    made = shared_port.done(
        "execute_module", name, "context, question -> answer", {"context": TEXT, "question": "Cats?"}
    )
    assert "Cats" in made["answer"]
    assert made["rationale"]
    wrong = shared_port.failed("execute_module", name, QA, {"question": "?", "completions": attempts[:1]})
    assert (wrong["kind"], wrong["path"]) == ("input", "inputs.completions")


@pytest.mark.parametrize("name", MODULES)
def test_every_module_describes_itself(shared_port: PortProcess, name: str) -> None:
    assert name in shared_port.done("list_modules")
    description = shared_port.done("describe_module", name)
    assert description["name"] == name
    assert ("calculator" in description["tools"]) is description["takes_tools"]
    needed = {
        "of": "dspy.Predict",
        "reward": {"check": "equals", "field": "answer", "value": "x"},
        "trainset": [{"question": "x", "answer": "y"}],
    }
    options: dict[str, Any] = {
        key: value for key, value in needed.items() if description["options"].get(key, {}).get("required")
    }
    if description["signature"]:
        validated = shared_port.done("validate_module", name, None, {"passages": ["x"], "vectors": [[1]]})
        assert validated["signature"] == description["signature"]
    else:
        options |= {"vectors": [[1]]} if "trainset" in options else {}
        validated = shared_port.done("validate_module", name, QA, options)
        assert validated["signature"].startswith("question: str -> ")


@pytest.mark.parametrize(
    ("arguments", "kind", "path", "message"),
    [
        (("dspy.Predcit", QA, {}), "module_not_found", "module", 'did you mean "dspy.Predict"?'),
        (("dspy.settings", QA, {}), "module_not_found", "module", "unknown module"),
        (("os.system", QA, {}), "module_not_found", "module", "known modules: dspy.Predict"),
        ((b"\xff", QA, {}), "input", "module", "not UTF-8"),
        ((7, QA, {}), "input", "module", "at module, got 7"),
        (("dspy.Predict", "question answer", {}), "signature", None, "->"),
        (("dspy.Predict", "question -> answer: Thing", {}), "signature", None, "Thing"),
        (("dspy.Predict", "lm -> answer", {}), "signature", None, "lm"),
        (("dspy.ChainOfThought", "reasoning -> answer", {}), "signature", None, "reasoning"),
        (("dspy.Predict", b"\xff -> a", {}), "signature", None, "UTF-8"),
        (("dspy.Predict", QA, {}), "input", "inputs.question", "question"),
        (("dspy.Predict", QA, {"question": "x", "answr": "y"}), "input", "inputs.answr", "answr"),
        (
            ("dspy.Predict", QA, {"question": 42}),
            "input",
            "inputs.question",
            "expected a string at inputs.question, got 42",
        ),
        (("dspy.Predict", QA, {"question": b"\xff"}), "input", "inputs.question", "UTF-8"),
        (("dspy.Predict", "tags: list[str] -> a", {"tags": ["x", 2]}), "input", "inputs.tags[1]", "inputs.tags[1]"),
        (
            ("dspy.RLM", "calculator -> a", "1", {"tools": ["calculator"]}),
            "input",
            "module",
            "conflict with user tools",
        ),
        (("dspy.Predict", QA, 42), "input", "inputs", "inputs"),
        (("dspy.Predict", QA, {"question": "x"}, 5), "input", "opts", "expected a map or a keyword list at opts"),
        (("dspy.Predict", QA, {"question": "x"}, {"timeout": -1}), "input", "opts.timeout", "milliseconds"),
        (("dspy.Predict", QA, {"question": "x"}, {"temperature": "hot"}), "input", "opts.temperature", "a number"),
        (("dspy.Predict", QA, {"question": "x"}, {"adapter": "yaml"}), "input", "opts.adapter", "chat"),
        (("dspy.Predict", QA, {"question": "x"}, {"demos": [{"nope": 1}]}), "input", "opts.demos[0].nope", "nope"),
        (
            ("dspy.Predict", QA, {"question": "x"}, {"session_id": "s"}),
            "session_not_found",
            "session_id",
            "unknown session",
        ),
        (("dspy.ReAct", QA, {"question": "x"}, {"max_iters": 0}), "input", "opts.max_iters", "from 1 to 100"),
        (("dspy.ReAct", QA, {"question": "x"}, {"tools": ["calculatr"]}), "tool", "opts.tools[0]", "calculator"),
        (("dspy.Predict",), "input", None, "takes (module, signature, inputs, opts), got 1 argument"),
    ],
)
def test_bad_input_is_an_error_of_its_own_and_the_port_lives(
    shared_port: PortProcess, arguments: tuple[Any, ...], kind: str, path: str | None, message: str
) -> None:
    details = shared_port.failed("execute_module", *arguments)
    assert details["kind"] == kind
    if path is not None:
        assert details["path"] == path
    assert message in details["message"]
    assert shared_port.done("ping", 1)["payload"] == 1


def test_arguments_that_python_cannot_hold_are_an_error_of_that_call(shared_port: PortProcess) -> None:
    call_id = shared_port.send_call("dspy_bridge", "ping", ["?"])
    assert shared_port.receive()[1] == call_id
    merging = b"\x74\0\0\0\2" + b"\x61\1\x61\1" + encode(1.0)[1:] + b"\x61\2"
    head = encode((Atom("C"), 77, Atom("dspy_bridge"), Atom("ping"), ["?"]))
    shared_port.send_message(head.replace(encode(["?"])[1:], b"\x6c\0\0\0\1" + merging + b"\x6a"))
    tag, call_id, (status, (_, details)) = shared_port.receive()
    assert (tag, call_id, status, details["kind"]) == ("r", 77, "error", "input")
    assert details["message"] == "a map with the keys 1 and 1.0, which are one key in Python at payload"


@pytest.mark.parametrize(
    ("operation", "given", "path"),
    [
        ("execute_module", ["dspy.Predict", QA, {"question": MERGED}, {}], 'inputs["question"]'),
        ("execute_module", ["dspy.Predict", QA, {}, {"metadata": MERGED}], 'opts["metadata"]'),
        ("create_program", [{"signature": MERGED}], 'spec["signature"]'),
        ("execute_batch", ["dspy.Predict", QA, ["a", MERGED], {}], "inputs[1]"),
        ("execute_program_batch", [None, "p", [MERGED], {}], "inputs[0]"),
        ("evaluate_program", [None, "p", [MERGED], {}], "examples[0]"),
        ("execute_program", [None, "p", MERGED], "inputs"),
    ],
)
def test_what_python_cannot_hold_is_at_the_argument_by_its_name(
    shared_port: PortProcess, operation: str, given: list[Any], path: str
) -> None:
    """It was at `arguments[2] (byte 78)`, which no caller knows."""
    merging = b"\x74\0\0\0\2" + encode("x")[1:] + b"\x61\1" + encode(Atom("x"))[1:] + b"\x61\2"
    deep = b"\x6c\0\0\0\1" * 520 + b"\x61\1" + b"\x6a" * 520
    for value, reason in [
        (merging, 'a map with the keys "x" and :x'),
        (deep, "a term that nests deeper than 512 levels"),
    ]:
        message = encode((Atom("C"), 78, Atom("dspy_bridge"), Atom(operation), given))
        shared_port.send_message(message.replace(encode(MERGED)[1:], value))
        _, _, (_, (_, details)) = shared_port.receive()
        assert details["kind"] == "input"
        assert details["message"].startswith(reason)
        assert f" at {path}" in details["message"]
        assert "byte" not in details["message"]
        assert details["path"].startswith(path)


@pytest.mark.parametrize("program_id", [None, {}, 5, ("a", 1)])
@pytest.mark.parametrize(
    ("operation", "rest"), [("execute_program", ["x"]), ("dump_program", []), ("list_conversations", [])]
)
def test_what_is_no_program_is_told_what_is_one(
    shared_port: PortProcess, operation: str, rest: list[Any], program_id: Any
) -> None:
    """It was `expected a string at program_id`."""
    details = shared_port.failed(operation, None, program_id, *rest)
    assert details["message"].startswith("expected a %DSPex.Program{} or its id at program_id, got ")
    assert details["path"] == "program_id"


def test_inputs_of_a_batch_may_be_texts(shared_port: PortProcess) -> None:
    """The error was about a list of maps alone."""
    details = shared_port.failed("execute_batch", "dspy.Predict", QA, "Q?", {})
    assert details["message"] == 'expected a list of maps or texts at inputs, got "Q?"'


def test_a_function_is_no_tool_of_a_stored_program(shared_port: PortProcess) -> None:
    """It was `expected a string at spec.modules[0].tools[0], got a function`."""
    for tool in (5, ["a", "b"], ("a", "b", "c")):
        spec = {"signature": QA, "modules": [{"module": "dspy.ReAct", "tools": [tool]}]}
        details = shared_port.failed("create_program", spec)
        assert details["message"].startswith(
            "expected the name of a tool of Python, {module, function} of exports/0, or "
            '%{name: "…"} of a function that each call brings, at spec.modules[0].tools[0], got '
        )


def test_function_that_is_no_operation_cannot_be_called(shared_port: PortProcess) -> None:
    for name in ("os", "_operation", "OPERATIONS", "Sessions", "nope"):
        tag, _, reason = shared_port.call("dspy_bridge", name)
        assert tag == "e"
        assert f'dspy_bridge has no operation "{name}"' in reason[2]


def test_without_a_model_the_error_says_what_to_call(port: PortProcess) -> None:
    details = port.failed("execute_module", "dspy.Predict", QA, {"question": "x"})
    assert details["kind"] == "lm_not_configured"
    assert "configure_lm" in details["message"]


@pytest.mark.parametrize(
    ("provider", "config", "kind", "message"),
    [
        ("opnai", {"model": "x"}, "provider", 'did you mean "openai"?'),
        ("openai", {"model": "gpt-4o-mini"}, "auth", "OPENAI_API_KEY"),
        ("openai", {}, "input", "config.model"),
        ("openai", {"model": "x", "api_kee": "y"}, "input", 'did you mean "api_key"?'),
        ("openai_compatible", {"model": "x"}, "input", "config.api_base"),
        ("openai", {"model": "x", "api_base": "file:///etc/passwd"}, "input", "config.api_base"),
        ("embedded", {"temperature": []}, "input", "config.temperature"),
    ],
)
def test_wrong_model_configuration_is_reported_at_once(
    monkeypatch: pytest.MonkeyPatch, provider: str, config: dict[str, Any], kind: str, message: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with PortProcess() as port:
        details = port.failed("configure_lm", provider, config)
    assert details["kind"] == kind
    assert message in details["message"]


@pytest.mark.parametrize("provider", ["openai", "anthropic", "ollama", "openai_compatible", "hosted_vllm", "groq"])
def test_providers_are_asked_over_their_own_wire(port: PortProcess, model_server: ModelServer, provider: str) -> None:
    base = model_server.url if provider in ("ollama", "hosted_vllm") else f"{model_server.url}/v1"
    config = {"model": "answer", "api_base": base, "api_key": "sk-loopback-key", "max_tokens": 55}
    description = port.done("configure_lm", provider, config)
    assert description["model"] == f"{provider}/answer"
    assert "sk-loopback-key" not in repr(description)
    prediction = port.done("execute_module", "dspy.Predict", QA, {"question": "Why?"}, {"temperature": 0.25})
    assert prediction["answer"] == "answer to Why?"
    (request,) = model_server.requests
    assert request.body["temperature"] == 0.25
    assert 55 in request.body.values()
    assert "sk-loopback-key" in repr(request.headers)


@pytest.mark.parametrize(
    ("model", "kind", "retryable", "status"),
    [
        ("status-400", "provider", False, 400),
        ("status-401", "auth", False, 401),
        ("status-402", "billing", False, 402),
        ("status-429", "rate_limit", True, 429),
        ("status-500", "server", True, 500),
        ("status-503", "server", True, 503),
        ("error-context_length_exceeded", "context_window", False, None),
        ("error-model_not_found", "unsupported_model", False, None),
        ("error-insufficient_quota", "billing", False, None),
        ("closed", "transport", True, None),
        ("garbage", "parse", True, None),
    ],
)
def test_errors_of_a_provider_have_their_kinds(
    shared_port: PortProcess, model_server: ModelServer, model: str, kind: str, retryable: bool, status: int | None
) -> None:
    options = {"lm": openai(model_server, model), "request_id": "r-7"}
    details = shared_port.failed("execute_module", "dspy.Predict", QA, {"question": "x"}, options)
    assert (details["kind"], details["retryable"]) == (kind, retryable), details
    if status is not None:
        assert details["status"] == status
    if kind == "rate_limit":
        assert details["retry_after"] == 1
    assert details["request_id"] == "r-7"
    assert "sk-loopback-key" not in repr(details)


def test_unreachable_host_is_a_transport_error(shared_port: PortProcess) -> None:
    lm = {"provider": "openai", "model": "x", "api_base": "http://127.0.0.1:9/v1", "num_retries": 0}
    details = shared_port.failed("execute_module", "dspy.Predict", QA, {"question": "x"}, {"lm": lm})
    assert (details["kind"], details["retryable"]) == ("transport", True)


@pytest.mark.parametrize("module", ["dspy.Predict", "dspy.ReAct", "dspy.MultiChainComparison"])
def test_deadline_is_kept_and_the_request_is_cancelled(
    shared_port: PortProcess, model_server: ModelServer, module: str
) -> None:
    def attempt(timeout_ms: int) -> Any:
        options = {"lm": openai(model_server, "delay-120000"), "timeout": timeout_ms}
        started_at = time.monotonic()
        details = shared_port.failed("execute_module", module, QA, {"question": "x"}, options)
        assert time.monotonic() - started_at < timeout_ms / 1_000 + 2
        return details

    details = at_deadline(300, attempt, lambda details: details["stage"] == "model")
    assert (details["kind"], details["type"]) == ("timeout", "TimeoutError")
    assert shared_port.done("ping", 1)["payload"] == 1


def test_endless_code_in_the_sandbox_ends_at_the_deadline(port: PortProcess, model_server: ModelServer) -> None:
    model_server.script("loop", {"fields": {"reasoning": "-", "generated_code": "while True:\n    pass"}})
    port.done("configure_lm", "embedded", {})
    options = {"lm": openai(model_server, "scripted:loop"), "timeout": 6_000}
    details = port.failed("execute_module", "dspy.ProgramOfThought", QA, {"question": "x"}, options)
    assert (details["kind"], details["stage"]) == ("timeout", "sandbox")
    assert (
        port.done("execute_module", "dspy.ProgramOfThought", "question -> answer: int", "What is 6 * 7?")["answer"]
        == 42
    )


def test_code_that_never_runs_is_a_sandbox_error(shared_port: PortProcess, model_server: ModelServer) -> None:
    model_server.script("broken", {"fields": {"reasoning": "-", "generated_code": "raise ValueError('no')"}})
    options = {"lm": openai(model_server, "scripted:broken"), "max_iters": 1}
    details = shared_port.failed("execute_module", "dspy.ProgramOfThought", QA, {"question": "x"}, options)
    assert details["kind"] == "sandbox"


def test_a_hundred_slow_calls_at_once_share_one_port(shared_port: PortProcess, model_server: ModelServer) -> None:
    options = {"lm": openai(model_server, "delay-500")}
    started_at = time.monotonic()
    ids = {
        shared_port.send_call("dspy_bridge", "execute_module", ["dspy.Predict", QA, {"question": str(number)}, options])
        for number in range(100)
    }
    for _ in range(100):
        tag, call_id, (status, _) = shared_port.receive()
        assert (tag, status) == ("r", "ok")
        ids.remove(call_id)
    assert time.monotonic() - started_at < 100 * 0.5 / 4


def test_calls_with_different_models_never_mix(shared_port: PortProcess, model_server: ModelServer) -> None:
    models = {"a": openai(model_server, "echo"), "b": openai(model_server, "answer")}
    expected = {}
    for number in range(40):
        name = "ab"[number % 2]
        inputs = {"question": f"Q{number}"}
        call_id = shared_port.send_call(
            "dspy_bridge", "execute_module", ["dspy.Predict", QA, inputs, {"lm": models[name]}]
        )
        expected[call_id] = f"Q{number}" if name == "a" else f"answer to Q{number}"
    for _ in range(40):
        _, call_id, (_, prediction) = shared_port.receive()
        assert prediction["answer"] == expected.pop(call_id)


def test_several_completions_are_all_returned(shared_port: PortProcess, model_server: ModelServer) -> None:
    options = {"lm": openai(model_server, "answer"), "n": 3}
    prediction = shared_port.done("execute_module", "dspy.Predict", QA, {"question": "x"}, options)
    assert prediction["$meta"]["completions"] == [{"answer": "answer to x"}] * 3


def test_demos_stand_in_the_prompt_of_that_call_only(shared_port: PortProcess, model_server: ModelServer) -> None:
    options = {"lm": openai(model_server, "answer"), "demos": [{"question": "demo question", "answer": "demo answer"}]}
    shared_port.done("execute_module", "dspy.ChainOfThought", QA, {"question": "x"}, options)
    del options["demos"]
    shared_port.done("execute_module", "dspy.ChainOfThought", QA, {"question": "x"}, options)
    with_demo, without = (json.dumps(request.body) for request in model_server.requests)
    assert "demo answer" in with_demo
    assert "demo answer" not in without


def test_a_misspelt_field_of_a_demo_is_an_error_with_the_right_name(shared_port: PortProcess) -> None:
    options = {"demos": [{"question": "a", "answer": "b"}, {"question": "a", "anser": "b"}]}
    details = shared_port.failed("execute_module", "dspy.Predict", QA, {"question": "x"}, options)
    assert (details["kind"], details["path"]) == ("input", "opts.demos[1].anser")
    assert 'unknown field "anser" at opts.demos[1] (did you mean "answer"?)' in details["message"]


def test_a_conversation_with_a_program_that_keeps_none_says_what_to_do(shared_port: PortProcess) -> None:
    program = shared_port.done("create_program", {"signature": QA})
    prediction = shared_port.done("execute_program", None, program["id"], {"question": "x"}, {"conversation": "c"})
    (warning,) = prediction["$meta"]["warnings"]
    assert warning.endswith("it was ignored, and no turn is kept: create the program with history: true")


def test_batch_answers_in_order_with_an_error_for_each_bad_item(shared_port: PortProcess) -> None:
    items: list[Any] = [{"question": f"Q{number}"} for number in range(20)]
    items[7] = {"question": 7}
    results = shared_port.done("execute_batch", "dspy.Predict", QA, items, {"max_concurrency": 4})
    for number, (status, result) in enumerate(results):
        if number == 7:
            assert (status, result[1]["path"]) == ("error", "inputs.question")
        else:
            assert status == "ok"
            assert f"Q{number}" in result["answer"]


@pytest.mark.parametrize("at_once", [0, 257, 10**20, "4"])
def test_batch_refuses_a_concurrency_that_it_would_not_keep(shared_port: PortProcess, at_once: object) -> None:
    details = shared_port.failed("execute_batch", "dspy.Predict", QA, ["x"], {"max_concurrency": at_once})
    assert (details["kind"], details["path"]) == ("input", "opts.max_concurrency")
    assert "from 1 to 256" in details["message"]


def test_batch_keeps_what_was_done_by_its_deadline(shared_port: PortProcess, model_server: ModelServer) -> None:
    def attempt(timeout_ms: int) -> Any:
        # The second item, and those behind it, have no answer.
        model_server.script(f"within {timeout_ms}", {"fields": {"answer": "a"}}, *[{"delay_ms": 120_000}] * 3)
        lm = openai(model_server, f"scripted:within {timeout_ms}")
        options = {"lm": lm, "timeout": timeout_ms, "max_concurrency": 1}
        return shared_port.done("execute_batch", "dspy.Predict", QA, ["a", "b", "c", "d"], options)

    results = at_deadline(500, attempt, lambda results: results[0][0] == "ok")
    assert [result[1][1]["kind"] for result in results[1:]] == ["timeout"] * 3


def test_metrics_count_calls_errors_and_tokens(port: PortProcess) -> None:
    port.done("configure_lm", "embedded", {})
    port.done("execute_module", "dspy.Predict", QA, {"question": "x"})
    port.failed("execute_module", "dspy.Predict", QA, {})
    report = port.done("metrics")
    assert report["operations"]["execute_module"]["calls"] == 2
    assert report["operations"]["execute_module"]["errors"] == {"input": 1}
    assert report["modules"]["dspy.Predict"]["calls"] == 1
    assert report["modules"]["dspy.Predict"]["total_tokens"] > 0
    assert report["memory_bytes"] > 1 << 20
    assert report["held"] == {"sessions": 0, "programs": 0}


def test_metrics_start_from_zero_after_a_reset(port: PortProcess, model_server: ModelServer) -> None:
    options = {"lm": openai(model_server, "delay-60000"), "request_id": "slow"}
    port.done("ping")
    port.send_call("dspy_bridge", "execute_module", ["dspy.Predict", QA, "x", options])
    model_server.wait_for_requests(1)
    before = port.done("reset_metrics")
    assert before["operations"]["ping"]["calls"] == 1
    assert before["operations"]["execute_module"]["in_flight"] == 1
    after = port.done("metrics")
    assert "ping" not in after["operations"]
    # The running call counts in the second period too, in which it ends.
    assert after["operations"]["execute_module"]["calls"] == 1
    port.send_call("dspy_bridge", "cancel", ["slow"])
    # The answers of the two calls.
    port.receive(), port.receive()
    counted = port.done("metrics")["operations"]["execute_module"]
    assert (counted["calls"], counted["in_flight"], counted["errors"]) == (1, 0, {"cancelled": 1})


def test_operations_can_be_called_by_name(shared_port: PortProcess) -> None:
    by_map = {Atom("module"): "dspy.Predict", Atom("signature"): QA, Atom("inputs"): {"question": "x"}}
    assert shared_port.done("handle", "execute_module", by_map)["answer"]
    assert shared_port.done("handle", "ping", [5])["payload"] == 5
    assert 'did you mean "ping"?' in shared_port.failed("handle", "pign", {})["message"]
    assert shared_port.failed("handle", "ping", {"x": 1})["path"] == "args.x"


def test_operations_speak_json(shared_port: PortProcess) -> None:
    arguments = json.dumps(["dspy.Predict", QA, {"question": "x"}, {"request_id": "r"}])
    prediction = json.loads(shared_port.done("handle_json", "execute_module", arguments))
    assert prediction["answer"]
    assert prediction["$meta"]["request_id"] == "r"
    batch = json.loads(shared_port.done("handle_json", "execute_batch", json.dumps(["dspy.Predict", QA, ["x", {}]])))
    assert "answer" in batch[0]["ok"]
    assert batch[1]["error"]["kind"] == "input"
    status, text = shared_port.operate("handle_json", "execute_module", '["dspy.Predcit", "a -> b", {}]')
    assert (status, json.loads(text)["kind"]) == ("error", "module_not_found")
    status, text = shared_port.operate("handle_json", "ping", "{")
    assert (status, json.loads(text)["kind"]) == ("error", "input")


@pytest.mark.parametrize("mebibytes", [1, 16, 64])
def test_large_inputs_and_outputs_pass(shared_port: PortProcess, mebibytes: int) -> None:
    payload = "word " * (mebibytes * (1 << 20) // 5)
    assert shared_port.done("ping", payload)["payload"] == payload


def test_large_text_reaches_the_model(shared_port: PortProcess) -> None:
    inputs = {"context": "Filler sentence here. " * 50_000 + TEXT, "question": "Where does photosynthesis happen?"}
    prediction = shared_port.done("execute_module", "dspy.Predict", "context, question -> answer", inputs)
    assert prediction["answer"] == "It happens in the chloroplasts of plants."


def test_key_in_the_environment_is_not_sent_to_a_named_host(
    model_server: ModelServer,
) -> None:
    with PortProcess(environment={"OPENAI_API_KEY": "sk-environment-key"}) as port:
        lm = {"provider": "openai", "model": "answer", "api_base": f"{model_server.url}/v1"}
        port.done("execute_module", "dspy.Predict", QA, {"question": "x"}, {"lm": lm})
    assert "sk-environment-key" not in repr(model_server.requests[0].headers)
