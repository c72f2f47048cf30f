"""Provide the fixtures that tests of several packages share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from erlport_bridge.term import Atom
from tests.model_server import ModelServer
from tests.port_process import PortProcess


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    """Yield a language model provider on loopback."""
    with ModelServer() as server:
        yield server


@pytest.fixture(scope="module")
def shared_port() -> Iterator[PortProcess]:
    """Yield a port with the embedded model, shared by tests that leave no state behind."""
    with PortProcess(["--modules=dspy_bridge"]) as port:
        port.done("configure_lm", Atom("embedded"), {})
        yield port


@pytest.fixture
def port() -> Iterator[PortProcess]:
    """Yield a new port without a language model, for one test."""
    with PortProcess() as port:
        yield port
