"""Provide the fixtures that tests of the port share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from erlport_bridge.port.implementation import native
from tests.port_process import PortProcess


@pytest.fixture
def port() -> Iterator[PortProcess]:
    """Yield a new port without a language model, started as Elixir starts a single one: not forked."""
    with PortProcess() as port:
        yield port


@pytest.fixture(params=["compiled", "pure"])
def implementation(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return the environment of a port, in turn with and without the compiled part."""
    if request.param == "compiled" and native is None:
        pytest.skip("installed without a C compiler")
    return {"ERLPORT_BRIDGE_CODEC": request.param}
