"""Decide whether DSPy sends a request again: not if the call ends before, since its caller would learn of no cause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dspy.clients import execution

from erlport_bridge import tracing
from erlport_bridge.errors import is_lasting
from erlport_bridge.programs.models import history, model_spans
from erlport_bridge.request import current_progress

# A call without a deadline would wait for years, if that is what the provider says.
_LONGEST_WAIT_S: Final = 86_400

_Decide = Callable[[Any, Exception, int, int], bool]


def within_deadline(is_retryable: _Decide) -> _Decide:
    """Return a replacement for ``_retryable``, which decides after each failed attempt."""

    def decide(state: Any, error: Exception, attempt: int, retries: int) -> bool:
        if is_lasting(error) or not is_retryable(state, error, attempt, retries):
            return False
        progress = current_progress()
        if progress is not None:
            progress.failure = error
            left_s = progress.left_s()
            if execution._delay(error, attempt) >= (_LONGEST_WAIT_S if left_s is None else left_s):
                return False
        if (span := tracing.current()) is not None:
            model_spans.repeated(span, error)
        history.retried()
        return True

    return decide
