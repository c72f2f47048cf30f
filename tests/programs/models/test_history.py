"""The history: the last requests to models, with and without their texts, bounded, and without keys."""

from __future__ import annotations

from typing import Any

import pytest

from erlport_bridge.programs.models import history
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

QA = "question -> answer"
HI = {"question": "hi"}


def test_requests_of_a_call_say_what_was_asked_and_what_came_of_it(
    port: PortProcess, model_server: ModelServer
) -> None:
    models = [openai(model_server, "status-503"), openai(model_server, "gpt-4o-mini", cache=True)]
    for number in range(2):
        port.done("execute_module", "dspy.Predict", QA, HI, {"lm": models, "request_id": f"r-{number}"})
    failed, answered = port.done("history", {"request_id": "r-0"})
    assert (failed["model"], failed["error"]["kind"], failed["attempts"]) == ("openai/status-503", "server", 1)
    assert (failed["usage"], failed["cost"]) == ({}, None)
    assert (answered["model"], answered["asked"]) == ("openai/gpt-4o-mini", "openai/status-503")
    assert (answered["error"], answered["cache_hit"], answered["attempts"]) == (None, False, 1)
    assert answered["usage"]["total_tokens"] > 0
    assert answered["cost"] > 0
    assert failed["at_ms"] <= answered["at_ms"]
    assert answered["duration_ms"] > 0
    assert (answered["messages"], answered["reply"]) == (None, None)
    _, cached = port.done("history", {"request_id": "r-1"})
    assert (cached["cache_hit"], cached["attempts"], cached["usage"]) == (True, 0, {})
    assert len(port.done("history")) == 4
    assert [one["request_id"] for one in port.done("history", {"n": 1})] == ["r-1"]


def test_repetitions_count_with_their_request(port: PortProcess, model_server: ModelServer) -> None:
    model_server.script("flaky", {"status": 503, "retry_after": "0.01"}, {})
    lm = openai(model_server, "scripted:flaky", num_retries=2)
    port.done("execute_module", "dspy.Predict", QA, HI, {"lm": lm})
    (kept,) = port.done("history")
    assert kept["attempts"] == 2


def test_requests_of_a_session_are_those_of_its_modules_and_programs(port: PortProcess) -> None:
    port.done("configure_lm", "embedded", {})
    program = port.done("create_program", {"signature": QA}, {"session_id": "s-1"})
    port.done("execute_program", None, program["id"], HI)
    port.done("execute_module", "dspy.Predict", QA, HI, {"session_id": "s-1"})
    port.done("execute_module", "dspy.Predict", QA, HI)
    assert [kept["session_id"] for kept in port.done("history")] == ["s-1", "s-1", None]
    assert len(port.done("history", {"session_id": "s-1"})) == 2


def test_request_that_was_not_made_is_not_listed(port: PortProcess, model_server: ModelServer) -> None:
    lm = openai(model_server, "answer")
    port.failed("execute_module", "dspy.Predict", QA, HI, {"lm": lm, "max_cost": 0})
    assert port.done("history") == []


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ({"n": 0}, "expected 1 to 1000 at opts.n, got 0"),
        ({"n": 1001}, "expected an integer from 1 to 1000 at opts.n, got 1001"),
        ({"request": "x"}, "request_id"),
    ],
    ids=str,
)
def test_wrong_option_is_an_error(shared_port: PortProcess, opts: dict[str, Any], message: str) -> None:
    details = shared_port.failed("history", opts)
    assert details["kind"] == "input"
    assert message.split(" at ")[-1].split(",")[0] in details["message"]


def test_full_history_has_messages_and_reply_without_keys(model_server: ModelServer) -> None:
    key = "sk-a-very-secret-key"
    with PortProcess(environment={"DSPEX_HISTORY": "full"}) as port:
        lm = {**openai(model_server, "answer"), "api_key": key}
        port.done("execute_module", "dspy.Predict", QA, {"question": f"what is {key}"}, {"lm": lm})
        model_server.script("calls", {"calls": [{"name": "answer", "args": {}}]})
        image = {"$type": "image", "data": b"\x89PNG\r\n\x1a\n" * 100, "media_type": "image/png"}
        port.operate("execute_module", "dspy.Predict", "picture: image -> answer", {"picture": image}, {"lm": lm})
        first, *_others = port.done("history", {"n": 10})
        port.close()
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert "what is [redacted]" in first["messages"][1]["content"]
    assert key not in repr(first)
    assert "[[ ## answer ## ]]" in first["reply"][0]


def test_history_can_be_off_and_a_wrong_word_is_refused(model_server: ModelServer) -> None:
    with PortProcess(environment={"DSPEX_HISTORY": "off"}) as port:
        port.done("execute_module", "dspy.Predict", QA, HI, {"lm": "embedded"})
        assert port.done("history") == []
    with PortProcess(environment={"DSPEX_HISTORY": "all"}) as port:
        tag, _, reason = port.call("dspy_bridge", "ping", None)
    assert tag == "e"
    assert "DSPEX_HISTORY" in repr(reason)


def test_ring_is_bounded_in_number_and_size() -> None:
    ring = history._Ring()
    for number in range(history.MAX_REQUESTS + 50):
        ring.keep({"number": number}, 1)
    assert [kept["number"] for kept in ring][:: history.MAX_REQUESTS - 1] == [50, history.MAX_REQUESTS + 49]
    for number in range(10):
        ring.keep({"number": number}, history.MAX_CHARACTERS // 4)
    assert len(list(ring)) <= 4
    # The newest stays, whatever its size.
    ring.keep({"number": "large"}, 2 * history.MAX_CHARACTERS)
    assert [kept["number"] for kept in ring] == ["large"]


def test_texts_of_one_request_are_cut_and_the_cut_is_said() -> None:
    long = "x" * 300_000
    cut = history._cut([{"content": long}, {"content": "after it"}])
    assert cut[0]["content"].endswith("… (100000 more characters)")
    assert len(cut[0]["content"]) < 200_100
    assert cut[1]["content"] == "… (8 more characters)"
