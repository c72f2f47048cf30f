"""What tests of several layers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.model_server import ModelServer


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    """Give a language model provider on loopback."""
    with ModelServer() as server:
        yield server
