"""What tests of several layers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from erlport_bridge.term import Atom
from tests.model_server import ModelServer
from tests.port_process import PortProcess


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    """Give a language model provider on loopback."""
    with ModelServer() as server:
        yield server


@pytest.fixture(scope="module")
def shared_port() -> Iterator[PortProcess]:
    """Give one port with the embedded model, for tests that leave nothing behind."""
    with PortProcess(["--modules=dspy_bridge"]) as port:
        port.done("configure_lm", Atom("embedded"), {})
        yield port


@pytest.fixture
def port() -> Iterator[PortProcess]:
    """Give a port of the test's own, with no model."""
    with PortProcess() as port:
        yield port
