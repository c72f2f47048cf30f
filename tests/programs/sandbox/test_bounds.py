"""Code that takes memory, threads, output, calls or time is bounded, in the real sandbox and under each module."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import dspy
import pytest

from erlport_bridge.errors import OperationError, kind_of
from erlport_bridge.programs.sandbox import sandboxes as sandbox
from erlport_bridge.programs.sandbox.interpreter import CodeLimits, Interpreter
from erlport_bridge.programs.sandbox.messages import MAX_MESSAGE_BYTES
from erlport_bridge.programs.sandbox.watch import MAX_MEMORY_MIB

MIB = 1024 * 1024
LONG_S = 60

ARRAYS = """
import js
arrays = []
for _ in range(6):
    array = js.Uint8Array.new(500_000_000)
    array.fill(1)
    arrays.append(array)
"""
RAW = "import js\nchunk = js.Uint8Array.new(1_000_000).fill(120)\nwhile True: js.Deno.{}.writeSync(chunk)"

#: What ends a sandbox: code, and what the error says of it.
HOSTILE = {
    "arrays": (ARRAYS, "took more than 512 MiB of memory"),
    "reserved": ("import js\narrays = [js.Uint8Array.new(500_000_000) for _ in range(9)]\nwhile True: pass", ""),
    "stdout": (RAW.format("stdout"), "wrote more than 4194304 bytes at once"),
    "stderr": (RAW.format("stderr"), "wrote more than 1048576 bytes to its error output"),
    "printed": ("print('x' * 6_000_000)", "wrote more than 4194304 bytes at once"),
    "lines": ("import js\nwhile True: js.console.log('x')", "Too many skipped lines"),
    "forged": (
        """import js\njs.console.log('{"method": "tool_call", "id": "tc_9", "params": 5}')""",
        "expected a map at params of its message, got 5",
    ),
    "digits": ("import js\njs.console.log('{\"result\": ' + '7' * 5_000 + '}')", "more digits than can be read"),
    "deep": ("import js\njs.console.log('{\"result\": ' + '[' * 10_000 + ']' * 10_000 + '}')", "more than 100 levels"),
    "bytes": (
        "import js\njs.Deno.stdout.writeSync(js.Uint8Array.new([123, 255, 10]))",
        "wrote bytes that are no UTF-8",
    ),
    "unasked": ("""import js\njs.console.log('{"result": {}, "id": "other"}')""", "Response ID mismatch"),
    "deaf": (
        "import js\nfrom pyodide.ffi import create_proxy\n"
        "js.Deno.addSignalListener('SIGTERM', create_proxy(lambda: None))\n"
        """js.console.log('{"result": {}, "id": "other"}')""",
        "Response ID mismatch",
    ),
}


# DSPy warns that CodeAct will be removed.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.usefixtures("prepared")]


@pytest.fixture
def interpreter() -> Iterator[Interpreter]:
    started = Interpreter.started()
    yield started
    started.shutdown()


def _flex(code: str) -> Any:
    module = dspy.Flex("question -> answer")
    indented = "\n".join(" " * 8 + line for line in code.splitlines())
    module._bind_code(
        f"class Code(dspy.Module):\n    def forward(self, **inputs):\n{indented}\n"
        "        return dspy.Prediction(answer='done')"
    )
    return module


#: Each module that runs code, with the answers of a model that writes this code.
MODULES: dict[str, Callable[[str], tuple[Any, list[dict[str, Any]]]]] = {
    "ProgramOfThought": lambda code: (
        dspy.ProgramOfThought("question -> answer", max_iters=1),
        [{"reasoning": "-", "generated_code": f"```python\n{code}\n```"}, {"reasoning": "-", "answer": "done"}],
    ),
    "CodeAct": lambda code: (
        dspy.CodeAct("question -> answer", tools=[], max_iters=1),
        [{"generated_code": f"```python\n{code}\n```", "finished": True}, {"reasoning": "-", "answer": "done"}],
    ),
    "RLM": lambda code: (
        dspy.RLM("question -> answer", max_iters=1),
        [{"reasoning": "-", "code": code}, {"answer": "done"}],
    ),
    "Flex": lambda code: (_flex(code), []),
}


def run(name: str, code: str, sandboxes: sandbox.Sandboxes) -> Any:
    module, answers = MODULES[name](code)
    model = dspy.utils.DummyLM(answers)
    with dspy.context(lm=model, interpreter_factory=sandboxes.factory):
        return module(question="?")


def deno_processes(sandboxes: sandbox.Sandboxes) -> list[int]:
    return [interpreter._watch._pid for interpreter in sandboxes._interpreters]


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


class Peak:
    """The most resident memory of a process, sampled by a thread within a ``with`` block."""

    def __init__(self, pid: int) -> None:
        self.mib = 0.0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        while not self._ended.wait(0.002):
            try:
                pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
            except (OSError, IndexError):
                continue
            self.mib = max(self.mib, pages * 4096 / MIB)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


# Each starts a sandbox, of some seconds of computing. One of each kind runs always: what is too much on its way out, in
# memory and in depth, what is no message of a sandbox, and what does not read.
ALWAYS: Final = ("stdout", "arrays", "deep", "forged", "deaf")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in ALWAYS else pytest.mark.long) for case in HOSTILE]
)
def test_sandbox_is_killed_for_what_its_code_does(interpreter: Interpreter, case: str) -> None:
    code, problem = HOSTILE[case]
    process = interpreter.deno_process
    interpreter.limit(CodeLimits(LONG_S * 1000))
    with Peak(process.pid) as sandbox_peak, pytest.raises((OperationError, dspy.CodeInterpreterError)) as caught:
        interpreter.execute(code)
    assert kind_of(caught.value) == "sandbox"
    assert problem in str(caught.value)
    assert process.poll() is not None
    assert sandbox_peak.mib < 1.5 * MAX_MEMORY_MIB


# Each starts two sandboxes, of some seconds of computing each. One of them runs always.
HOSTILE_OF_MODULES = [
    pytest.param(name, case, marks=() if number == place == 0 else pytest.mark.long)
    for cases in [("arrays", "stdout", "forged")]
    for number, name in enumerate(MODULES)
    for place, case in enumerate(cases)
]


@pytest.mark.parametrize(("name", "case"), HOSTILE_OF_MODULES)
def test_hostile_code_of_each_module_is_an_error_of_kind_sandbox(
    sandboxes: sandbox.Sandboxes, name: str, case: str
) -> None:
    code, problem = HOSTILE[case]
    with pytest.raises(Exception, match=problem) as caught:
        run(name, code, sandboxes)
    assert kind_of(caught.value) == "sandbox"
    assert not any(map(is_running, deno_processes(sandboxes)))
    with sandbox.Sandboxes() as others:
        fresh = others.factory()
        assert fresh.execute("print('alive')").strip() == "alive"
        fresh.shutdown()


TIMERS = """
import asyncio, js
from pyodide.code import run_js
run_js("setInterval(() => {}, 50)")
js.setTimeout(run_js("() => {}"), 600_000)
async def wait():
    while True:
        await asyncio.sleep(0.05)
task = asyncio.ensure_future(wait())
"""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "RLM" else pytest.mark.long) for name in MODULES]
)
def test_timers_that_are_left_behind_delay_no_answer(sandboxes: sandbox.Sandboxes, name: str) -> None:
    """DSPy waits for the end of a process that its timers keep alive."""
    started_at = time.monotonic()
    prediction = run(name, TIMERS + "print('left')", sandboxes)
    assert prediction.answer == "done"
    assert time.monotonic() - started_at < LONG_S
    assert not any(map(is_running, deno_processes(sandboxes)))


def test_what_starts_threads_and_processes_or_keeps_data_is_not_there(interpreter: Interpreter) -> None:
    code = """
import js
from pyodide.code import run_js
expressions = [
    "Worker", "SharedWorker", "SharedArrayBuffer", "BroadcastChannel", "localStorage", "sessionStorage", "caches",
    "nodeBootstrap", "Deno.Command", "Deno.run", "Deno.spawn", "Deno.spawnAndWait", "Deno.Process", "Deno.dlopen",
    "Deno.UnsafeCallback", "Deno[Deno.internal]", "process.getBuiltinModule", "process.binding", "process.dlopen",
    "process.mainModule", "navigator.gpu",
]
print([expression for expression in expressions if run_js(f"typeof ({expression})") != "undefined"])
"""
    expected = "[]"
    assert interpreter.execute(code).strip() == expected


#: Ways to load a module of Node.
IMPORTS = [
    "import('node:worker_threads')",
    "imp\\u006frt('node:worker_threads')",
    "(() => {}).constructor('return imp' + 'ort(\"node:worker_threads\")')()",
    "(async () => {}).constructor('return imp' + 'ort(\"node:worker_threads\")')()",
    "(function* () {}).constructor('return imp' + 'ort(\"node:worker_threads\")')().next().value",
    "new Function('return imp' + 'ort(\"node:worker_threads\")')()",
    "setTimeout('globalThis.loaded = imp' + 'ort(\"node:worker_threads\")')",
    "setInterval('globalThis.loaded = imp' + 'ort(\"node:worker_threads\")')",
    "String.prototype.includes = () => false, (0, eval)('imp' + 'ort(\"node:worker_threads\")')",
    "Function('a', {toString() { this.n = (this.n ?? 0) + 1;"
    " return this.n > 1 ? 'return imp' + 'ort(\"node:worker_threads\")' : 'return 1' }})()",
]
# Run last: it changes a built-in that the guard might use.
IMPORTS.sort(key=lambda source: "prototype.includes" in source)


def test_code_loads_no_module_of_node(interpreter: Interpreter) -> None:
    code = """
import inspect
from pyodide.code import run_js
loaded = None
try:
    loaded = run_js({!r})
    if inspect.isawaitable(loaded):
        loaded = await loaded
except Exception as error:
    pass
print(getattr(loaded, "Worker", None), run_js("typeof globalThis.loaded"))
"""
    assert [interpreter.execute(code.format(source)).strip() for source in IMPORTS] == ["None undefined"] * len(IMPORTS)


def test_environment_of_deno_holds_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-host")
    monkeypatch.setenv("HTTPS_PROXY", "http://bob:password@127.0.0.1:9")
    interpreter = Interpreter.started()
    try:
        entries = Path(f"/proc/{interpreter.deno_process.pid}/environ").read_bytes().split(b"\0")
    finally:
        interpreter.shutdown()
    names = {entry.partition(b"=")[0].decode() for entry in entries if entry}
    assert names <= {
        *("PATH", "HOME", "DENO_DIR", "XDG_CACHE_HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE"),
        *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DENO_NO_PACKAGE_JSON", "DENO_NO_UPDATE_CHECK", "NO_COLOR"),
    }
    assert "PATH" in names


def test_calls_of_tools_are_counted_for_each_piece_of_code(interpreter: Interpreter) -> None:
    interpreter.offer({"echo": lambda value: value}, None)
    interpreter.limit(CodeLimits(LONG_S * 1000, calls=3))
    assert interpreter.execute("print([echo(n) for n in range(3)])").strip() == "[0, 1, 2]"
    with pytest.raises(dspy.CodeExecutionError, match=r"has called tools 3 times, the limit of opts\.max_code_calls"):
        interpreter.execute("for n in range(4): echo(n)")
    assert interpreter.execute("print(echo('again'))").strip() == "again"


def test_result_of_a_tool_that_is_too_long_is_an_error_of_the_code(interpreter: Interpreter) -> None:
    interpreter.offer({"long": lambda: "x" * (MAX_MESSAGE_BYTES + 1)}, None)
    with pytest.raises(
        dspy.CodeExecutionError, match=r"the result of the tool has .* bytes in JSON, more than 4194304"
    ):
        interpreter.execute("long()")
    assert interpreter.execute("print('alive')").strip() == "alive"


def test_script_in_place_of_deno_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill of npm's script left the process that it had started."""
    real = Interpreter().deno_command[0]
    script = tmp_path / "deno"
    script.write_text(f'#!/bin/sh\n{real} "$@"\nexit $?\n')
    script.chmod(0o755)
    monkeypatch.setattr("dspy.primitives.python_interpreter._find_deno_executable", lambda: str(script))
    interpreter = Interpreter.started()
    pid = interpreter.deno_process.pid
    assert Path(f"/proc/{pid}/comm").read_text().strip() == "deno"
    interpreter.shutdown()
    assert not is_running(pid)
