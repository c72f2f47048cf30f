"""ProgramOfThought runs in a real sandbox: Pyodide in Deno, started by these tests."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.primitives import facade

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models.embedded import embedded_model
from erlport_bridge.programs.sandbox import sandboxes as sandbox
from erlport_bridge.programs.sandbox import warm_pool
from erlport_bridge.programs.sandbox.interpreter import CodeLimits, Interpreter, end
from erlport_bridge.threads import Interrupted, Threads

pytestmark = pytest.mark.usefixtures("prepared")


@contextlib.contextmanager
def interpreter_of(sandboxes: sandbox.Sandboxes) -> Iterator[Any]:
    interpreter = sandboxes.factory()
    try:
        yield interpreter
    finally:
        interpreter.shutdown()


def process_of(interpreter: sandbox.Sandbox) -> Any:
    return interpreter._started().deno_process


def test_program_of_thought_computes_in_the_sandbox(sandboxes: sandbox.Sandboxes) -> None:
    fields = {"question": (str, dspy.InputField()), "answer": (int, dspy.OutputField())}
    module = dspy.ProgramOfThought(dspy.Signature(fields, "Answer."))
    executed: list[Any] = []

    class Seen(dspy.utils.BaseCallback):  # type: ignore[misc]
        def on_interpreter_execute_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            executed.append(outputs)

    with dspy.context(lm=embedded_model(), interpreter_factory=sandboxes.factory, callbacks=[Seen()]):
        prediction = module(question="What is 6 * 7?")
    assert prediction.answer == 42
    assert executed == [dspy.primitives.code_interpreter.FinalOutput({"output": {"answer": 42}})]


def test_text_survives_the_way_into_the_sandbox(sandboxes: sandbox.Sandboxes) -> None:
    """DSPy cuts generated code at ``---``, at a code fence and at three line ends, even inside a string."""
    fields = {"question": (str, dspy.InputField()), "answer": (str, dspy.OutputField())}
    text = 'a --- b ```python c``` "d" \\n é'
    with dspy.context(lm=embedded_model(), interpreter_factory=sandboxes.factory):
        prediction = dspy.ProgramOfThought(dspy.Signature(fields, "Answer."))(question=text)
    assert text in prediction.answer


def test_memory_is_limited_and_the_sandbox_survives(sandboxes: sandbox.Sandboxes) -> None:
    with interpreter_of(sandboxes) as interpreter:
        with pytest.raises(dspy.CodeInterpreterError, match="MemoryError"):
            interpreter.execute("x = bytearray(700_000_000)")
        assert interpreter.execute("print('alive')").strip() == "alive"


def test_files_and_environment_of_the_host_are_out_of_reach(
    sandboxes: sandbox.Sandboxes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_TEST_KEY", "value of the host")
    (tmp_path / "secret").write_text("secret of the host")
    with interpreter_of(sandboxes) as interpreter:
        assert interpreter.execute("import os; print(os.environ.get('BRIDGE_TEST_KEY'))").strip() == "None"
        with pytest.raises(dspy.CodeInterpreterError):
            interpreter.execute(f"open({str(tmp_path / 'secret')!r}).read()")


def test_endless_loop_ends_when_its_request_is_killed(sandboxes: sandbox.Sandboxes) -> None:
    with interpreter_of(sandboxes) as interpreter:
        interpreter.execute("print(1)")
        killed_at: list[float] = []

        def kill_it() -> None:
            time.sleep(0.3)  # the loop has no event that could be waited for
            killed_at.append(time.monotonic())
            sandboxes.kill()

        killer = threading.Thread(target=kill_it)
        killer.start()
        with pytest.raises(dspy.CodeInterpreterError):
            interpreter.execute("while True: pass")
        ended_at = time.monotonic()
        killer.join()
        process = process_of(interpreter)
    assert ended_at - killed_at[0] < 1
    assert process.returncode is not None


def test_request_that_has_ended_gets_no_sandbox(sandboxes: sandbox.Sandboxes) -> None:
    sandboxes.prepare()
    sandboxes.kill()
    with pytest.raises(dspy.CodeInterpreterError, match="ended with its request"):
        sandboxes.factory().execute("print(1)")


def test_interruption_ends_the_wait_for_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of a call that had ended once waited until the sandbox had started, and was taken for stuck.

    The interruption comes at any moment. Between the pool's answer and the wait, the sandbox once was nobody's.
    """
    threads = Threads(1)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(100):
            begun, go_on = threading.Event(), threading.Event()
            numbers = itertools.count()

            def start(begun: Any = begun, go_on: Any = go_on, numbers: Any = numbers) -> int:
                begun.set()
                assert go_on.wait(60)
                return int(next(numbers))

            pool = warm_pool.WarmPool(start, lambda _item: None, size=1)
            monkeypatch.setattr(sandbox, "_pool", pool)
            task = threads.submit(sandbox.Sandboxes().take)
            assert begun.wait(60)
            task.cancel()
            with pytest.raises((Interrupted, CancelledError)):
                task.result(30)
            ends_at = time.monotonic() + 30
            while threads.report()["busy"] and time.monotonic() < ends_at:
                time.sleep(0.001)
            report = threads.report()
            assert (report["busy"], report["stuck"]) == (0, 0)
            go_on.set()
            # The pool keeps the sandbox for the next call.
            assert pool.take().result(60) == 0
    finally:
        sys.setswitchinterval(before)


def test_endless_loop_is_killed_at_its_timeout(sandboxes: sandbox.Sandboxes) -> None:
    interpreter = sandboxes.factory.within(CodeLimits(300))()
    with pytest.raises(OperationError, match="ran longer than 300 ms and was killed") as caught:
        interpreter.execute("while True: pass")
    assert caught.value.kind == "sandbox"
    process = process_of(interpreter)
    interpreter.shutdown()
    assert process.returncode is not None


def test_time_of_dspys_own_code_does_not_count_for_the_code(sandboxes: sandbox.Sandboxes) -> None:
    """DSPy's set-up takes 0.1 s of each new sandbox of ``dspy.RLM`` and ``dspy.Flex``."""
    interpreter = sandboxes.factory.within(CodeLimits(1))()
    facade.FacadeInvocation({}, sandboxes.factory, None).install(interpreter)
    with pytest.raises(OperationError, match="ran longer than 1 ms and was killed"):
        interpreter.execute("while True: pass")
    interpreter.shutdown()


@pytest.mark.parametrize("late", ["in a result", "in a call of a tool"])
def test_end_of_time_that_is_noticed_late_is_said_by_the_next_execution(
    sandboxes: sandbox.Sandboxes, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    """The thread that reads a result may have to wait for the processor, when the time is over."""
    interpreter = sandboxes.factory.within(CodeLimits(1_000))()
    interpreter.tools["tool"] = lambda: "told"
    interpreter.execute("print(1)")
    started = interpreter._started()
    read = started._lines.next

    def read_late() -> bytes:
        line = read()
        process_of(interpreter).wait(60)
        return line

    monkeypatch.setattr(started._lines, "next", read_late)
    if late == "in a result":
        assert interpreter.execute("print(2)") == "2\n"
    for _ in range(2):
        with pytest.raises(OperationError, match="ran longer than 1000 ms and was killed"):
            interpreter.execute("print(tool())")
    interpreter.shutdown()


def test_time_of_a_tool_does_not_count_for_the_code(sandboxes: sandbox.Sandboxes) -> None:
    interpreter = sandboxes.factory.within(CodeLimits(1_500))()
    interpreter.tools["slow"] = lambda: time.sleep(1.6)
    assert interpreter.execute("slow(); print('done')").strip() == "done"
    interpreter.shutdown()


def test_next_call_has_a_fresh_sandbox_that_was_started_before(sandboxes: sandbox.Sandboxes) -> None:
    pool = warm_pool.WarmPool(Interpreter.started, end, size=1)
    first = pool.take().result()
    first.execute("left = 'behind'")
    first.shutdown()
    second = pool.take().result()
    with pytest.raises(dspy.CodeExecutionError, match="left"):
        second.execute("print(left)")
    second.shutdown()
    pool.close()


def test_kill_ends_only_the_sandboxes_of_its_request(sandboxes: sandbox.Sandboxes) -> None:
    with sandbox.Sandboxes() as others, interpreter_of(sandboxes) as mine, interpreter_of(others) as other:
        mine.execute("x = 1")
        other.execute("x = 2")
        sandboxes.kill()
        assert other.execute("print(x)").strip() == "2"


def test_kill_all_ends_every_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    # A pool for this test alone: it starts nothing after `kill_all`.
    monkeypatch.setattr(sandbox, "_pool", warm_pool.WarmPool(Interpreter.started, end, size=0))
    with sandbox.Sandboxes() as first, interpreter_of(first) as interpreter:
        interpreter.execute("x = 1")
        sandbox.kill_all()
        process_of(interpreter).wait(5)
        with pytest.raises(dspy.CodeInterpreterError):
            interpreter.execute("print(x)")


def test_probe_starts_no_process_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(sandbox.probe())
    monkeypatch.delattr(subprocess, "Popen")
    asyncio.run(sandbox.probe())


def test_probe_goes_on_after_the_call_that_began_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was interrupted with the call, and the next one began it anew."""
    monkeypatch.setattr(sandbox, "_probed", None)

    async def calls() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(sandbox.probe(), 0.001)
        began = sandbox._probed
        await sandbox.probe()
        assert sandbox._probed is began

    asyncio.run(calls())


def probe_elsewhere(script: str, **environment: str) -> str:
    """Run the probe in a process without the ``deno`` package; return the last line of its output."""
    blocked = "import sys; sys.modules['deno'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip().splitlines()[-1]


PROBE = """
import asyncio
from erlport_bridge.errors import OperationError
from erlport_bridge.programs import sandbox
try:
    asyncio.run(sandbox.probe())
except OperationError as error:
    sys.stdout.write(f"{error.kind}: {error.message}")
else:
    sys.stdout.write("there")
"""


@pytest.mark.parametrize(
    ("library", "remedy"),
    [("gnu", '`pip install "erlport_bridge[sandbox]"`'), ("musl", "`apk add deno`")],
)
def test_missing_deno_says_what_to_install(tmp_path: Path, library: str, remedy: str) -> None:
    """There is no wheel of Deno for musl."""
    built_with = f"""
import sysconfig
given = sysconfig.get_config_var
sysconfig.get_config_var = lambda name: "cpython-312-x86_64-linux-{library}" if name == "SOABI" else given(name)
"""
    message = probe_elsewhere(built_with + PROBE, PATH=str(tmp_path))
    assert message.startswith("missing_dependency: ")
    assert message.endswith(f"; install it with {remedy}")


def test_wrong_version_of_deno_is_named(tmp_path: Path) -> None:
    (tmp_path / "deno").write_text("#!/bin/sh\necho deno 1.40.0\n")
    (tmp_path / "deno").chmod(0o755)
    message = probe_elsewhere(PROBE, PATH=f"{tmp_path}:/bin:/usr/bin")
    assert message.startswith("missing_dependency: ")
    assert "deno 1.40.0" in message


def test_empty_cache_without_a_registry_is_named(tmp_path: Path) -> None:
    deno = Path(dspy.PythonInterpreter().deno_command[0])
    # A proxy on a port where nothing listens: the registry cannot be reached, wherever the test runs.
    proxy = "http://127.0.0.1:9"
    message = probe_elsewhere(
        PROBE,
        PATH=f"{deno.parent}:/bin:/usr/bin",
        DENO_DIR=str(tmp_path),
        HTTP_PROXY=proxy,
        HTTPS_PROXY=proxy,
        NO_PROXY="",
    )
    assert message.startswith("missing_dependency: ")
    assert "python -m erlport_bridge.programs.sandbox" in message
    assert "127.0.0.1:9" in message or "Connection refused" in message


def test_download_uses_the_certificates_of_the_environment(tmp_path: Path) -> None:
    """A network with a certificate authority of its own names it in one of these; a sandbox needs none of them."""
    named = {
        name: f"/certificates/{name}"
        for name in ("DENO_CERT", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "SSL_CERT_DIR", "DENO_TLS_CA_STORE")
    }
    (tmp_path / "deno").write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo deno 2.0.0 || { env | grep /certificates/ >&2; exit 1; }\n'
    )
    (tmp_path / "deno").chmod(0o755)
    message = probe_elsewhere(PROBE, PATH=f"{tmp_path}:/bin:/usr/bin", **named)
    assert [name for name in named if f"{name}=/certificates/{name}" not in message] == []
