"""Enter the scopes of DSPy's requests without a generator for each: it takes three times as long."""

from __future__ import annotations

from typing import Any

from dspy import lm15
from dspy.clients import _deprecation, call_context, capabilities
from dspy.clients.errors import wrap_error


class PlanningScope:
    """A replacement for ``planning_scope``: what the model of one request can do is looked up once.

    Args:
        lm: The model.
        options: The settings of the request.
    """

    __slots__ = ("_lm", "_options", "_token")

    def __init__(self, lm: Any, options: Any) -> None:
        self._lm = lm
        self._options = options

    def __enter__(self) -> None:
        current = capabilities._planning.get()
        if current is not None and current.lm is self._lm and current.options is self._options:
            self._token = None
        else:
            self._token = capabilities._planning.set(capabilities._PlanningScope(self._lm, self._options))

    def __exit__(self, *_raised: object) -> None:
        if self._token is not None:
            capabilities._planning.reset(self._token)


class AdapterMessageCall:
    """A replacement for ``adapter_message_call``: DSPy does not warn of the messages of its own adapter.

    Args:
        lm: The model.
        messages: The messages.
    """

    __slots__ = ("_call", "_token")

    def __init__(self, lm: Any, messages: Any) -> None:
        self._call = lm, messages

    def __enter__(self) -> None:
        self._token = _deprecation._adapter_call.set(self._call)

    def __exit__(self, *_raised: object) -> None:
        _deprecation._adapter_call.reset(self._token)


class AdapterFallbackScope:
    """A replacement for ``adapter_fallback_scope``: whether a request has streamed a part of its answer."""

    __slots__ = ("_token",)

    def __enter__(self) -> Any:
        progress = call_context.StreamProgress()
        self._token = call_context._adapter_calls.set((*call_context._adapter_calls.get(), progress))
        return progress

    def __exit__(self, *_raised: object) -> None:
        call_context._adapter_calls.reset(self._token)


class ErrorBoundary:
    """A replacement for ``error_boundary``: exceptions become those of DSPy.

    Args:
        model: The name of the model.
        provider: The name of its provider.
        unexpected: Also those that no provider's client raises.
    """

    __slots__ = ("_model", "_provider", "_unexpected")

    def __init__(self, model: str, *, provider: str | None = None, unexpected: bool = False) -> None:
        self._model = model
        self._provider = provider
        self._unexpected = unexpected

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, raised: BaseException | None, _traceback: object) -> None:
        if raised is None or not isinstance(raised, Exception):
            return
        if self._unexpected or isinstance(raised, lm15.LM15Error):
            error = wrap_error(raised, model=self._model, provider=self._provider)
            if error is not raised:
                raise error from raised
