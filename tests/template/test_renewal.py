"""Test that workers of one template process share nothing that they must not share; see the table in ``renewal.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.port.test_lifeline import wait_for
from tests.template_process import TemplateProcess, Worker, open_descriptors, python_path

# What a module of the application may have done while it was imported.
STATE_MODULE = """
import atexit, gc, logging, os, random, signal, sys, tempfile, threading, uuid
import numpy.random

numpy.random.random()
random.random()
tempfile.mktemp()
uuid.uuid1(), uuid.uuid4()
file = open(__file__, 'rb', buffering=0)
file.read(10)
log = logging.getLogger("state")
log.addHandler(logging.StreamHandler())
log.warning("logged by an import")
print("printed by an import")
atexit.register(os.unlink, os.environ["KEPT"])

def numbers():
    import secrets
    return [
        str(value)
        for value in (
            random.random(), random.randrange(10**12), numpy.random.random(), uuid.uuid1(), uuid.uuid4(),
            tempfile.mktemp(), secrets.token_hex(8), os.getpid(), os.getpgrp(), os.getsid(0),
        )
    ]

def position():
    file.seek(3, os.SEEK_CUR)
    return file.tell()

def collects():
    return [gc.isenabled(), list(gc.get_threshold()), gc.get_freeze_count() > 0]

def process():
    return {
        "argv": sys.argv, "folder": os.getcwd(), "umask": os.umask(0o22), "nice": os.nice(0),
        "oom": open("/proc/self/oom_score_adj").read(), "main": threading.current_thread() is threading.main_thread(),
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
        "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        # Of those for calls, a second one is started if the first has not quite ended its call when the next comes.
        "threads": sorted({thread.name.partition("-")[0] for thread in threading.enumerate()}),
        "switch": sys.getswitchinterval(),
        "environment": sorted(os.environ.items()), "streams": [type(sys.stdout).__name__, type(sys.stderr).__name__],
        "fork": os.fork.__name__, "loaded": "dspy" in sys.modules, "path": sys.path,
    }

def collides(count):
    return [logging.getLogger("state").handlers[0].lock.acquire(timeout=1) for _ in range(count)]

def log_line():
    log.warning("logged by a call")
    print("printed by a call")

def ends(status):
    sys.exit(status)
"""
FLAGS = ("--preload=state", "--log-to-elixir")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("state")
    (folder / "state.py").write_text(STATE_MODULE)
    (folder / "kept").touch()
    # Its threads in C would be refused.
    return {"PYTHONPATH": python_path(folder), "KEPT": str(folder / "kept"), "OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def template(environment: dict[str, str]) -> Iterator[TemplateProcess]:
    with TemplateProcess(FLAGS, environment) as template:
        wait_for(template.socket.exists)
        yield template


@pytest.fixture
def workers(template: TemplateProcess) -> Iterator[list[Worker]]:
    with template.worker() as first, template.worker() as second:
        yield [first, second]


@pytest.fixture
def direct(environment: dict[str, str], template: TemplateProcess) -> Iterator[Worker]:
    """Yield a worker that was started directly, by a launcher that finds no template process."""
    template.socket.rename(template.folder / "hidden")
    try:
        worker = template.worker(timeout_ms=1)
        worker.python()
    finally:
        (template.folder / "hidden").rename(template.socket)
    with worker:
        assert not worker.is_forked()
        yield worker


def of(worker: Worker, function: str, *arguments: Any) -> Any:
    """Return what a function of ``state`` returns."""
    tag, _, result = worker.call("state", function, *arguments)
    assert tag == "r", result
    return result


def test_numbers_names_and_ids_differ_between_workers(workers: list[Worker]) -> None:
    first, second = (of(worker, "numbers") for worker in workers)
    assert [place for place, (one, other) in enumerate(zip(first, second, strict=True)) if one == other] == []


def test_ids_of_sessions_differ_between_workers(workers: list[Worker]) -> None:
    made = [worker.done("create_program", {"signature": "question -> answer"}) for worker in workers]
    assert made[0]["id"] != made[1]["id"]
    assert made[0]["session_id"] != made[1]["session_id"]


def test_files_that_are_read_have_a_position_of_their_own(workers: list[Worker]) -> None:
    assert [of(worker, "position") for worker in workers for _ in range(2)] == [13, 16, 13, 16]


def test_worker_leads_a_session_and_a_group_of_its_own(workers: list[Worker]) -> None:
    for worker in workers:
        pid, group, session = of(worker, "numbers")[-3:]
        assert pid == group == session


def test_process_is_as_one_that_was_started_directly(workers: list[Worker], direct: Worker) -> None:
    expected = of(direct, "process")
    for worker in workers:
        assert of(worker, "process") == expected


def test_descriptors_are_those_of_a_worker_that_was_started_directly(workers: list[Worker], direct: Worker) -> None:
    expected = sorted(open_descriptors(direct.launcher).values())
    for worker in workers:
        python = int(of(worker, "numbers")[-3])
        assert sorted(open_descriptors(python).values()) == expected


def test_garbage_is_collected_as_usual_and_what_was_imported_is_frozen(workers: list[Worker], direct: Worker) -> None:
    assert [of(worker, "collects")[:2] for worker in workers] == [of(direct, "collects")[:2]] * 2
    assert of(workers[0], "collects")[2] is True


def test_locks_of_handlers_are_free(workers: list[Worker]) -> None:
    assert of(workers[0], "collides", 3) == [True, True, True]


def test_lines_of_imports_are_sent_once_and_those_of_a_worker_by_the_worker(
    template: TemplateProcess, environment: dict[str, str]
) -> None:
    with TemplateProcess(FLAGS, environment) as other, other.worker() as worker:
        call_id = worker.send_call("state", "log_line", [])
        received = [other.port.receive()]
        texts: list[str] = []
        while len(texts) < 2 or call_id:
            message = worker.receive()
            if message[0] == "L":
                texts += [entry[3] for entry in message[2]]
            else:
                call_id = 0
    assert sorted(entry[3] for message in received for entry in message[2]) == [
        "logged by an import",
        "printed by an import",
    ]
    assert sorted(texts) == ["logged by a call", "printed by a call"]


def test_functions_of_atexit_do_not_run_in_a_worker(template: TemplateProcess, environment: dict[str, str]) -> None:
    with template.worker() as worker:
        worker.python()
        worker.close()
        worker.process.wait()
    with template.worker(["--packet=3"]) as worker:
        # A wrong flag, which ends the process before it serves.
        assert worker.process.wait() == 2
        assert "invalid choice" in worker.stderr_text()
    assert Path(environment["KEPT"]).exists()


def test_fork_warns_of_nothing(environment: dict[str, str]) -> None:
    """Python 3.12 and newer warn of a fork with several threads."""
    with TemplateProcess(("--preload=state",), {**environment, "PYTHONWARNINGS": "error"}) as template:
        with template.worker() as worker:
            assert worker.is_forked()
        template.port.close()
        assert "fork" not in template.port.stderr_text()
