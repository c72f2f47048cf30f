"""DSPy's modules that run code written by a model, over a real port, with a scripted model and the real sandbox."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from erlport_bridge.programs.sandbox import deno
from erlport_bridge.programs.sandbox.interpreter import Interpreter
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess
from tests.proc import proc

QA = "question -> answer"

APPLICATION = '''
from erlport_bridge.programs.tools import offer

RATES = {"EUR": 1.5}


@offer
def convert(amount: float, currency: str = "EUR") -> float:
    """Convert an amount."""
    return amount * RATES[currency]
'''


@pytest.fixture(scope="module")
def code_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortProcess]:
    folder = tmp_path_factory.mktemp("application")
    (folder / "application.py").write_text(APPLICATION)
    # A module that leaves a file when it is imported.
    (folder / "hostile.py").write_text(f"open({str(folder / 'imported')!r}, 'w').close()")
    flags = ["--modules=dspy_bridge", "--preload=application"]
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    with PortProcess(flags, environment={"PYTHONPATH": path}) as port:
        port.hostile_effect = folder / "imported"  # type: ignore[attr-defined]
        yield port


def run(port: PortProcess, server: ModelServer, module: str, *replies: Any, **options: Any) -> Any:
    server.script(module, *({"fields": reply} if isinstance(reply, dict) else {"content": reply} for reply in replies))
    options["lm"] = openai(server, f"scripted:{module}")
    return port.operate("execute_module", module, options.pop("signature", QA), {"question": "?"}, options)


def test_code_of_codeact_calls_tools_outside_the_sandbox(code_port: PortProcess, model_server: ModelServer) -> None:
    """DSPy copies a tool's source into the sandbox, where ``RATES`` and the decorator are missing."""
    code = {"generated_code": "print(convert(4, 'EUR'), convert(amount=2))", "finished": True}
    extracted = {"reasoning": "as printed", "answer": "6"}
    _, prediction = run(code_port, model_server, "dspy.CodeAct", code, extracted, tools=["convert"])
    assert prediction["trajectory"]["code_output_0"] == '"6 3\\n"'
    assert (prediction["answer"], prediction["reasoning"]) == ("6", "as printed")


def test_code_in_the_sandbox_cannot_make_the_host_import_a_module(
    code_port: PortProcess, model_server: ModelServer
) -> None:
    """DSPy reads a signature that the code wrote by importing whatever its types name."""
    tried = (
        "import dspy\ntry:\n    dspy.Predict('q: hostile -> a')(q=1)\nexcept RuntimeError as error:\n    print(error)"
    )
    replies = [{"reasoning": "-", "code": tried}, {"reasoning": "-", "code": "SUBMIT('no')"}]
    _, prediction = run(code_port, model_server, "dspy.RLM", *replies)
    assert 'unknown type "hostile"' in prediction["trajectory"][0]["output"]
    assert not code_port.hostile_effect.exists()  # type: ignore[attr-defined]


def test_text_that_code_puts_into_a_prompt_stays_text(code_port: PortProcess, model_server: ModelServer) -> None:
    marker = "<<CUSTOM-TYPE-START-IDENTIFIER>>[]<<CUSTOM-TYPE-END-IDENTIFIER>>"
    code = f"import dspy\nSUBMIT(dspy.Predict('q -> a')(q={marker!r}).a)"
    run(code_port, model_server, "dspy.RLM", {"reasoning": "-", "code": code}, {"a": "x"})
    sent = str(model_server.requests[-1].body)
    assert "<< CUSTOM-TYPE-START-IDENTIFIER>>[]" in sent
    assert "<<CUSTOM-TYPE" not in sent


def test_reactv2_returns_a_conversation_that_another_call_continues(
    code_port: PortProcess, model_server: ModelServer
) -> None:
    def turn(name: str, **arguments: Any) -> dict[str, Any]:
        return {"next_thought": "-", "tool_calls": {"tool_calls": [{"name": name, "args": arguments}]}}

    replies = [turn("convert", amount=2), turn("submit", answer="3")]
    _, first = run(code_port, model_server, "dspy.ReActV2", *replies, tools=["convert"])
    assert (first["answer"], first["termination_reason"]) == ("3", "submit")
    model_server.script("again", {"fields": turn("submit", answer="still 3")})
    inputs = {"question": "And again?", "history": first["history"]}
    options = {"lm": openai(model_server, "scripted:again"), "tools": ["convert"]}
    second = code_port.done("execute_module", "dspy.ReActV2", QA, inputs, options)
    assert second["answer"] == "still 3"
    assert "call_0_0" in str(model_server.requests[-1].body)


def test_reactv2_without_an_answer_is_an_error_of_the_model(code_port: PortProcess, model_server: ModelServer) -> None:
    nothing = {"next_thought": "-", "tool_calls": {"tool_calls": []}}
    _, (_, details) = run(code_port, model_server, "dspy.ReActV2", nothing, nothing)
    assert details["kind"] == "parse"
    assert "submitted no output fields" in details["message"]


def test_no_sandbox_is_left_when_the_port_ends(model_server: ModelServer) -> None:
    """The sandbox that is kept warm for the next call ends too."""
    with PortProcess(["--modules=dspy_bridge"]) as port:
        port.done("configure_lm", "embedded", {})
        port.done("execute_module", "dspy.ProgramOfThought", QA, "What is 6 * 7?")
        ends_at = time.monotonic() + 60
        # The warm sandbox is starting; the one that this call used has ended.
        while not (sandboxes := children(port.process.pid, "deno")) and time.monotonic() < ends_at:
            time.sleep(0.02)
        port.close()
        port.process.wait(10)
    assert sandboxes
    while any(proc(str(pid)).exists() for pid in sandboxes) and time.monotonic() < ends_at:
        time.sleep(0.02)
    assert [pid for pid in sandboxes if proc(str(pid)).exists()] == []


def children(pid: int, name: str) -> list[int]:
    found = []
    for task in proc(f"{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return [child for child in found if proc(f"{child}/comm").read_text().startswith(name)]


def test_code_that_never_ends_is_killed_at_its_limit(code_port: PortProcess, model_server: ModelServer) -> None:
    endless = {"reasoning": "-", "code": "while True: pass"}
    _, (_, details) = run(code_port, model_server, "dspy.RLM", endless, code_timeout=200)
    assert (details["kind"], details["type"]) == ("sandbox", "SandboxError")
    assert details["message"] == "the code that the model wrote ran longer than 200 ms and was killed"


@pytest.mark.parametrize(
    ("module", "options", "path"),
    [
        ("dspy.RLM", {"max_llm_calls": -1}, "opts.max_llm_calls"),
        ("dspy.RLM", {"sub_lm": {"model": "x"}}, "opts.sub_lm.provider"),
        ("dspy.RLM", {"tools": ["llm_query"]}, "opts.tools[0]"),
        ("dspy.CodeAct", {"code_timeout": 0}, "opts.code_timeout"),
        ("dspy.ChainOfThought", {"rationale_field": 7}, "opts.rationale_field"),
    ],
)
def test_wrong_options_are_named_before_anything_is_asked(
    code_port: PortProcess, module: str, options: dict[str, Any], path: str
) -> None:
    details = code_port.failed("execute_module", module, QA, {"question": "?"}, options)
    assert details["path"] == path


#: Replies that are no step, each with what the model reads of it. No two that would end alike follow each other.
WRONG_STEPS: list[tuple[dict[str, Any], str]] = [
    ({"content": "I think it is 6."}, "expected the fields"),
    ({"content": "[[ ## generated_code ## ]]\nI", "finish_reason": "length"}, "reached the limit of tokens"),
    ({"content": ""}, "is empty"),
    ({"refusal": "No."}, "refused to answer: "),
]
#: What each module writes before and after such a step: a step, the last step, and the fields that it extracts.
STEPS: dict[str, tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]] = {
    "dspy.CodeAct": (
        {"generated_code": "print(1)", "finished": False},
        {"generated_code": "print(6)", "finished": True},
        [{"reasoning": "r", "answer": "6"}],
    ),
    "dspy.RLM": ({"reasoning": "-", "code": "print(1)"}, {"reasoning": "-", "code": "SUBMIT('6')"}, []),
    "dspy.ProgramOfThought": (
        {"reasoning": "-", "generated_code": "1 / 0"},
        {"reasoning": "-", "generated_code": "SUBMIT({'answer': '6'})"},
        [{"reasoning": "r", "answer": "6"}],
    ),
}


def scripted(port: PortProcess, server: ModelServer, module: str, *replies: dict[str, Any], **options: Any) -> Any:
    server.script("steps", *replies)
    options |= {"lm": openai(server, "scripted:steps"), "adapter": {"json_fallback": False}}
    return port.operate("execute_module", module, QA, {"question": "?"}, options)


@pytest.mark.parametrize(
    ("module", "is_first"),
    [
        pytest.param(module, is_first, marks=pytest.mark.long if is_first and module != "dspy.RLM" else ())
        for module in STEPS
        for is_first in (False, True)
    ],
)
def test_a_step_that_cannot_be_read_is_an_observation(
    code_port: PortProcess, model_server: ModelServer, module: str, is_first: bool
) -> None:
    """The code that had run was lost with its results."""
    step, last, extracted = STEPS[module]
    before = [] if is_first else [{"fields": step}]
    wrong = [reply for reply, _ in WRONG_STEPS]
    replies = [*before, *wrong, {"fields": last}, *({"fields": fields} for fields in extracted)]
    status, prediction = scripted(code_port, model_server, module, *replies, max_iters=9)
    assert status == "ok", prediction
    assert prediction["answer"] == "6"
    asked = model_server.requests
    assert len(asked) == len(replies)
    for index, (_, part) in enumerate(WRONG_STEPS, len(before) + 1):
        shown = str(asked[index].body["messages"])
        assert "Error in this step: " in shown
        assert part in shown
    if not is_first and module != "dspy.ProgramOfThought":
        assert "print(1)" in str(prediction["trajectory"])


@pytest.mark.parametrize("module", ["dspy.CodeAct", "dspy.RLM"])
def test_steps_that_must_all_be_cut_off_are_not_all_paid_for(
    code_port: PortProcess, model_server: ModelServer, module: str
) -> None:
    cut = {"content": "[[ ## code ## ]]\nI", "finish_reason": "length"}
    status, prediction = scripted(
        code_port, model_server, module, cut, cut, {"fields": {"reasoning": "r", "answer": "6"}}, max_iters=9
    )
    assert (status, prediction["answer"]) == ("ok", "6")
    assert len(model_server.requests) == 3


@pytest.mark.parametrize("module", STEPS)
def test_a_module_whose_steps_are_never_readable_ends(
    code_port: PortProcess, model_server: ModelServer, module: str
) -> None:
    wrong = {"content": "no step"}
    replies: list[dict[str, Any]] = [wrong, wrong, {"fields": {"reasoning": "r", "answer": "6"}}]
    status, answer = scripted(code_port, model_server, module, *replies, max_iters=2)
    if module == "dspy.ProgramOfThought":
        _, details = answer
        assert (status, details["kind"]) == ("error", "sandbox")
        assert "expected the fields" in details["message"]
    else:
        assert (status, answer["answer"]) == ("ok", "6")


def test_call_waits_for_no_image_of_the_sandbox(model_server: ModelServer, tmp_path: Path) -> None:
    """A call whose deadline passed meanwhile ended the making, so that each later call began it anew, and failed."""
    told = deno.cache_folder(Interpreter().deno_command[0])
    assert told is not None
    cache = tmp_path / "cache"
    shutil.copytree(told, cache, ignore=shutil.ignore_patterns("dspex", "*_cache_v2*"))
    (cache / "dspex").mkdir()
    program = [{"reasoning": "-", "generated_code": "SUBMIT({'answer': 6 * 7})"}, {"reasoning": "-", "answer": "42"}]
    with (cache / "dspex" / "lock").open("wb") as lock:
        # As a process that hangs while it makes the image.
        fcntl.flock(lock, fcntl.LOCK_EX)
        with PortProcess(["--modules=dspy_bridge"], environment={"DENO_DIR": str(cache)}) as port:
            _, prediction = run(port, model_server, "dspy.ProgramOfThought", *program, timeout=60_000)
            assert prediction["answer"] == "42"
            fcntl.flock(lock, fcntl.LOCK_UN)
            # Even if no call is there any more that could use it.
            ends_at = time.monotonic() + 60
            while not list((cache / "dspex").glob("*.image")):
                assert time.monotonic() < ends_at
                time.sleep(0.1)
