"""Workers that a template process forks have one store, and share nothing else of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.proc import HAS_PROC, proc
from tests.template_process import TemplateProcess, Worker, open_descriptors

pytestmark = pytest.mark.skipif(not HAS_PROC, reason="the system has no /proc")

SPEC = {"signature": "question -> answer", "history": True}
# Whether the template process imports the operations, and so reads the address for its workers, or each worker does.
READERS = {"template": ["--preload=dspy_bridge"], "worker": []}


@pytest.mark.parametrize("reader", READERS)
def test_workers_have_one_store_and_each_is_an_owner_of_its_own(url: str, reader: str) -> None:
    with (
        TemplateProcess(READERS[reader], {"DSPEX_STORE": url}) as template,
        template.worker() as first,
        template.worker() as second,
    ):
        workers = [first, second]
        assert all(worker.is_forked() for worker in workers)
        made = [worker.done("create_program", SPEC, {"session_id": f"s{at}"}) for at, worker in enumerate(workers)]

        def tell(place: int) -> None:
            workers[place].done("configure_lm", "embedded", {})
            for number in range(5):
                told = {"conversation": f"c{place}"}
                workers[place].done("execute_program", None, made[place]["id"], {"question": f"Q{number}"}, told)

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(tell, range(2)))
        # What one has written, the other one reads.
        for place, other in ((0, second), (1, first)):
            read = other.done("conversation", None, made[place]["id"], f"c{place}")
            assert [turn["question"] for turn in read["turns"]] == [f"Q{number}" for number in range(5)]
        assert len(owners(url)) == 2
        # The template process itself has opened nothing.
        assert not any("dspex.db" in path for path in open_descriptors(template.pid).values())
        assert len(list(proc(f"{template.pid}/task").iterdir())) == 1
        assert all(knows_no_address(worker) for worker in workers)


def test_conversation_goes_on_in_a_worker_forked_after_another_has_died(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/dspex.db"
    with TemplateProcess(["--preload=dspy_bridge"], {"DSPEX_STORE": url}) as template:
        questions = []
        for number in range(3):
            with template.worker() as worker:
                worker.done("configure_lm", "embedded", {})
                if not number:
                    program = worker.done("create_program", SPEC, {"session_id": "mine"})["id"]
                worker.done("execute_program", None, program, {"question": f"Q{number}"}, {"conversation": "c"})
                assert worker.is_forked()
                questions = worker.done("conversation", None, program, "c")["turns"]
                worker.process.kill()
        assert [turn["question"] for turn in questions] == ["Q0", "Q1", "Q2"]


def test_template_process_refuses_the_flag_of_the_store(tmp_path: Path) -> None:
    with TemplateProcess([f"--store=sqlite:///{tmp_path}/dspex.db"]) as template:
        assert template.port.process.wait(60) == 1
        assert "have their store from DSPEX_STORE" in template.port.stderr_text()


def owners(url: str) -> set[str]:
    """Return the ids under which processes own conversations."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = set(connection.execute(text("SELECT owner FROM dspex_conversations")).scalars())
    engine.dispose()
    return found


def knows_no_address(worker: Worker) -> bool:
    """Return whether the environment that tools and child processes of a worker see is without the address."""
    return worker.call("os", "getenv", "DSPEX_STORE")[2] is None
