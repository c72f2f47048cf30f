"""The request for which code runs, wherever it runs."""

from __future__ import annotations

from contextvars import ContextVar

#: The id that the caller gave its request, once the options of the call have been read; for its errors and its lines in
#: the log.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
