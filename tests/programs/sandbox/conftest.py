"""Provide the sandboxes that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from erlport_bridge.programs.sandbox import sandboxes as sandbox


@pytest.fixture(scope="module")
def prepared() -> None:
    """Fill Deno's cache."""
    sandbox.prepare()


@pytest.fixture
def sandboxes(prepared: None) -> Iterator[sandbox.Sandboxes]:
    """Yield the sandboxes of one call."""
    with sandbox.Sandboxes() as opened:
        yield opened
