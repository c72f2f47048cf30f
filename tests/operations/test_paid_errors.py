"""Each error after which a model was asked says what was paid: in ``usage`` by model, and in ``cost``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

QA = "question -> answer"
HI = {"question": "hi"}


@pytest.fixture(scope="module")
def paying(ports: Any) -> Iterator[PortProcess]:
    with ports.start() as port:
        yield port


def two_stages(second: str, server: ModelServer, **options: Any) -> dict[str, Any]:
    """Return the spec of a program whose first stage has an answer, and whose second stage fails."""
    return {
        "modules": [
            {"name": "first", "module": "dspy.Predict", "signature": "question -> draft"},
            {
                "name": "second",
                "module": "dspy.Predict",
                "signature": "draft -> answer",
                "lm": openai(server, second, **options),
            },
        ]
    }


# What the second model does, the kind of the error, and further options of the call.
FAILURES: dict[str, tuple[str, dict[str, Any]]] = {
    "status-500": ("server", {}),
    "status-429": ("rate_limit", {}),
    "status-400": ("provider", {}),
    "error-invalid_api_key": ("auth", {}),
    "error-insufficient_quota": ("billing", {}),
    "error-context_length_exceeded": ("context_window", {}),
    "error-model_not_found": ("unsupported_model", {}),
    "closed": ("transport", {}),
    "garbage": ("parse", {}),
    "malformed": ("provider", {}),
    "delay-60000": ("timeout", {"timeout": 1_500}),
    "answer": ("budget", {"max_tokens_total": 1}),
}


@pytest.mark.parametrize(("second", "expected"), FAILURES.items(), ids=FAILURES)
@pytest.mark.parametrize("operation", ["execute_program", "execute_program_batch"])
def test_error_of_each_kind_says_what_was_paid(
    paying: PortProcess, model_server: ModelServer, second: str, expected: tuple[str, dict[str, Any]], operation: str
) -> None:
    kind, opts = expected
    program = paying.done("create_program", two_stages(second, model_server), {"session_id": "paid"})["id"]
    lm = openai(model_server, "gpt-4o-mini")
    if operation == "execute_program":
        details = paying.failed(operation, None, program, HI, {"lm": lm, **opts})
    else:
        ((_, (_, details)),) = paying.done(operation, None, program, [HI], {"lm": lm, **opts})
    paying.done("close_session", "paid")
    assert details["kind"] == kind
    assert details["usage"]["openai/gpt-4o-mini"]["total_tokens"] > 0
    # The price of the second model's answer, if it gave one, is not known.
    assert details["cost"] is None if second == "garbage" else details["cost"] > 0


def test_error_before_a_model_is_asked_says_nothing_of_it(paying: PortProcess, model_server: ModelServer) -> None:
    lm = openai(model_server, "gpt-4o-mini")
    details = paying.failed("execute_module", "dspy.Predict", QA, {"wrong": 1}, {"lm": lm})
    assert details["kind"] == "input"
    assert not {"usage", "cost"} & details.keys()


def test_model_that_was_asked_in_vain_was_paid_nothing(paying: PortProcess, model_server: ModelServer) -> None:
    details = paying.failed("execute_module", "dspy.Predict", QA, HI, {"lm": openai(model_server, "status-500")})
    assert (details["usage"], details["cost"]) == ({}, None)


def test_cancelled_call_says_what_was_paid(paying: PortProcess, model_server: ModelServer) -> None:
    program = paying.done("create_program", two_stages("delay-60000", model_server), {"session_id": "paid"})["id"]
    opts = {"lm": openai(model_server, "gpt-4o-mini"), "request_id": "r-1"}
    call_id = paying.send_call("dspy_bridge", "execute_program", [None, program, HI, opts])
    model_server.wait_for_requests(2)
    cancel_id = paying.send_call("dspy_bridge", "cancel", ["r-1"])
    answers = {answer[1]: answer[2] for answer in (paying.receive(), paying.receive())}
    assert answers[cancel_id] == ("ok", 1)
    _, (_, details) = answers[call_id]
    assert details["kind"] == "cancelled"
    assert details["usage"]["openai/gpt-4o-mini"]["total_tokens"] > 0
    paying.done("close_session", "paid")


def test_item_that_fail_fast_ends_says_what_was_paid(paying: PortProcess, model_server: ModelServer) -> None:
    program = paying.done("create_program", two_stages("scripted:second", model_server), {"session_id": "paid"})["id"]
    model_server.script("second", {"delay_ms": 60_000}, {"status": 500, "delay_ms": 500})
    opts = {"lm": openai(model_server, "gpt-4o-mini"), "on_error": "fail_fast", "max_concurrency": 2}
    items = [{"question": str(number)} for number in range(4)]
    results = paying.done("execute_program_batch", None, program, items, opts)
    paying.done("close_session", "paid")
    found = [details for _, (_, details) in results]
    assert sorted(details["kind"] for details in found) == ["cancelled"] * 3 + ["server"]
    begun = [details for details in found if "usage" in details]
    assert len(begun) == 2
    assert all(details["usage"]["openai/gpt-4o-mini"]["total_tokens"] > 0 for details in begun)


def test_result_that_has_no_term_says_what_was_paid(model_server: ModelServer, tmp_path: Path) -> None:
    (tmp_path / "opaque_module.py").write_text(
        "import dspy\n"
        "class Opaque(dspy.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.ask = dspy.Predict('question -> answer')\n"
        "    async def aforward(self, question):\n"
        "        await self.ask.acall(question=question)\n"
        "        return dspy.Prediction(answer=object())\n"
    )
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    with PortProcess(["--program-modules=opaque_module.Opaque"], environment=environment) as port:
        lm = openai(model_server, "gpt-4o-mini")
        details = port.failed("execute_module", "opaque_module.Opaque", None, HI, {"lm": lm})
    assert details["kind"] == "encode"
    assert details["usage"]["openai/gpt-4o-mini"]["total_tokens"] > 0


def test_answer_that_is_too_long_says_what_was_paid(model_server: ModelServer) -> None:
    with PortProcess(["--max-answer-bytes=65536"]) as port:
        opts = {"lm": [openai(model_server, "status-500"), openai(model_server, "long-20000")]}
        details = port.failed("execute_module", "dspy.Predict", QA, HI, opts)
    assert details["kind"] == "encode"
    assert details["usage"]["openai/long-20000"]["total_tokens"] > 0


def test_compilation_that_fails_says_what_was_paid(paying: PortProcess, model_server: ModelServer) -> None:
    program = paying.done("create_program", two_stages("status-400", model_server), {"session_id": "paid"})["id"]
    opts = {
        "optimizer": "dspy.BootstrapFewShot",
        "metric": {"check": "length", "field": "answer", "minimum": 1},
        "lm": openai(model_server, "gpt-4o-mini"),
        "max_errors": 1,
    }
    details = paying.failed("compile_program", None, program, [HI] * 3, opts)
    paying.done("close_session", "paid")
    assert details["kind"] == "provider"
    assert details["usage"]["openai/gpt-4o-mini"]["total_tokens"] > 0
