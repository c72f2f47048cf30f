"""Provide the fixtures that tests of several packages share."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from erlport_bridge.term import Atom
from tests.model_server import ModelServer
from tests.port_process import PortProcess
from tests.proc import HAS_PROC
from tests.template_process import TemplateProcess

# No test may fail because a machine is slow.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_collection_finish() -> None:
    """Take the thousands of collected tests out of the work of the garbage collector."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    """Yield a language model provider on loopback."""
    with ModelServer() as server:
        yield server


class Ports:
    """Starts ports: forked from one template process, which takes a tenth of the time of a start of Python.

    Each test of a port has a process of its own, and imports of DSPy would be most of the time of all tests. Where
    there is no template process (macOS), and where a test changes the environment, Python is started.
    """

    def __init__(self) -> None:
        self._template: TemplateProcess | None = None

    def start(self, *flags: str) -> PortProcess:
        """Start a port with these flags."""
        if not HAS_PROC:
            return PortProcess(flags)
        if self._template is None or self._template.port.process.poll() is not None:
            self.close()
            self._template = TemplateProcess(["--preload=dspy_bridge"])
        return self._template.worker(flags)

    def close(self) -> None:
        """End the template process."""
        if self._template is not None:
            self._template.__exit__(None, None, None)


@pytest.fixture(scope="session")
def ports() -> Iterator[Ports]:
    """Yield what starts ports."""
    ports = Ports()
    yield ports
    ports.close()


@pytest.fixture(scope="module")
def shared_port(ports: Ports) -> Iterator[PortProcess]:
    """Yield a port with the embedded model, shared by tests that leave no state behind."""
    with ports.start("--modules=dspy_bridge") as port:
        port.done("configure_lm", Atom("embedded"), {})
        yield port


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """Keep all cores busy, so that a new thread waits until it runs."""
    endless = [sys.executable, "-I", "-S", "-c", "while True: pass"]
    processes = [subprocess.Popen(endless) for _ in range(2 * (os.cpu_count() or 1))]
    yield
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def port(ports: Ports) -> Iterator[PortProcess]:
    """Yield a new port without a language model, for one test."""
    with ports.start() as port:
        yield port
