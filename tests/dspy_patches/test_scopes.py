"""The scopes of a request do what DSPy's own do, also when an exception leaves them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import dspy
import pytest
from dspy import lm15
from dspy.clients import _deprecation, call_context, capabilities

from erlport_bridge.dspy_patches import scopes
from erlport_bridge.dspy_patches.installing import seam

ORIGINALS = seam.originals["scopes"]


def original(name: str) -> Any:
    """Return DSPy's own scope."""
    return next(value for target, value in ORIGINALS.items() if target.endswith(f":{name}"))


class Named:
    """A model with nothing but a name."""

    model = "m"


def planned() -> list[Any]:
    scope = capabilities._planning.get()
    return [] if scope is None else [scope.lm, scope.options, scope.value]


@pytest.mark.parametrize("make", [original("planning_scope"), scopes.PlanningScope])
def test_a_nested_request_of_the_same_model_and_options_shares_what_is_planned(make: Any) -> None:
    lm, options = Named(), {"a": 1}
    with make(lm, options):
        outer = capabilities._planning.get()
        assert planned() == [lm, options, None]
        with make(lm, options):
            assert capabilities._planning.get() is outer
        assert capabilities._planning.get() is outer
        # Equal ones are others.
        with contextlib.suppress(ValueError), make(lm, dict(options)):
            assert capabilities._planning.get() is not outer
            raise ValueError("no")
        assert capabilities._planning.get() is outer
    assert planned() == []


@pytest.mark.parametrize("make", [original("adapter_message_call"), scopes.AdapterMessageCall])
def test_only_the_messages_of_the_adapter_are_known(make: Any) -> None:
    lm, messages = Named(), [{"role": "user", "content": "x"}]
    with contextlib.suppress(ValueError), make(lm, messages):
        assert _deprecation._adapter_call.get() == (lm, messages)
        assert _deprecation._adapter_call.get()[1] is messages
        raise ValueError("no")
    assert _deprecation._adapter_call.get() is None


@pytest.mark.parametrize("make", [original("adapter_fallback_scope"), scopes.AdapterFallbackScope])
def test_a_streamed_part_counts_for_all_scopes_around_it_and_no_other(make: Any) -> None:
    async def request(*, streams: bool) -> list[bool]:
        with make() as outer, make() as inner:
            await asyncio.sleep(0)
            if streams:
                call_context.stream_emitted()
            await asyncio.sleep(0)
            return [outer.emitted, inner.emitted]

    async def both() -> list[Any]:
        return list(await asyncio.gather(request(streams=True), request(streams=False)))

    assert asyncio.run(both()) == [[True, True], [False, False]]
    assert call_context._adapter_calls.get() == ()


RAISED = [
    ValueError("wrong"),
    StopIteration("wrong"),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
    dspy.LMServerError("no"),
    ImportError("no"),
    UserWarning("no"),
    lm15.TimeoutError("late"),
    lm15.RateLimitError("many", retry_after=2.0),
    lm15.NotConfiguredError("no key"),
]


@pytest.mark.parametrize("raised", RAISED, ids=lambda raised: type(raised).__name__)
@pytest.mark.parametrize("unexpected", [False, True])
def test_an_exception_becomes_the_same_one(raised: BaseException, unexpected: bool) -> None:
    def seen(make: Any) -> Any:
        try:
            with make("m", provider="p", unexpected=unexpected):
                raise raised
        except BaseException as error:  # noqa: BLE001 - both must raise the same
            return type(error), str(error), error is raised, error.__cause__ is raised, vars(error)

    expected, found = seen(original("error_boundary")), seen(scopes.ErrorBoundary)
    assert found == expected
    if isinstance(raised, lm15.LM15Error):
        assert issubclass(found[0], dspy.LMError)


@pytest.mark.parametrize("make", [original("error_boundary"), scopes.ErrorBoundary])
def test_nothing_raised_is_nothing(make: Any) -> None:
    with make("m", unexpected=True) as entered:
        assert entered is None
