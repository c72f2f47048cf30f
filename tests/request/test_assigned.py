"""A context variable has its value within the block only, however the block ends."""

from __future__ import annotations

from contextvars import ContextVar

import pytest

from erlport_bridge.request import Assigned

_variable: ContextVar[str] = ContextVar("variable", default="none")


def test_value_is_there_within_the_block_only() -> None:
    with Assigned(_variable, "outer"):
        with Assigned(_variable, "inner"):
            assert _variable.get() == "inner"
        assert _variable.get() == "outer"
    assert _variable.get() == "none"


def test_earlier_value_is_back_after_an_exception() -> None:
    with pytest.raises(LookupError), Assigned(_variable, "outer"):
        raise LookupError
    assert _variable.get() == "none"
