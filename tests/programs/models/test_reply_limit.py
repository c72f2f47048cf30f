"""Replies of models just below and just above the limit, on each wire, whole and in pieces, and of Elixir functions."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from erlport_bridge.limits import REPLY_BYTES
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess
from tests.programs.models.test_provider_errors import WIRES as NATIVE_WIRES
from tests.programs.models.test_provider_errors import streamed

LIMIT = 100_000
WIRES = {**NATIVE_WIRES, "litellm": {"provider": "lm_studio"}, "litellm_own": {"provider": "databricks"}}
QA = ("dspy.Predict", "question -> answer", {"question": "hi"})


@pytest.fixture(scope="module")
def limited_port() -> Iterator[PortProcess]:
    with PortProcess(environment={"DSPEX_MAX_REPLY_BYTES": str(LIMIT)}) as port:
        yield port


def refused(details: dict[str, Any], most: int = LIMIT) -> None:
    assert (details["kind"], details["retryable"], details["limit"]) == ("provider", False, most)
    assert details["option"] == "DSPEX_MAX_REPLY_BYTES"
    assert details["message"].startswith(f"expected at most {most} bytes at the model's reply, got ")


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("characters", "is_allowed"), [(LIMIT - 3_000, True), (LIMIT, False), (60 * LIMIT, False)])
def test_reply_just_below_the_limit_is_read_and_just_above_refused(
    limited_port: PortProcess, model_server: ModelServer, wire: str, characters: int, is_allowed: bool
) -> None:
    name = f"size-{wire}-{characters}"
    model_server.script(name, *[{"fields": {"answer": "x" * characters}}] * 2)
    lm = openai(model_server, f"scripted:{name}", **WIRES[wire], num_retries=3)
    before = len(model_server.requests)
    status, result = limited_port.operate("execute_module", *QA, {"lm": lm})
    if is_allowed:
        assert (status, len(result["answer"])) == ("ok", characters)
    else:
        refused(result[1])
    # It is not asked again: the next reply would be as long.
    assert len(model_server.requests) - before == 1


@pytest.mark.parametrize("wire", WIRES)
# 50,000: the last event of responses has the whole text in one line, of which DSPy's client takes 64 KiB.
@pytest.mark.parametrize(("characters", "is_allowed"), [(50_000, True), (8 * LIMIT, False)])
def test_streamed_reply_is_bounded_too(
    limited_port: PortProcess, model_server: ModelServer, wire: str, characters: int, is_allowed: bool
) -> None:
    name = f"stream-{wire}-{characters}"
    # LiteLLM ends a stream whose pieces are all equal.
    answer = "".join(f"{number:09} " for number in range(characters // 10)).strip()
    text = f"[[ ## answer ## ]]\n{answer}\n\n[[ ## completed ## ]]"
    pieces = [text[start : start + 1_000] for start in range(0, len(text), 1_000)]
    model_server.script(name, {"content": text, "pieces": pieces})
    lm = openai(model_server, f"scripted:{name}", **WIRES[wire])
    (status, result), _ = streamed(limited_port, lm)
    if is_allowed:
        assert (status, result["answer"]) == ("ok", answer)
    else:
        refused(result[1], 8 * LIMIT)


class EndlessServer:
    """A server that writes its reply until nobody reads any more."""

    def __init__(self, content_type: str, piece: bytes) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/v1"
        self._head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nConnection: close\r\n\r\n".encode()
        self._piece = piece
        self.sent = 0
        self.closed = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection, self._listening:
            try:
                connection.recv(65_536)
                connection.sendall(self._head)
                while True:
                    connection.sendall(self._piece)
                    self.sent += len(self._piece)
            except OSError:
                self.closed.set()


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", "text/html"])
@pytest.mark.parametrize("provider", ["openai_compatible", "lm_studio", "databricks"])
def test_endless_reply_is_ended_and_costs_no_memory(
    limited_port: PortProcess, provider: str, content_type: str, is_stream: bool
) -> None:
    piece = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 5_000 + b'"}}]}\n\n'
    server = EndlessServer(content_type, piece)
    lm = {"provider": provider, "model": "m", "api_key": "k", "api_base": server.url, "num_retries": 0}
    limited_port.done("ping", "before")
    if is_stream:
        (status, result), _ = streamed(limited_port, lm)
    else:
        status, result = limited_port.operate("execute_module", *QA, {"lm": lm})
    assert status == "error"
    assert result[1]["kind"] in ("provider", "transport")
    assert server.closed.wait(30)
    # What the system's buffers hold beside.
    assert server.sent < 200 * LIMIT
    assert limited_port.done("ping", "later")["payload"] == "later"


def test_endless_reply_with_the_default_costs_a_small_multiple(model_server: ModelServer) -> None:
    if sys.platform != "linux":
        pytest.skip("the memory is read from /proc")
    server = EndlessServer("application/json", b" " * 65_536)
    lm = {"provider": "openai_compatible", "model": "m", "api_base": server.url, "num_retries": 0}
    with PortProcess() as port:
        port.done("execute_module", *QA, {"lm": openai(model_server, "answer")})
        before = _peak(port)
        refused(port.failed("execute_module", *QA, {"lm": lm}), REPLY_BYTES.default)
        assert _peak(port) - before < 4 * REPLY_BYTES.default


def _peak(port: PortProcess) -> int:
    for line in Path(f"/proc/{port.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no peak")
