"""Test that a first prediction in a worker takes no more steps than later ones, and leaves no trace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from erlport_bridge.term import Atom
from tests.template_process import TemplateProcess, Worker, python_path

# Counts the calls of functions in the thread of the event loop, and pages that were copied or made.
STEPS_MODULE = """
import resource, sys

_calls = 0

async def begin():
    global _calls
    _calls = 0
    def count(frame, event, argument):
        global _calls
        _calls += event == "call"
    sys.setprofile(count)

async def end():
    sys.setprofile(None)
    return _calls

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
"""
PREDICTION: tuple[Any, ...] = ("dspy.Predict", "question -> answer", {"question": "Where?"}, {})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemplateProcess]:
    folder = tmp_path_factory.mktemp("steps")
    (folder / "steps.py").write_text(STEPS_MODULE)
    environment = {"PYTHONPATH": python_path(folder), "OPENBLAS_NUM_THREADS": "1"}
    with TemplateProcess(["--preload=steps,dspy_bridge"], environment) as template:
        yield template


def of(worker: Worker, function: str) -> int:
    tag, _, result = worker.call("steps", function)
    assert tag == "r", result
    return int(result or 0)


def calls_of_a_prediction(worker: Worker) -> int:
    """Return how many functions of Python a prediction calls."""
    of(worker, "begin")
    worker.done("execute_module", *PREDICTION)
    return of(worker, "end")


def pages_of_a_prediction(worker: Worker) -> int:
    """Return how many pages of memory a prediction has the system copy or make."""
    before = of(worker, "pages")
    worker.done("execute_module", *PREDICTION)
    return of(worker, "pages") - before


def test_first_prediction_of_a_forked_worker_calls_no_more_functions_than_the_next(template: TemplateProcess) -> None:
    with template.worker() as worker:
        assert worker.is_forked()
        worker.done("configure_lm", Atom("embedded"), {})
        first, second = calls_of_a_prediction(worker), calls_of_a_prediction(worker)
    assert first < 1.25 * second


def test_first_prediction_of_a_spare_copies_few_pages(template: TemplateProcess) -> None:
    pages = {}
    for flags in ((), ("--warm-up",)):
        with template.worker(flags) as worker:
            assert worker.is_forked()
            worker.done("configure_lm", Atom("embedded"), {})
            pages[flags] = pages_of_a_prediction(worker)
    assert pages[("--warm-up",)] < pages[()] / 3


@pytest.mark.parametrize("flags", [(), ("--warm-up",)], ids=["worker", "spare"])
def test_counters_begin_with_the_worker(flags: tuple[str, ...], template: TemplateProcess) -> None:
    with template.worker() as earlier:
        earlier.python()  # the template process has imported
        started_at = time.monotonic()
        with template.worker(flags) as worker:
            report = worker.done("metrics")
            age_ms = (time.monotonic() - started_at) * 1000
    assert (list(report["operations"]), report["modules"], report["models"]) == (["metrics"], {}, {})
    assert report["uptime_ms"] == report["counted_ms"] <= age_ms


def test_worker_that_is_started_directly_is_warm_too(template: TemplateProcess) -> None:
    template.socket.rename(template.folder / "hidden")
    try:
        with template.worker(["--warm-up"], timeout_ms=1) as worker:
            assert not worker.is_forked()
            worker.done("configure_lm", Atom("embedded"), {})
            first, second = calls_of_a_prediction(worker), calls_of_a_prediction(worker)
            report = worker.done("metrics")
    finally:
        (template.folder / "hidden").rename(template.socket)
    assert first < 1.25 * second
    assert report["modules"]["dspy.Predict"]["calls"] == 2
