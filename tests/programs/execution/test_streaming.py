"""Streams of events while a module runs, over a real port and from real server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.port import elixir
from erlport_bridge.programs.execution import streaming
from erlport_bridge.term import Atom, OtpErlangPid, decode
from tests.deadlines import at_deadline
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess
from tests.programs.text.test_chat_text import COMPLETIONS

QA = "question -> answer"
# The pid <0.5.0> of a node without a name, as a BEAM encodes it.
PID = decode(b"\x83X" + b"w\x0dnonode@nohost" + bytes(3) + b"\x05" + bytes(8))
COT = "[[ ## reasoning ## ]]\nIt is [[a]] capital.\n\n[[ ## answer ## ]]\nLisbon\n\n[[ ## completed ## ]]"


def start(port: PortProcess, *arguments: Any, ref: Any = "s") -> int:
    assert isinstance(PID, OtpErlangPid)
    return port.send_call("dspy_bridge", "stream_module", [PID, ref, *arguments])


def finish(port: PortProcess, call_id: int, *, ref: Any = "s") -> tuple[list[Mapping[str, str]], Any]:
    """Return the events until the answer, each of them acknowledged, and the answer.

    Acknowledgements are calls too, which may be answered after the stream.
    """
    events, unanswered, answers = [], {call_id}, {}
    while unanswered:
        match port.receive():
            case ("M", pid, ("dspex_stream", given, event)):
                assert (pid, given) == (PID, ref)
                events.append(event)
                unanswered.add(port.send_call("dspy_bridge", "stream_ack", [ref, 1]))
            case ("r", answered, result):
                assert answered == call_id or result in (("ok", True), ("ok", False))
                answers[answered] = result
                unanswered.discard(answered)
    return events, answers[call_id]


def receive_event(port: PortProcess) -> Mapping[str, str]:
    tag, _, (_, _, event) = port.receive()
    assert tag == "M"
    assert isinstance(event, dict)
    return event


def run(port: PortProcess, *arguments: Any, ref: Any = "s") -> tuple[list[Mapping[str, str]], Any]:
    return finish(port, start(port, *arguments, ref=ref), ref=ref)


def texts(events: list[Mapping[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for event in events:
        if event["type"] == "chunk":
            found.setdefault(event["field"], []).append(event["text"])
    return found


def settled(port: PortProcess) -> dict[str, Any]:
    """Return the metrics of a port that still answers, after all late answers to acknowledgements."""
    port.settle()
    return dict(port.done("metrics"))


def test_each_field_comes_in_the_pieces_that_the_model_writes(port: PortProcess, model_server: ModelServer) -> None:
    pieces = [COT[at : at + 4] for at in range(0, len(COT), 4)]
    model_server.script("cot", {"pieces": pieces, "pause_ms": 1})
    options = {"lm": openai(model_server, "scripted:cot")}
    events, (status, prediction) = run(port, "dspy.ChainOfThought", QA, "Which?", options)
    assert status == "ok"
    assert {name: "".join(parts) for name, parts in texts(events).items()} == {
        "reasoning": "It is [[a]] capital.",
        "answer": "Lisbon",
    }
    assert (prediction["reasoning"], prediction["answer"]) == ("It is [[a]] capital.", "Lisbon")
    assert all(len(parts) > 1 for parts in texts(events).values())
    assert prediction["$meta"]["usage"]["openai/scripted:cot"]["total_tokens"] > 0


def test_fields_come_in_pieces_however_their_markers_are_marked(port: PortProcess, model_server: ModelServer) -> None:
    """From a marker in bold, or one that is mentioned, on, all text came as one piece at the end."""
    completion = "**[[ ## reasoning ## ]]**\nNow [[ ## answer ## ]] follows.\n### [[ ## answer ## ]]\nLisbon, I think."
    model_server.script("marked", {"pieces": [completion[at : at + 4] for at in range(0, len(completion), 4)]})
    options = {"lm": openai(model_server, "scripted:marked")}
    events, (status, prediction) = run(port, "dspy.ChainOfThought", QA, "Which?", options)
    assert (status, prediction["answer"]) == ("ok", "Lisbon, I think.")
    found = texts(events)
    assert {name: "".join(parts) for name, parts in found.items()} == {
        "reasoning": "Now [[ ## answer ## ]] follows.",
        "answer": "Lisbon, I think.",
    }
    assert [len(parts) > 1 for parts in found.values()] == [True, True]


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize(
    ("completion", "fields"),
    [case for case in COMPLETIONS.values() if case[1].keys() == {"reasoning", "answer"}],
    ids=[name for name, case in COMPLETIONS.items() if case[1].keys() == {"reasoning", "answer"}],
)
def test_a_stream_gives_what_a_call_gives(
    shared_port: PortProcess, model_server: ModelServer, completion: str, fields: dict[str, str], size: int
) -> None:
    pieces = [completion[at : at + size] for at in range(0, len(completion), size)]
    model_server.script("odd", {"pieces": pieces}, {"content": completion})
    call = ("dspy.ChainOfThought", QA, "Which?", {"lm": openai(model_server, "scripted:odd")})
    events, (status, streamed) = run(shared_port, *call)
    settled(shared_port)
    assert status == "ok", streamed
    called = shared_port.done("execute_module", *call)
    assert {name: "".join(parts) for name, parts in texts(events).items()} == fields
    assert {name: streamed[name] for name in fields} == {name: called[name] for name in fields} == fields


def test_a_stream_that_is_cut_off_has_a_warning(shared_port: PortProcess, model_server: ModelServer) -> None:
    model_server.script("cut", {"content": "[[ ## answer ## ]]\nLis", "finish_reason": "length"})
    events, (status, prediction) = run(
        shared_port, "dspy.Predict", QA, "Which?", {"lm": openai(model_server, "scripted:cut")}
    )
    settled(shared_port)
    assert (status, prediction["answer"], "".join(texts(events)["answer"])) == ("ok", "Lis", "Lis")
    assert "was cut off" in prediction["$meta"]["warnings"][0]


def test_a_stream_says_why_its_answer_ended(shared_port: PortProcess, model_server: ModelServer) -> None:
    model_server.script("cut", {"content": "[[ ## reasoning ## ]]\nSo", "finish_reason": "length"})
    options = {"lm": openai(model_server, "scripted:cut")}
    events, (_, (_, details)) = run(shared_port, "dspy.ChainOfThought", QA, "Which?", options)
    settled(shared_port)
    assert "".join(texts(events)["reasoning"]) == "So"
    assert (details["kind"], details["finish_reason"], len(model_server.requests)) == ("parse", "length", 1)


@pytest.mark.parametrize("module", ["dspy.Predict", "dspy.ChainOfThought", "dspy.ReAct", "dspy.MultiChainComparison"])
def test_awaited_modules_stream_in_pieces(port: PortProcess, model_server: ModelServer, module: str) -> None:
    events, (status, prediction) = run(port, module, QA, "Why is that?", {"lm": openai(model_server, "any")})
    assert status == "ok", prediction
    expected = {name: value for name, value in prediction.items() if isinstance(value, str)}
    assert {name: "".join(parts) for name, parts in texts(events).items()} == expected
    assert all(len(parts) > 1 for parts in texts(events).values())


def test_the_first_piece_comes_while_the_model_still_writes(port: PortProcess, model_server: ModelServer) -> None:
    model_server.script("two", {"pieces": ["[[ ## answer ## ]]\none", " two"], "pause_ms": 300})
    call_id = start(port, "dspy.Predict", QA, "?", {"lm": openai(model_server, "scripted:two")})
    while receive_event(port)["type"] != "chunk":
        pass
    request = model_server.wait_for_requests(1)[0]
    assert not request.done.is_set()
    events, (status, prediction) = finish(port, call_id)
    assert (status, prediction["answer"], texts(events)) == ("ok", "one two", {"answer": [" two"]})


def test_status_says_what_begins(port: PortProcess, model_server: ModelServer) -> None:
    call = {"next_thought": "-", "next_tool_name": "calculator", "next_tool_args": {"expression": "2 * 3"}}
    done = {"next_thought": "-", "next_tool_name": "finish", "next_tool_args": {}}
    replies = (call, done, {"reasoning": "It says so.", "answer": "6"})
    model_server.script("react", *({"fields": fields} for fields in replies))
    options = {"lm": openai(model_server, "scripted:react"), "tools": ["calculator"]}
    events, (status, prediction) = run(port, "dspy.ReAct", QA, "What is 2 * 3?", options)
    assert status == "ok", prediction
    begun = [(event["stage"], event["name"]) for event in events if event["type"] == "status"]
    assert begun[0] == ("module", "dspy.ReAct")
    assert [name for stage, name in begun if stage == "tool"] == ["calculator"]
    assert begun.count(("model", "openai/scripted:react")) == 3
    # The fields of an agent's steps are not fields of the answer.
    assert {name: "".join(parts) for name, parts in texts(events).items()} == {
        "reasoning": "It says so.",
        "answer": "6",
    }


@pytest.mark.parametrize(
    "options",
    [{"lm": "embedded"}, {"adapter": "json"}, {"adapter": "xml"}],
    ids=["a model that does not stream", "JSON", "XML"],
)
def test_a_field_comes_whole_where_it_cannot_be_streamed(
    port: PortProcess, model_server: ModelServer, options: dict[str, Any]
) -> None:
    if options.get("adapter") == "xml":
        model_server.script("x", {"content": "<reasoning>\nbecause\n</reasoning>\n<answer>\nLisbon\n</answer>"})
    model = "scripted:x" if options.get("adapter") == "xml" else "any"
    events, (status, prediction) = run(
        port, "dspy.ChainOfThought", QA, "Why?", {"lm": openai(model_server, model), **options}
    )
    assert status == "ok", prediction
    assert texts(events) == {"reasoning": [prediction["reasoning"]], "answer": [prediction["answer"]]}


def test_a_program_streams_stage_by_stage(port: PortProcess, model_server: ModelServer) -> None:
    """Both stages return a reasoning; the prediction has that of the last stage."""
    replies = ({"reasoning": "first", "topic": "towns"}, {"reasoning": "second", "answer": "Lisbon"})
    model_server.script("stages", *({"fields": fields} for fields in replies))
    stages = [
        {"module": "dspy.ChainOfThought", "signature": "question -> topic"},
        {"module": "dspy.ChainOfThought", "signature": "question, topic -> answer"},
    ]
    program = port.done("create_program", {"signature": "question -> answer", "modules": stages})
    arguments = [
        PID,
        "s",
        program["session_id"],
        program["id"],
        "Which?",
        {"lm": openai(model_server, "scripted:stages")},
    ]
    call_id = port.send_call("dspy_bridge", "stream_program", arguments)
    events, (status, prediction) = finish(port, call_id)
    assert status == "ok", prediction
    expected = {"topic": "towns", "reasoning": "second", "answer": "Lisbon"}
    assert {name: prediction[name] for name in expected} == expected
    assert {name: "".join(parts) for name, parts in texts(events).items()} == expected
    assert list(texts(events)) == ["topic", "reasoning", "answer"]


def test_fields_that_are_no_text_come_with_the_prediction_only(port: PortProcess, model_server: ModelServer) -> None:
    signature = "question -> count: int, answer, words: list[str]"
    events, (status, prediction) = run(port, "dspy.Predict", signature, "?", {"lm": openai(model_server, "any")})
    assert (status, prediction["count"]) == ("ok", 42)
    assert {name: "".join(parts) for name, parts in texts(events).items()} == {"answer": prediction["answer"]}


def test_the_first_of_several_completions_is_streamed(port: PortProcess, model_server: ModelServer) -> None:
    model_server.script("n", {"fields": {"answer": "one"}}, {"fields": {"answer": "two"}})
    options = {"lm": openai(model_server, "scripted:n"), "n": 2}
    events, (status, prediction) = run(port, "dspy.Predict", QA, "?", options)
    assert (status, prediction["answer"], "".join(texts(events)["answer"])) == ("ok", "one", "one")
    assert [each["answer"] for each in prediction["$meta"]["completions"]] == ["one", "two"]


def test_a_reader_who_stops_stops_the_model_and_the_deadline_holds(
    port: PortProcess, model_server: ModelServer
) -> None:
    """The answer has about 20 MB, more than all buffers between the model and the reader can hold."""
    # Otherwise the import of DSPy would count as time of the call.
    port.done("ping")
    options = {"lm": openai(model_server, "long-2000000"), "buffer": 3, "timeout": 8_000}
    call_id = start(port, "dspy.Predict", QA, "?", options)
    for _ in range(3):
        receive_event(port)
    # Only the answer follows.
    tag, answered, (status, (_, details)) = port.receive()
    assert (tag, answered, status) == ("r", call_id, "error")
    assert (details["kind"], details["stage"]) == ("timeout", "reader")
    request = model_server.wait_for_requests(1)[0]
    assert request.done.wait(10)
    assert request.disconnected


def test_acknowledging_gives_room_for_as_many_more(port: PortProcess, model_server: ModelServer) -> None:
    options = {"lm": openai(model_server, "long-2000"), "buffer": 2, "timeout": 60_000}
    call_id = start(port, "dspy.Predict", QA, "?", options)
    received = [receive_event(port), receive_event(port)]
    for _ in range(4):
        ack = port.send_call("dspy_bridge", "stream_ack", ["s", 1])
        messages = [port.receive(), port.receive()]
        # In any order: the event may be sent before the answer to its acknowledgement.
        assert ("r", ack, ("ok", True)) in messages
        received += [message[2][2] for message in messages if message[0] == "M"]
    assert len(received) == 6
    port.send_call("dspy_bridge", "stream_ack", ["s", 1_000])
    events, (status, prediction) = finish(port, call_id)
    assert (status, "".join(texts([*received, *events])["answer"])) == ("ok", prediction["answer"])


def test_an_error_of_the_provider_is_the_answer(port: PortProcess, model_server: ModelServer) -> None:
    events, (status, (_, details)) = run(port, "dspy.Predict", QA, "?", {"lm": openai(model_server, "status-401")})
    assert (status, details["kind"], texts(events)) == ("error", "auth", {})
    # The text has been sent already, so the model cannot be asked again with another adapter.
    model_server.script("odd", {"pieces": ["[[ ## answer ## ]]\nLisbon"]})
    options = {"lm": openai(model_server, "scripted:odd")}
    events, (status, (_, details)) = run(port, "dspy.Predict", "question -> answer, other", "?", options)
    assert (status, details["kind"], texts(events)) == ("error", "parse", {"answer": ["Lisbon"]})


def test_the_deadline_ends_a_stream_and_closes_the_request(port: PortProcess, model_server: ModelServer) -> None:
    port.done("ping")  # the import of DSPy must not count as time of the call

    def attempt(timeout_ms: int) -> Any:
        options = {"lm": openai(model_server, "slow-200"), "timeout": timeout_ms}
        return run(port, "dspy.Predict", QA, "?" * 10_000, options)

    _, (status, (_, details)) = at_deadline(1_000, attempt, lambda ended: bool(texts(ended[0])))
    assert (status, details["kind"], details["stage"]) == ("error", "timeout", "model")
    request = model_server.requests[-1]
    assert request.done.wait(60)
    assert request.disconnected


def test_many_streams_at_once_do_not_mix(port: PortProcess, model_server: ModelServer) -> None:
    options = {"lm": openai(model_server, "slow-1")}
    refs = {start(port, "dspy.Predict", QA, f"question {n}", options, ref=[n, {}]): n for n in range(30)}
    told: dict[int, str] = dict.fromkeys(refs.values(), "")
    answers: dict[int, str] = {}
    while len(answers) < len(refs):
        match port.receive():
            case ("M", _, ("dspex_stream", [number, _], event)):
                told[number] += event.get("text", "")
                port.send_call("dspy_bridge", "stream_ack", [[number, {}], 1])
            case ("r", call_id, ("ok", {"answer": answer})):
                answers[refs[call_id]] = answer
    assert answers == told == {n: f"answer to question {n}" for n in range(30)}


def test_a_ref_belongs_to_one_stream_and_is_free_again_at_its_end(port: PortProcess, model_server: ModelServer) -> None:
    first = start(port, "dspy.Predict", QA, "?", {"lm": openai(model_server, "delay-3000")})
    model_server.wait_for_requests(1)
    second = start(port, "dspy.Predict", QA, "?", {"lm": "embedded"})
    messages: list[Any] = []
    while not messages or messages[-1][:2] != ("r", second):
        messages.append(port.receive())
    status, (_, details) = messages[-1][2]
    assert (status, details["kind"], details["path"]) == ("error", "input", "ref")
    assert finish(port, first)[1][0] == "ok"
    assert run(port, "dspy.Predict", QA, "?", {"lm": "embedded"})[1][0] == "ok"
    settled(port)


@pytest.mark.parametrize(
    ("operation", "arguments", "path"),
    [
        ("stream_module", ["no pid", "s", "dspy.Predict", QA, "?", {"lm": "embedded"}], "reply_to"),
        ("stream_module", [PID, "s", "dspy.Predict", QA, "?", {"lm": "embedded", "buffer": 0}], "opts.buffer"),
        ("stream_module", [PID, "s", "dspy.Predict", QA, {"wrong": 1}, {"lm": "embedded"}], "inputs.wrong"),
        ("stream_ack", ["s", 0], "count"),
        ("stream_ack", ["s", Atom("all")], "count"),
    ],
)
def test_a_wrong_argument_is_named(shared_port: PortProcess, operation: str, arguments: list[Any], path: str) -> None:
    details = shared_port.failed(operation, *arguments)
    assert (details["kind"], details["path"]) == ("input", path)


def test_acknowledging_a_stream_that_has_ended_says_so(shared_port: PortProcess) -> None:
    assert shared_port.done("stream_ack", "never was", 1) is False


def test_without_a_port_that_takes_messages_there_is_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ErlPort's own Python half nobody could acknowledge events while the call runs."""
    monkeypatch.setattr(elixir, "_send", None)

    async def open_one() -> None:
        with streaming.opened(PID, "s"):
            pass

    with pytest.raises(OperationError, match="a stream needs a port of") as raised:
        asyncio.run(open_one())
    assert raised.value.kind == "transport"
    assert streaming.running() == 0


def test_status_that_nobody_reads_is_dropped_but_for_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(elixir, "_send", sent.append)

    async def tell() -> None:
        with streaming.opened(PID, "s", 2) as events:
            for number in range(10):
                events.offer({"number": str(number)})
            streaming.acknowledge("s", 2)
            # This event waits, as the reader has no room.
            last = asyncio.ensure_future(events.send({"number": "last"}))
            await asyncio.sleep(0)
            assert events.is_waiting
            streaming.acknowledge("s", 1)
            await last
        events.offer({"number": "after the end"})

    asyncio.run(tell())
    assert [message.term[2]["number"] for message in sent] == ["0", "1", "8", "9", "last"]
