"""One request of a predictor, which is asked again while its answer cannot be read and a retry is left.

Only the request whose answer cannot be read is asked again: what an agent or a program did before is not repeated. What
is read is checked against the constraints of the outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, Final
from weakref import WeakKeyDictionary

import dspy
import pydantic
from dspy.clients import call_context
from dspy.utils.exceptions import AdapterParseError

from erlport_bridge.errors import OperationError, message_of
from erlport_bridge.programs import values
from erlport_bridge.programs.models import call_arguments, endings, response_cache
from erlport_bridge.programs.signatures import constraints
from erlport_bridge.programs.text import beginning
from erlport_bridge.request import Assigned

_MAX_REASON_CHARACTERS: Final = 500

_Signature = type[dspy.Signature]


@dataclass
class _Budget:
    retries: int


_budget: ContextVar[_Budget | None] = ContextVar("parse_retries", default=None)


def retrying(retries: int) -> contextlib.AbstractContextManager[None]:
    """Within the ``with`` block, ask again after answers that cannot be read, at most ``retries`` times in all."""
    return Assigned(_budget, _Budget(retries))


def is_unreadable(error: BaseException) -> bool:
    """Return whether an exception says that the answer of a model cannot be read."""
    return isinstance(error, AdapterParseError) or (isinstance(error, OperationError) and error.kind == "parse")


def problem_of(error: BaseException) -> str:
    """Return what an exception says about an answer that cannot be read, for the model; without the answer itself."""
    if isinstance(error, OperationError):
        reason = error.message
    else:
        reason = values.problem_of(error)[0] if isinstance(error, AdapterParseError) else message_of(error)
    return beginning(reason, _MAX_REASON_CHARACTERS)


def would_end_alike(error: BaseException) -> bool:
    """Return whether an answer that cannot be read was cut off, filtered or refused, as the next one would be."""
    return isinstance(error, OperationError) and error.kind == "parse" and not error.retryable


def read_outputs(signature: _Signature, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return output fields read from the values of a JSON object, checked against their types and constraints.

    Raises:
        OperationError: Of kind ``parse``: a value does not fit its field.
    """
    fields = {}
    for name, field in signature.output_fields.items():
        try:
            fields[name] = values.read_json(given[name], field.annotation)
        except values.UnreadableError as error:
            raise OperationError("parse", error.at(f"outputs.{name}"), path=f"outputs.{name}{error.path}") from error
        _check(signature, name, fields[name])
    return fields


class Asking:
    """One request of a predictor, which is asked again while its answer cannot be read and a retry is left.

    Attributes:
        form: The adapter of the current attempt.
        signature: The signature of the current attempt.
    """

    def __init__(self, adapter: Any, signature: _Signature) -> None:
        self._adapter = adapter
        self._original = signature
        self.form = adapter
        self.signature = signature
        self._is_parsed = False

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Run one attempt in the ``with`` block, which ends without an exception if another one is to follow."""
        self._is_parsed = False
        ended = endings.Endings()
        try:
            with (
                call_context.adapter_fallback_scope() as shown,
                endings.collected(ended),
                response_cache.KeptIfRead(ended),
            ):
                yield
        except (AdapterParseError, OperationError) as error:
            if not is_unreadable(error):
                raise
            if ended.lasting is not None:
                raise ended.lasting.error() from error
            # Text that a stream has sent cannot be taken back.
            if shown.emitted or not self._asks_again(error):
                raise

    def _asks_again(self, error: Exception) -> bool:
        fallback = self._adapter.fallback() if self.form is self._adapter and not self._is_parsed else None
        if fallback is not None:
            self.form = fallback
            return True
        budget = _budget.get()
        if budget is None or not budget.retries:
            return False
        budget.retries -= 1
        note = f"An answer was refused before: {problem_of(error)}. Answer anew, and keep to the form."
        self.form = self._adapter
        self.signature = self._original.with_instructions(f"{self._original.instructions}\n\n{note}")
        return True

    def checked(self, completions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the fields of each completion after a check of their constraints."""
        self._is_parsed = True
        for name, field in self._original.output_fields.items():
            if field.annotation is dspy.ToolCalls:
                for fields in completions:
                    if isinstance(calls := fields.get(name), dspy.ToolCalls):
                        fields[name] = _read_calls(name, calls)
        for name in _validators(self._original):
            for fields in completions:
                _check(self._original, name, fields.get(name))
        return completions


_known: WeakKeyDictionary[_Signature, dict[str, Callable[[Any], Any]]] = WeakKeyDictionary()


def _validators(signature: _Signature) -> dict[str, Callable[[Any], Any]]:
    """Return the functions that check outputs against the constraints of their fields, by name."""
    found = _known.get(signature)
    if found is None:
        found = _known[signature] = {
            name: pydantic.TypeAdapter(_annotated(field)).validate_python
            for name, field in signature.output_fields.items()
            if field.metadata
        }
    return found


def _check(signature: _Signature, name: str, value: Any) -> None:
    validate = _validators(signature).get(name)
    if validate is not None and value is not None:
        constraints.validated(validate, value, f"outputs.{name}", "parse")


def _read_calls(name: str, calls: dspy.ToolCalls) -> dspy.ToolCalls:
    """Read native calls of tools, which no adapter has read, and check their texts: not every text has a term."""
    place = f"outputs.{name}"
    try:
        calls = call_arguments.read_calls(calls)
        place += ".tool_calls"
        values.check_texts([{"name": call.name, "args": call.args} for call in calls.tool_calls])
    except values.UnreadableError as error:
        raise OperationError("parse", error.at(place), path=place + error.path) from error
    return calls


def _annotated(field: Any) -> Any:
    parts = (field.annotation, *field.metadata)
    return Annotated[parts]
