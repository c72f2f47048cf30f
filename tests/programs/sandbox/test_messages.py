"""Whatever a sandbox writes is a value, an error of its code, or an error of kind ``sandbox``; nothing else."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erlport_bridge.errors import kind_of
from erlport_bridge.programs.sandbox.interpreter import Interpreter
from erlport_bridge.programs.sandbox.messages import MAX_MESSAGE_BYTES, Lines, MessageError, read_message

ID = "5f"

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=5),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(max_size=5), items, max_size=3),
    max_leaves=6,
)

# Each shape that DSPy's runner writes.
SHAPES: list[dict[str, Any]] = [
    {"jsonrpc": "2.0", "result": {"output": "1"}, "id": ID},
    {"jsonrpc": "2.0", "result": {"final": {"answer": "1"}}, "id": ID},
    {"jsonrpc": "2.0", "result": {"tools": ["f"], "outputs": []}, "id": ID},
    {"jsonrpc": "2.0", "method": "tool_call", "params": {"name": "f", "kwargs": {"a": 1}}, "id": "tc_1"},
    {"jsonrpc": "2.0", "method": "unhandled_error", "params": {"message": "late"}},
    {
        "jsonrpc": "2.0",
        "error": {"code": -32007, "message": "", "data": {"type": "RuntimeError", "args": ["x"]}},
        "id": ID,
    },
    {"jsonrpc": "2.0", "error": {"code": -32700, "message": "Invalid JSON input"}, "id": None},
]


def places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of each part of a message."""
    for key, item in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from places(item, (*path, key))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Draw a message of the protocol with up to three parts replaced, added or taken away."""
    message = json.loads(json.dumps(draw(st.sampled_from(SHAPES))))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from([*places(message), ("result",), ("error",), ("method",), ("params",), ("id",)]))
        inner = message
        for key in path[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if not isinstance(inner, dict):
            continue
        if draw(st.booleans()):
            inner[path[-1]] = draw(json_values)
        else:
            inner.pop(path[-1], None)
    return json.dumps(message).encode()


other_lines = st.sampled_from(
    [
        b'{"jsonrpc": "2.0", "result": {"output": ' + b"7" * 5_000 + b'}, "id": "5f"}',
        b'{"result": {"output": ' + b"[" * 10_000 + b"]" * 10_000 + b'}, "id": "5f"}',
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"result": {"output": ' + b"[" * 300 + b"]" * 300 + b'}, "id": "5f"}',
        b'{"result": {"output": NaN}, "id": "5f"}',
        b'{"result": {"output": 1e999}, "id": "5f"}',
        b'{"result": {"output": "\\ud800"}, "id": "5f"}',
        b'{"result": {"output": "\xff"}, "id": "5f"}',
        b'{"result": ',
        b"{}",
        b"",
        b"\x00",
        b"\xff\xfe",
        b"Loading numpy",
        b'{"jsonrpc": "2.0", "method": "tool_call", "id": "tc_1", "params": 5}',
    ]
)


class Written:
    """A process of Deno that wrote some lines and ended."""

    pid = 2**22 + 1  # no process has it

    def __init__(self) -> None:
        self.stdin = io.StringIO()
        self.stdout = None

    def poll(self) -> int:
        """Return the code of its exit."""
        return 1

    def wait(self, timeout: float | None = None) -> int:
        """Return the code of its exit."""
        return 1


class Watched:
    """A watch without a process."""

    def begin(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def stderr_sentence(self) -> str:
        """Return no error output."""
        return ""


class Answered(Interpreter):
    """An interpreter whose process answers each request with the same lines."""

    def __init__(self, lines: list[bytes]) -> None:
        super().__init__()
        self.tools = {"f": lambda **values: values}
        self._tools_registered = True
        self._lines = Lines(cast(BinaryIO, io.BufferedReader(io.BytesIO(b"\n".join(lines)))))
        self._watch = Watched()  # type: ignore[assignment]

    def _next_request_id(self) -> str:
        return ID

    def _ensure_deno_process(self) -> None:
        self.deno_process = Written()  # type: ignore[assignment]


def outcome(lines: list[bytes]) -> str:
    """Return ``"value"``, or the kind of the error."""
    try:
        Answered(lines).execute("code")
    except SyntaxError:  # of the code; DSPy's modules catch it
        return "sandbox"
    except Exception as error:  # noqa: BLE001 - the kind of every error is asked
        return kind_of(error)
    return "value"


@given(st.lists(messages() | other_lines | st.binary(max_size=20), max_size=5))
def test_whatever_a_sandbox_writes_is_a_value_or_an_error_of_kind_sandbox(lines: list[bytes]) -> None:
    assert outcome(lines) in ("value", "sandbox")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"method": "tool_call", "id": "tc_1", "params": 5}', "expected a map at params of its message, got 5"),
        ('{"method": "tool_call", "id": "tc_1", "params": {"name": "f", "kwargs": []}}', "a map at params.kwargs"),
        ('{"method": "tool_call", "id": "tc_1", "params": {"name": [], "kwargs": {}}}', "a string at params.name"),
        ('{"method": "tool_call", "params": {"name": "f", "kwargs": {}}}', "a string at id"),
        ('{"method": 5}', "a string at method"),
        ('{"result": 5, "id": "5f"}', "a map at result"),
        ('{"result": {}, "id": []}', "a string or null at id"),
        ('{"error": 5, "id": "5f"}', "a map at error"),
        ('{"error": {"code": [], "message": ""}, "id": "5f"}', "an integer at error.code"),
        ('{"error": {"code": 1, "message": 5}, "id": "5f"}', "a string at error.message"),
        ('{"error": {"code": 1, "message": "", "data": 5}, "id": "5f"}', "a map at error.data"),
        ('{"a": 1}', "expected a method, a result or an error"),
        ('{"result": {"output": %s}}' % ("7" * 5_000), "more digits than can be read"),
        ('{"result": {"output": 1e999}}', "a number that is too large"),
        ('{"result": {"output": NaN}}', "it sent NaN, which is no JSON"),
        ('{"result": {"output": %s}}' % ("[" * 101 + "]" * 101), "data of more than 100 levels"),
        ('{"result": %s}' % ("[" * 101 + "]" * 101), "data of more than 100 levels"),
        ('{"result": {"output": %s}}' % ("[" * 10_000 + "]" * 10_000), "data of more than 100 levels"),
        ('{"result": {"output": [[]' + ",[]" * 200_000 + "]}}", "more than 200000 lists and maps"),
    ],
)
def test_message_that_dspy_cannot_take_is_refused_with_its_place(line: str, problem: str) -> None:
    with pytest.raises(MessageError) as caught:
        read_message(line.encode())
    assert problem in str(caught.value)


def test_bytes_that_are_no_utf8_are_refused() -> None:
    with pytest.raises(MessageError, match="no UTF-8"):
        read_message(b'{"result": {"output": "\xff"}}')


def test_half_a_surrogate_pair_is_replaced() -> None:
    message = read_message(rb'{"result": {"output": "a\ud800b", "\udc00": "\ud83d\ude00"}, "id": "1"}')
    assert message == {"result": {"output": "a\ufffdb", "\ufffd": "\U0001f600"}, "id": "1"}


def test_text_beside_the_protocol_is_no_message() -> None:
    assert read_message(b"Loading numpy\n") is None
    assert read_message(b"{not json\n") is None


def test_lines_are_the_same_at_every_cut() -> None:
    data = b"ab\n\ncd\nrest"
    for size in range(1, len(data) + 1):
        lines = Lines(cast(BinaryIO, Cut(data, size)))
        assert [lines.next() for _ in range(5)] == [b"ab\n", b"\n", b"cd\n", b"rest", b""]


def test_line_without_an_end_is_refused_when_it_is_too_long() -> None:
    endless = Cut(b"x" * (4 * MAX_MESSAGE_BYTES), 65_536)
    with pytest.raises(MessageError, match="print less"):
        Lines(cast(BinaryIO, endless)).next()
    assert endless.offset < 1.1 * MAX_MESSAGE_BYTES


class Cut:
    """A pipe that gives some bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data = data
        self.size = size
        self.offset = 0

    def read1(self, _most: int) -> bytes:
        """Return the next bytes."""
        chunk = self.data[self.offset : self.offset + self.size]
        self.offset += len(chunk)
        return chunk
