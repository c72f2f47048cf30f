"""Read all arguments of one operation once into one value, the call request, which is passed down unchanged.

Reading has no side effects. :meth:`CallRequest.begin` makes the request the running one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from erlport_bridge import request as running_request
from erlport_bridge.errors import OperationError
from erlport_bridge.programs import callbacks
from erlport_bridge.programs.callbacks import Collecting, Functions
from erlport_bridge.programs.execution.call_options import (
    MANY_CALLS_OPTIONS,
    MODULE_CALL_OPTIONS,
    PROGRAM_CALL_OPTIONS,
    CallOptions,
    check_spelling,
    read_call_options,
)
from erlport_bridge.programs.models import GENERATION_SETTINGS, budgets, history
from erlport_bridge.programs.options import NO_OPTIONS, Vocabulary
from erlport_bridge.programs.pipelines import CallPart, Stage, read_module_spec, stage_of_call
from erlport_bridge.programs.signatures import SignatureSpec
from erlport_bridge.programs.text import arguments, text_of
from erlport_bridge.programs.values import media
from erlport_bridge.request import Deadline


@dataclass(frozen=True, kw_only=True)
class CallRequest:
    """The options of one call, checked, with the functions of Elixir that they contain.

    Attributes:
        options: The options of the call.
        own: The options of the operation itself that the caller gave, by name.
        functions: The functions of Elixir that the call brings.
        deadline: Measures what is left of the budget since the call arrived.
    """

    options: CallOptions
    own: Mapping[str, Any]
    functions: Functions
    deadline: Deadline = field(default_factory=Deadline)

    def begin(self) -> None:
        """Make this the running request of the current context: its id, functions, budgets, use of URLs."""
        options = self.options
        running_request.begin(options.request_id, options.caller or options.session_id, options.context)
        callbacks.bind(self.functions)
        media.allow_urls(options.allow_urls)
        budgets.begin(options.limits, options.budgets)
        history.session_id.set(options.session_id)
        history.redactor.set(options.redact)

    def bind(self, functions: Functions) -> None:
        """Set the ids of the functions that the request brings, by their places."""
        callbacks.bind(functions)

    def left_s(self) -> float | None:
        """Return what is left of the budget in seconds; ``None``: no limit."""
        return self.deadline.left_s(self.options.timeout_ms)

    def with_options(self, **changed: Any) -> CallRequest:
        """Return the same request with other options."""
        return replace(self, options=replace(self.options, **changed))

    def for_item(self, item_timeout_ms: int | None) -> CallRequest:
        """Return the request of one item of many; it ends with the whole operation, or its own time after now."""
        if item_timeout_ms is None:
            return self
        left_s = self.left_s()
        if left_s is not None and left_s * 1000 <= item_timeout_ms:
            return self
        return replace(self.with_options(timeout_ms=item_timeout_ms), deadline=Deadline(time.monotonic()))


@dataclass(frozen=True, kw_only=True)
class ModuleCallRequest(CallRequest):
    """The request of a module call; ``stage`` is the module with its signature."""

    stage: Stage


def read_module_call(
    module: object,
    signature: object,
    opts: object,
    own: Vocabulary = NO_OPTIONS,
    *,
    otherwise: SignatureSpec | None = None,
) -> ModuleCallRequest:
    """Read the call of a module.

    Args:
        module: The name of a module, or its spec, see :mod:`.pipelines.module_spec`.
        signature: The signature beside the spec, or ``nil``.
        opts: The options of the call: a map or keyword list.
        own: The options of the operation itself.
        otherwise: The signature of a call that has none.

    Raises:
        OperationError: Of kind ``module_not_found``, ``signature``, ``input`` or ``tool``, with the path.
    """
    reading = _Reading(opts)
    given, functions = reading.given, reading.functions
    with reading:
        spec = read_module_spec(module, call=given)
        options = read_call_options(given, MODULE_CALL_OPTIONS, spec=spec, own=own)
        part = CallPart(
            {name: given[name] for name in spec.entry.option_names & given.keys()},
            given.get("tools") if any(entry.takes_tools for entry in spec.entries) else None,
        )
        stage = stage_of_call(spec, signature, part, otherwise=otherwise)
        return ModuleCallRequest(options=options, own=own.read(given, "opts"), functions=functions, stage=stage)


def read_program_call(opts: object, own: Vocabulary = NO_OPTIONS) -> CallRequest:
    """Read the options of a stored program's call.

    Args:
        opts: The options of the call: a map or keyword list.
        own: The options of the operation itself.

    Raises:
        OperationError: Of kind ``input``, with the path.
    """
    reading = _Reading(opts)
    given, functions = reading.given, reading.functions
    with reading:
        options = read_call_options(given, PROGRAM_CALL_OPTIONS, own=own)
        return CallRequest(options=options, own=own.read(given, "opts"), functions=functions)


def read_many_calls(opts: object, own: Callable[[Mapping[str, Any]], tuple[str, Vocabulary]]) -> CallRequest:
    """Read the options of an operation that calls a stored program many times; an unknown option is an error.

    Args:
        opts: The options of the operation: a map or keyword list.
        own: Returns, for the options by name, the name of their owner for errors, and the operation's own vocabulary.

    Raises:
        OperationError: Of kind ``input``, with the path.
    """
    reading = _Reading(opts)
    given, functions = reading.given, reading.functions
    with reading:
        owner, vocabulary = own(given)
        check_spelling(given, vocabulary)
        for name in given:
            if not (name in vocabulary or name in MANY_CALLS_OPTIONS or name in GENERATION_SETTINGS):
                raise arguments.unknown(f"option of {owner}", name, vocabulary, "opts", f"opts.{name}")
        options = read_call_options(given, MANY_CALLS_OPTIONS, own=vocabulary)
        return CallRequest(options=options, own=vocabulary.read(given, "opts"), functions=functions)


class _Reading(Collecting):
    """Reads one call: collects its functions, and adds its request id to an error.

    Attributes:
        given: The options by name.
    """

    __slots__ = ("given",)

    def __init__(self, opts: object) -> None:
        super().__init__()
        self.given = arguments.options(opts, "opts")

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if isinstance(error[1], OperationError):
            request_id = text_of(self.given.get("request_id"))
            if request_id is not None:
                error[1].facts.setdefault("request_id", request_id)
