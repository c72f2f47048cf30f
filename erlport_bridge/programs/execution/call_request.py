"""Everything that a caller asked of one operation: read once into one value, which goes down unchanged.

Reading has no side effects. :meth:`CallRequest.begin` makes the request the one that runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from erlport_bridge import request as running_request
from erlport_bridge.errors import OperationError
from erlport_bridge.programs import callbacks
from erlport_bridge.programs.callbacks import Functions
from erlport_bridge.programs.execution.call_options import (
    MANY_CALLS_OPTIONS,
    MODULE_CALL_OPTIONS,
    PROGRAM_CALL_OPTIONS,
    CallOptions,
    read_call_options,
)
from erlport_bridge.programs.models import GENERATION_SETTINGS
from erlport_bridge.programs.options import NO_OPTIONS, Vocabulary
from erlport_bridge.programs.pipelines import CallPart, Stage, read_module_spec, stage_of_call
from erlport_bridge.programs.signatures import SignatureSpec
from erlport_bridge.programs.text import arguments, text_of
from erlport_bridge.programs.values import media
from erlport_bridge.request import Deadline


@dataclass(frozen=True, kw_only=True)
class CallRequest:
    """What a caller asked.

    Attributes:
        options: The options of the call.
        own: The options of the operation itself, by name; those that were left out are missing.
        functions: The functions of Elixir that the call brings.
        deadline: When the call came, and so what is left of its budget.
    """

    options: CallOptions
    own: Mapping[str, Any]
    functions: Functions
    deadline: Deadline = field(default_factory=Deadline)

    def begin(self) -> None:
        """Make this the request that runs here: for errors, log lines and cancel, its functions and its values."""
        running_request.begin(self.options.request_id)
        callbacks.bind(self.functions)
        media.allow_urls(self.options.allow_urls)

    def left_s(self) -> float | None:
        """Return what is left of the budget in seconds; ``None``: no limit."""
        return self.deadline.left_s(self.options.timeout_ms)

    def with_options(self, **changed: Any) -> CallRequest:
        """Return the same request with other options."""
        return replace(self, options=replace(self.options, **changed))

    def for_item(self, item_timeout_ms: int | None) -> CallRequest:
        """Return the request of one item of many, which ends with the whole or after its own time limit."""
        if item_timeout_ms is None:
            return self
        left_s = self.left_s()
        if left_s is not None and left_s * 1000 <= item_timeout_ms:
            return self
        return replace(self.with_options(timeout_ms=item_timeout_ms), deadline=Deadline())


@dataclass(frozen=True, kw_only=True)
class ModuleCallRequest(CallRequest):
    """What a caller asked who calls a module; ``stage`` is the module with its signature."""

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
        module: A name, or a spec, see :mod:`.pipelines.module_spec`.
        signature: Beside the spec, or ``nil``.
        opts: A map or keyword list.
        own: What the operation itself takes.
        otherwise: The signature where there is none.

    Raises:
        OperationError: Of kind ``module_not_found``, ``signature``, ``input`` or ``tool``, with the path.
    """
    with _reading(opts) as (given, functions):
        spec = read_module_spec(module, call=given)
        options = read_call_options(given, MODULE_CALL_OPTIONS, spec=spec, own=own)
        part = CallPart(
            {name: given[name] for name in spec.entry.option_names & given.keys()},
            given.get("tools") if any(entry.takes_tools for entry in spec.entries) else None,
        )
        stage = stage_of_call(spec, signature, part, otherwise=otherwise)
        return ModuleCallRequest(options=options, own=own.read(given, "opts"), functions=functions, stage=stage)


def read_program_call(opts: object, own: Vocabulary = NO_OPTIONS) -> CallRequest:
    """Read the options of a call of a stored program.

    Args:
        opts: A map or keyword list.
        own: What the operation itself takes.

    Raises:
        OperationError: Of kind ``input``, with the path.
    """
    with _reading(opts) as (given, functions):
        options = read_call_options(given, PROGRAM_CALL_OPTIONS, own=own)
        return CallRequest(options=options, own=own.read(given, "opts"), functions=functions)


def read_many_calls(opts: object, own: Callable[[Mapping[str, Any]], tuple[str, Vocabulary]]) -> CallRequest:
    """Read the options of an operation that calls a stored program many times, and takes no unknown option.

    Args:
        opts: A map or keyword list.
        own: Gives for the options, by name, whose they are, and what the operation takes beside a call's.

    Raises:
        OperationError: Of kind ``input``, with the path.
    """
    with _reading(opts) as (given, functions):
        owner, vocabulary = own(given)
        for name in given:
            if not (name in vocabulary or name in MANY_CALLS_OPTIONS or name in GENERATION_SETTINGS):
                raise arguments.unknown(f"option of {owner}", name, vocabulary, "opts", f"opts.{name}")
        options = read_call_options(given, MANY_CALLS_OPTIONS, own=vocabulary)
        return CallRequest(options=options, own=vocabulary.read(given, "opts"), functions=functions)


@contextlib.contextmanager
def _reading(opts: object) -> Iterator[tuple[dict[str, Any], Functions]]:
    """Give the options by name, and the functions that are read meanwhile; errors have the id of the request."""
    given = arguments.options(opts, "opts")
    try:
        with callbacks.collected() as functions:
            yield given, functions
    except OperationError as error:
        request_id = text_of(given.get("request_id"))
        if request_id is not None:
            error.facts.setdefault("request_id", request_id)
        raise
