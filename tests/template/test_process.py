"""Test that workers are forked, end with the status and with the processes that they must end with, and fail never."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from erlport_bridge.term import Atom, encode
from tests.deadlines import Busyness
from tests.port.test_lifeline import wait_for
from tests.proc import children
from tests.template_process import LAUNCHER, RUNTIME, TemplateProcess, Worker, wait_until_ended

UNKNOWN = 125


def begin(worker: Worker, function: str, ready: Path) -> list[int]:
    """Call a function of ``busy``, and return the ids of Python and its child process."""
    worker.send_call("busy", function, [])
    wait_for(lambda: ready.exists() and len(ready.read_text().split()) == 2)
    return [int(pid) for pid in ready.read_text().split()]


def test_worker_is_forked_and_answers(template: TemplateProcess) -> None:
    with template.worker() as first, template.worker() as second:
        assert first.is_forked()
        assert second.is_forked()
        assert first.python() != second.python()
        assert first.call("math", "sqrt", 16)[2] == 4.0


@pytest.mark.parametrize("status", [0, 1, 3, 7, 255])
def test_launcher_ends_with_the_status_of_its_worker(status: int, template: TemplateProcess) -> None:
    with template.worker() as worker:
        worker.python()
        worker.send_call("busy", "exits", [status])
        assert worker.process.wait() == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT])
def test_launcher_tells_which_signal_has_ended_its_worker(number: int, template: TemplateProcess) -> None:
    with template.worker() as worker:
        worker.python()
        worker.send_call("busy", "dies_of", [int(number)])
        # As a shell says it, and erl_child_setup.
        assert worker.process.wait() == 128 + number


@pytest.mark.parametrize("function", ["sleeps", "keeps_the_lock", "is_stopped"])
@pytest.mark.parametrize(
    "end",
    [
        "close",
        "kill launcher",
        "kill python",
        "kill template, close",
        "stop template, close",
        "stop template, kill python",
    ],
)
def test_nothing_is_left_of_a_worker(end: str, function: str, template: TemplateProcess, ready: Path) -> None:
    with template.worker() as worker:
        processes = begin(worker, function, ready)
        processes.append(worker.launcher)
        if end.startswith("kill template"):
            template.port.process.kill()
            template.port.process.wait()
        elif end.startswith("stop template"):
            os.kill(template.pid, signal.SIGSTOP)
        if end.endswith("close"):
            worker.close()
        elif end == "kill launcher":
            worker.process.kill()
        else:
            os.kill(processes[0], signal.SIGKILL)
        wait_until_ended(processes)
        if end == "kill python":
            assert worker.process.wait() == 128 + signal.SIGKILL
        elif end == "stop template, kill python":
            assert worker.process.wait() == UNKNOWN


def test_worker_lives_on_without_its_template(template: TemplateProcess) -> None:
    with template.worker() as worker:
        python = worker.python()
        template.port.process.kill()
        template.port.process.wait()
        assert worker.python() == python
        worker.send_call("busy", "exits", [7])
        # Nobody was told.
        assert worker.process.wait() == UNKNOWN


def test_workers_live_on_when_the_template_is_told_to_end(template: TemplateProcess) -> None:
    with template.worker() as worker:
        python = worker.python()
        template.port.close()
        assert template.port.process.wait() == 0
        assert not template.folder.exists()
        assert worker.python() == python


BEAM = """
[python, launcher, runtime, folder] = System.argv()
settings = [:binary, {:packet, 4}, :nouse_stdio, :exit_status]
flags = ["-c", runtime, "--packet=4", "--nouse_stdio", "--preload=busy"]
template = Port.open({:spawn_executable, python}, [{:args, flags ++ ["--template=" <> folder]} | settings])
{:os_pid, template_pid} = Port.info(template, :os_pid)
args = ["-I", "-S", "-c", File.read!(launcher), folder <> "/socket", "60000", python | flags]
port = Port.open({:spawn_executable, python}, [{:args, args} | settings])
{:os_pid, launcher_pid} = Port.info(port, :os_pid)
Port.command(port, Base.decode16!(FRAME))
IO.puts("#{System.pid()} #{template_pid} #{launcher_pid}")
Process.sleep(:infinity)
"""


# Each starts a BEAM. All pairs run by `make long`, and one for each value always.
@pytest.mark.parametrize(
    ("stopped", "function"),
    [
        pytest.param(stopped, function, marks=() if function == always else pytest.mark.long)
        for stopped, always in [
            (None, "sleeps"),
            ("template", "keeps_the_lock"),
            ("launcher", "is_stopped"),
            ("python", "sleeps"),
        ]
        for function in ("sleeps", "keeps_the_lock", "is_stopped")
    ],
)
def test_nothing_is_left_of_a_beam_that_is_killed(
    stopped: str | None, function: str, environment: dict[str, str], ready: Path, tmp_path: Path
) -> None:
    frame = encode((Atom("C"), 1, Atom("busy"), Atom(function), [])).hex().upper()
    script = tmp_path / "beam.exs"
    script.write_text(BEAM.replace("FRAME", f'"{frame}"'))
    folder = tmp_path / "t"
    folder.mkdir(mode=0o700)
    command = ["elixir", str(script), sys.executable, str(LAUNCHER), RUNTIME, str(folder)]
    variables = {**os.environ, **environment}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=variables)
    try:
        assert process.stdout is not None
        beam, template, launcher = map(int, process.stdout.readline().split())
        wait_for(lambda: ready.exists() and len(ready.read_text().split()) == 2)
        python, child = map(int, ready.read_text().split())
        assert python != launcher
        if stopped:
            os.kill({"template": template, "launcher": launcher, "python": python}[stopped], signal.SIGSTOP)
        os.kill(beam, signal.SIGKILL)
        wait_until_ended([template, launcher, python, child])
    finally:
        process.kill()
        process.communicate()


def test_template_ends_while_it_imports(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("print('imports', flush=True)\nsum(range(10**13))\n")
    with TemplateProcess(["--preload=slow"], environment) as template:
        wait_for(lambda: template.port.stderr_until_now() == "imports\n")
        template.port.close()
        wait_until_ended([template.pid])


def test_worker_starts_directly_if_the_template_imports_for_too_long(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text("import os, time\nif 'FAST' not in os.environ: time.sleep(1000)\n")
    with (
        TemplateProcess(["--preload=slow"], environment) as template,
        template.worker(environment={"FAST": "1"}, timeout_ms=100) as worker,
    ):
        assert not worker.is_forked()


@pytest.mark.parametrize("end", ["killed before", "killed while it imports", "without a folder"])
def test_worker_starts_directly_without_a_template(end: str, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import os, time\nif os.environ.get('SLOW'): time.sleep(1000)\n")
    with TemplateProcess(["--preload=slow"], {**environment, "SLOW": "1"}) as template:
        wait_for(template.socket.exists)
        if end != "killed while it imports":
            template.port.process.kill()
            template.port.process.wait()
        if end == "without a folder":
            template.socket.unlink()
            template.folder.rmdir()
        with template.worker(environment={"SLOW": ""}) as worker:
            if end == "killed while it imports":
                time.sleep(0.5)
                template.port.process.kill()
            assert not worker.is_forked()


def test_a_stopped_template_delays_a_worker_and_its_late_fork_leaves_the_port_alone(template: TemplateProcess) -> None:
    with template.worker() as first:
        first.python()
    os.kill(template.pid, signal.SIGSTOP)
    with template.worker(timeout_ms=500) as worker:
        assert not worker.is_forked()
        os.kill(template.pid, signal.SIGCONT)
        with template.worker() as later:
            assert later.is_forked()
        # Two readers of one port would lose calls.
        assert [worker.call("math", "sqrt", number * number)[2] for number in range(200)] == list(range(200))


@pytest.mark.parametrize("large", ["", "x" * 100_000])
@pytest.mark.parametrize("imports", [False, True])
def test_template_that_stays_stopped_is_killed_and_workers_start_directly(
    imports: bool, large: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """All workers waited for half of the time that a start may take, and the template process stayed as it was."""
    (tmp_path / "stops.py").write_text(
        "import os, signal\nif os.environ['STOPS']: os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    # A request that does not fit into a socket's buffer is sent while the template process reads it.
    environment = {**environment, **{f"LARGE_{number}": large for number in range(8)}, "STOPS": "1" if imports else ""}
    with TemplateProcess(["--preload=stops"], environment) as template:
        if not imports:
            with template.worker() as first:
                assert first.is_forked()
            os.kill(template.pid, signal.SIGSTOP)
        began_at = time.monotonic()
        directly = {"STOPS": ""}
        with (
            Busyness() as busyness,
            template.worker(environment=directly) as worker,
            template.worker(environment=directly) as other,
        ):
            assert not worker.is_forked()
            assert not other.is_forked()
        assert template.port.process.wait(10) == -signal.SIGKILL
    assert time.monotonic() - began_at < 5 * busyness.factor


def test_template_that_is_stopped_for_a_moment_is_waited_for(template: TemplateProcess) -> None:
    with template.worker() as first:
        first.python()
    os.kill(template.pid, signal.SIGSTOP)
    with template.worker() as worker:
        time.sleep(0.5)
        os.kill(template.pid, signal.SIGCONT)
        assert worker.is_forked()


def test_template_of_another_environment_is_not_used_and_ends(template: TemplateProcess) -> None:
    with template.worker() as worker:
        assert worker.is_forked()
    with template.worker(environment={"LATER": "1"}) as worker:
        assert not worker.is_forked()
        assert worker.call("os", "getenv", "LATER")[2] == "1"
    assert template.port.process.wait() == 4


def test_what_is_imported_in_the_template_may_set_variables(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sets.py").write_text("import os\nos.environ['SET'] = 'by an import'\n")
    with TemplateProcess(["--preload=sets"], environment) as template, template.worker() as worker:
        assert worker.is_forked()
        assert worker.call("os", "getenv", "SET")[2] == "by an import"


def test_launcher_that_is_killed_while_it_waits_leaves_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(1)\n")
    with TemplateProcess(["--preload=slow"], environment) as template:
        with template.worker() as worker:
            wait_for(template.socket.exists)
            worker.process.kill()
            worker.process.wait()
        with template.worker() as worker:
            assert worker.is_forked()
        wait_for(lambda: children(template.pid) == [])


def test_many_workers_are_forked_while_others_work(template: TemplateProcess) -> None:
    """Fork 50 workers, five at once, while one answers calls; no two have the same process."""
    with template.worker() as working:
        working.python()
        stopped = threading.Event()

        def load() -> None:
            while not stopped.is_set():
                working.call("math", "sqrt", 16)

        thread = threading.Thread(target=load)
        thread.start()
        try:
            seen = set()
            for _ in range(10):
                workers = [template.worker() for _ in range(5)]
                seen |= {worker.python() for worker in workers}
                for worker in workers:
                    assert worker.is_forked()
                    worker.__exit__(None, None, None)
        finally:
            stopped.set()
            thread.join()
        assert len(seen) == 50
        wait_for(lambda: children(template.pid) == [working.python()])


def test_worker_is_forked_with_the_least_limit_on_open_files(template: TemplateProcess) -> None:
    """Worker once moved its descriptors beyond this limit, and ended."""
    with template.worker() as first:
        first.python()
    resource.prlimit(template.pid, resource.RLIMIT_NOFILE, (128, 128))
    with template.worker() as worker:
        assert worker.is_forked()
        assert worker.call("math", "sqrt", 16)[2] == 4


@pytest.mark.parametrize("free", range(12))
def test_workers_start_directly_when_the_template_can_open_no_more_files(free: int, template: TemplateProcess) -> None:
    """Template once took all of a core, and its workers ended, or waited for half of their time to start."""
    with template.worker() as first:
        first.python()
    wait_for(lambda: children(template.pid) == [])
    used = {int(path.name) for path in Path(f"/proc/{template.pid}/fd").iterdir()}
    unused = [number for number in range(5, 64) if number not in used]
    limits = resource.prlimit(template.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(template.pid, resource.RLIMIT_NOFILE, (unused[free], limits[1]))
    with template.worker() as worker, template.worker() as other:
        assert worker.call("math", "sqrt", 16)[2] == 4
        assert other.call("math", "sqrt", 25)[2] == 5
    resource.prlimit(template.pid, resource.RLIMIT_NOFILE, limits)
    with template.worker() as worker:
        assert worker.is_forked()
