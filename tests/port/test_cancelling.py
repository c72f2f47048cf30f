"""Test the cancellation of calls by the message ``{'$cancel', Id}``."""

from collections.abc import Iterator

import pytest

from erlport_bridge.term import Atom, encode
from tests.model_server import ModelServer
from tests.port_process import PortProcess

QA = "question -> answer"


@pytest.fixture
def port() -> Iterator[PortProcess]:
    with PortProcess() as started:
        started.done("ping")
        yield started


def cancel(port: PortProcess, call_id: int) -> None:
    port.send_message(encode((Atom("M"), (Atom("$cancel"), call_id))))


def begin_slow_call(port: PortProcess, server: ModelServer) -> int:
    model = {"provider": "openai", "model": "delay-60000", "api_base": f"{server.url}/v1", "num_retries": 0}
    return port.send_call("dspy_bridge", "execute_module", ["dspy.Predict", QA, "x", {"lm": model}])


def test_cancelled_call_closes_its_request_to_the_model(port: PortProcess, model_server: ModelServer) -> None:
    begun = len(model_server.requests)
    ids = [begin_slow_call(port, model_server) for _ in range(5)]
    requests = model_server.wait_for_requests(begun + 5)[begun:]
    for call_id in ids:
        cancel(port, call_id)
    answers = [port.receive() for _ in ids]
    assert sorted(answer[1] for answer in answers) == ids
    assert {answer[2][1][1]["kind"] for answer in answers} == {"cancelled"}
    for request in requests:
        assert request.done.wait(timeout=20)
        assert request.disconnected
    assert port.done("metrics")["operations"]["execute_module"]["in_flight"] == 0


def test_call_that_is_cancelled_at_once_is_answered_once(port: PortProcess, model_server: ModelServer) -> None:
    """A coroutine that is cancelled before its first step never runs; its call once got no answer."""
    for _ in range(50):
        call_id = begin_slow_call(port, model_server)
        cancel(port, call_id)
        assert port.receive()[1] == call_id
    assert port.done("ping", 1)["payload"] == 1


def test_cancelling_a_call_that_does_not_run_does_nothing(port: PortProcess) -> None:
    for call_id in (0, 12_345, -1):
        cancel(port, call_id)
    assert port.done("ping", 1)["payload"] == 1


def test_calls_of_one_request_are_cancelled_by_its_id(port: PortProcess, model_server: ModelServer) -> None:
    model = {"provider": "openai", "model": "delay-60000", "api_base": f"{model_server.url}/v1", "num_retries": 0}
    begun = len(model_server.requests)
    options = {"lm": model, "request_id": "r-1"}
    ids = {
        port.send_call("dspy_bridge", "execute_module", ["dspy.Predict", QA, "x", options]),
        port.send_call("dspy_bridge", "execute_batch", ["dspy.Predict", QA, ["x", "y"], options]),
    }
    requests = model_server.wait_for_requests(begun + 3)[begun:]
    asked = port.send_call("dspy_bridge", "cancel", ["r-1"])
    answers = {message[1]: message[2] for message in (port.receive() for _ in range(3))}
    assert answers.pop(asked) == ("ok", 2)
    assert answers.keys() == ids
    assert {answer[1][1]["kind"] for answer in answers.values()} == {"cancelled"}
    assert all(request.done.wait(timeout=20) and request.disconnected for request in requests)
    assert port.done("cancel", "r-1") == 0
