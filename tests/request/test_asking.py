"""Which calls ask a model is noted where the other side can read it after the death of Python."""

from __future__ import annotations

import signal
import struct
from pathlib import Path
from typing import Any

import pytest

from erlport_bridge.request import asking
from erlport_bridge.term import decode
from tests.model_server import ModelServer
from tests.port_process import PortProcess

QA = "question -> answer"
SLOTS = 8
# The pid <0.5.0> of a node without a name, as a BEAM encodes it.
PID = decode(b"\x83X" + b"w\x0dnonode@nohost" + bytes(3) + b"\x05" + bytes(8))


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Return a file with a few slots, and a second name by which the test can read it."""
    path = tmp_path / "notes"
    path.write_bytes(bytes(8 * SLOTS + 8 * asking.BATCHES))
    (tmp_path / "read").hardlink_to(path)
    return path


def slots(notes: Path, *, seen: bool = False) -> list[int]:
    """Return the ids of calls that asked a model, or of those of which others have seen something."""
    both = struct.unpack_from(f">{2 * SLOTS}I", (notes.parent / "read").read_bytes())
    return list(both[SLOTS:] if seen else both[:SLOTS])


def begun(notes: Path) -> dict[int, int]:
    """Return how many items of each batch have begun, by the id of its call."""
    pairs = struct.iter_unpack(">II", (notes.parent / "read").read_bytes()[8 * SLOTS :])
    return {call_id: count for call_id, count in pairs if count}


def model(server: ModelServer, name: str) -> dict[str, Any]:
    return {"provider": "openai", "model": name, "api_key": "k", "api_base": f"{server.url}/v1", "num_retries": 0}


def test_calls_that_ask_a_model_are_noted_and_the_note_survives_the_process(
    notes: Path, model_server: ModelServer
) -> None:
    with PortProcess(["--preload=dspy_bridge", f"--asked-notes={notes}"]) as port:
        port.done("list_sessions")
        # The name is gone, so that nothing is left behind however the two processes end.
        assert not notes.exists()
        assert port.failed("execute_module", "dspy.Predict", QA, "x", {})["kind"] == "lm_not_configured"
        assert slots(notes) == [0] * SLOTS
        begun = len(model_server.requests)
        call_id = port.send_call(
            "dspy_bridge", "execute_module", ["dspy.Predict", QA, "x", {"lm": model(model_server, "delay-60000")}]
        )
        model_server.wait_for_requests(begun + 1)
        port.process.send_signal(signal.SIGKILL)
        port.process.wait()
        assert slots(notes) == [call_id if slot == call_id % SLOTS else 0 for slot in range(SLOTS)]


@pytest.mark.parametrize("operation", ["execute_batch", "stream_module", "handle"])
def test_every_way_to_a_model_is_noted(notes: Path, model_server: ModelServer, operation: str) -> None:
    options = {"lm": model(model_server, "echo")}
    arguments: dict[str, list[Any]] = {
        "execute_batch": ["dspy.Predict", QA, [{"question": "x"}], options],
        "handle": ["execute_module", ["dspy.Predict", QA, "x", options]],
        "stream_module": [PID, 1, "dspy.Predict", QA, "x", {**options, "buffer": 1_000}],
    }
    with PortProcess(["--preload=dspy_bridge", f"--asked-notes={notes}"]) as port:
        call_id = port.send_call("dspy_bridge", operation, arguments[operation])
        while port.receive()[0] != "r":
            pass
        assert slots(notes)[call_id % SLOTS] == call_id
        # A stream has sent its pieces; the others have shown nothing to anybody.
        assert slots(notes, seen=True)[call_id % SLOTS] == (call_id if operation == "stream_module" else 0)


@pytest.mark.parametrize("name", ["stream_batch", "stream_program_batch", "stream_evaluate"])
def test_items_that_have_begun_are_noted_and_the_note_survives_the_process(
    notes: Path, model_server: ModelServer, name: str
) -> None:
    items = [{"question": str(number), "answer": "A"} for number in range(20)]
    options = {"max_concurrency": 3, "lm": model(model_server, "delay-60000")}
    with PortProcess(["--preload=dspy_bridge", f"--asked-notes={notes}"]) as port:
        about: list[Any] = ["dspy.Predict", QA, [{"question": item["question"]} for item in items]]
        if name != "stream_batch":
            program = port.done("create_program", {"signature": QA}, {"session_id": "s"})
            about = ["s", program["id"], items if name == "stream_evaluate" else about[2]]
        if name == "stream_evaluate":
            options["metric"] = "exact_match"
        requests = len(model_server.requests)
        call_id = port.send_call("dspy_bridge", name, [PID, 1, *about, options])
        model_server.wait_for_requests(requests + 3)
        port.process.send_signal(signal.SIGKILL)
        port.process.wait()
        # As many as run at the same time.
        assert begun(notes) == {call_id: 3}


@pytest.mark.parametrize("name", [None, "request_id", "repetition"])
def test_what_is_added_to_the_store_is_noted_as_seen_unless_it_would_be_found(
    notes: Path, tmp_path: Path, name: str | None
) -> None:
    """Made again after the death of Python, a call would add its turn, program or version twice, or delete nothing."""
    flags = ["--preload=dspy_bridge", f"--asked-notes={notes}", f"--store=sqlite:///{tmp_path}/dspex.db"]
    named = {} if name is None else {name: "r"}
    examples = [{"question": "Q", "answer": "A"}]
    with PortProcess(flags) as port:
        port.done("configure_lm", "embedded", {})

        def is_noted(operation: str, *arguments: Any) -> bool:
            call_id = port.send_call("dspy_bridge", operation, arguments)
            tag, answered, (status, result) = port.receive()
            assert (tag, answered, status) == ("r", call_id, "ok"), result
            results.append(result)
            return slots(notes, seen=True)[call_id % SLOTS] == call_id

        results: list[Any] = []
        assert is_noted("create_program", {"signature": QA, "history": True}, {"session_id": "s"})
        program = results[0]["id"]
        is_added = not named
        assert is_noted("execute_program", None, program, "x", {"conversation": "c", **named}) is is_added
        # Only the caller's own name is for compilations too.
        of_caller = named if name == "request_id" else {}
        compiled = {"optimizer": "dspy.LabeledFewShot", **of_caller}
        assert is_noted("compile_program", None, program, examples, compiled) is (not of_caller)
        # What only reads, or gives the same when it is made again.
        assert not is_noted("conversation", None, program, "c")
        assert not is_noted("seed_conversation", None, program, "d", [{"question": "Q", "answer": "A"}])
        # The call made again finds nothing to delete, which is an error.
        assert is_noted("delete_conversation", None, program, "c")
        assert is_noted("delete_program", None, program)
        assert is_noted("close_session", "s")


@pytest.mark.parametrize("content", [None, b"", bytes(8 * asking.BATCHES)])
def test_port_works_without_the_notes(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "notes"
    if content is not None:
        path.write_bytes(content)
    with PortProcess(["--preload=dspy_bridge", f"--asked-notes={path}"]) as port:
        port.done("configure_lm", "embedded", {})
        assert port.done("execute_module", "dspy.Predict", QA, "x", {})["answer"]


def test_nothing_is_noted_outside_of_a_call(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_notes", None)
    asking.note()
    asking.connect(str(notes))
    asking.note()
    assert slots(notes) == [0] * SLOTS
    token = asking.call_id.set(SLOTS + 3)
    asking.note()
    assert begun(notes) == {}
    asking.note_begun(1)
    asking.note_begun(2)
    asking.call_id.reset(token)
    asking.note_begun(3)
    assert slots(notes) == [0, 0, 0, SLOTS + 3, 0, 0, 0, 0]
    assert begun(notes) == {SLOTS + 3: 2}


def test_a_tool_that_is_called_is_noted_as_seen(notes: Path, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from erlport_bridge.programs.tools import offer\n@offer\ndef stock(article: str) -> str:\n    'Stock.'\n"
        "    return '7'\n"
    )
    options = {"lm": "embedded", "tools": ["stock"]}
    environment = {"PYTHONPATH": str(tmp_path)}
    with PortProcess(["--preload=dspy_bridge,shop", f"--asked-notes={notes}"], environment=environment) as port:
        call_id = port.send_call(
            "dspy_bridge", "execute_module", ["dspy.ReAct", QA, "How many bolts are in stock?", options]
        )
        while port.receive()[0] != "r":
            pass
        assert slots(notes, seen=True)[call_id % SLOTS] == call_id
