"""Define the exceptions of this package, and turn any exception into the details map of an error answer.

The tree::

    BridgeError
    ├── TermError
    │   ├── DecodeError      invalid bytes, with the offset of the offending byte and the path of its term
    │   └── EncodeError      a value without an Erlang term, with its path
    ├── ProtocolError        a frame or a message that is not part of the protocol
    │   └── UnknownOperationError    a call of a function that a module does not offer
    └── OperationError       a failed operation, with its kind

This module does not import DSPy. It recognises an exception of DSPy by the name of its class, so that a port that has
not loaded DSPy yet can still answer.
"""

from __future__ import annotations

import asyncio
import sys
import traceback as traceback_module
from collections.abc import Mapping
from typing import Any, Final, NoReturn, TypeVar

from erlport_bridge.redaction import redact_beginning

#: Every value of ``details["kind"]``, with the ``details["type"]`` of an :class:`OperationError` of that kind and
#: whether a retry of the same call may succeed. ``conformance/errors.tsv`` holds the same table for both languages.
KINDS: Final[Mapping[str, tuple[str, bool]]] = {
    "module_not_found": ("ModuleNotFoundError", False),
    "signature": ("ValueError", False),
    "input": ("ValueError", False),
    "session_not_found": ("SessionNotFoundError", False),
    "program_not_found": ("ProgramNotFoundError", False),
    "lm_not_configured": ("LMNotConfiguredError", False),
    "provider": ("ProviderError", False),
    "auth": ("AuthError", False),
    "billing": ("BillingError", False),
    "budget": ("BudgetError", False),
    "rate_limit": ("RateLimitError", True),
    "timeout": ("TimeoutError", True),
    "transport": ("TransportError", True),
    "server": ("ServerError", True),
    "context_window": ("ContextWindowExceededError", False),
    "unsupported_model": ("UnsupportedModelError", False),
    "parse": ("ParseError", True),
    "tool": ("ToolError", False),
    "sandbox": ("SandboxError", False),
    "missing_dependency": ("MissingDependencyError", False),
    "overloaded": ("OverloadedError", True),
    "cancelled": ("CancelledError", True),
    "store": ("StoreError", False),
    "conflict": ("ConflictError", True),
    "encode": ("EncodeError", False),
    "internal": ("InternalError", False),
}

# The kind of each error class of DSPy. Looked up for each class of the exception's MRO, so the most specific wins.
_KIND_OF_DSPY_CLASS: Final[Mapping[str, str]] = {
    "ContextWindowExceededError": "context_window",
    "LMUnsupportedModelError": "unsupported_model",
    "LMInvalidRequestError": "provider",
    "LMAuthError": "auth",
    "LMBillingError": "billing",
    "LMRateLimitError": "rate_limit",
    "LMTimeoutError": "timeout",
    "LMServerError": "server",
    "LMTransportError": "transport",
    "LMNotConfiguredError": "lm_not_configured",
    "LMConfigurationError": "lm_not_configured",
    "LMProviderError": "provider",
    "LMStreamAssemblyError": "provider",
    "LMUnsupportedFeatureError": "provider",
    "AdapterParseError": "parse",
    "CodeInterpreterError": "sandbox",
}

# Attributes of DSPy's errors -> entries of the details map. There, "request_id" is the id that the caller gave.
_FACTS_OF_DSPY: Final[Mapping[str, str]] = {
    "retry_after": "retry_after",
    "status": "status",
    "provider": "provider",
    "model": "model",
    "request_id": "provider_request_id",
}

# Kinds that a provider or the network causes. Their details have no traceback: DSPy's client lines explain nothing.
_CAUSED_OUTSIDE: Final = frozenset(
    {
        *("auth", "billing", "rate_limit", "server", "transport", "timeout"),
        *("context_window", "unsupported_model", "lm_not_configured"),
    }
)

# Of exceptions that are raised without a text.
_DEFAULT_MESSAGES: Final[Mapping[type, str]] = {
    asyncio.CancelledError: "the call was cancelled",
    MemoryError: "python has no memory for this call; send less, or allow it more memory",
}

# DSPy's client appends this advice to a provider's message. It names classes of DSPy, which callers cannot use.
_ADVICE: Final = "\n\n  To fix:"

# A message of DSPy may hold a model's whole completion, but a person reads the details map.
_MAX_MESSAGE_CHARACTERS: Final = 2_000
_MAX_TRACEBACK_LINES: Final = 40

_Error = TypeVar("_Error", bound=BaseException)

# The attribute of an exception, and the entries of the details map, about what was paid before it.
_PAID: Final = "paid_before"

# What is kept of an error that was not the end of its call.
_CAUSE_KEYS: Final = ("kind", "message", "status", "retry_after")


class BridgeError(Exception):
    """The base class of every exception that this package raises on purpose."""


class TermError(BridgeError):
    """A value cannot cross the port."""


class DecodeError(TermError):
    """Bytes that are not an Erlang external term.

    Attributes:
        reason: What is wrong, without the place.
        offset: Position of the offending byte, counted from 0.
        path: Path to the term from the top, such as ``["answer"][3]``; empty for the top itself, and where the data
            ends early.
    """

    def __init__(self, reason: str, offset: int, path: str = "") -> None:
        self.reason = reason
        self.offset = offset
        self.path = path
        super().__init__(f"{reason} at {path} (byte {offset})" if path else f"{reason} at byte {offset}")


class EncodeError(TermError):
    """A Python value that has no Erlang term.

    Attributes:
        reason: What is wrong, without the place.
        path: Path to the value from the top of the result, such as ``["answer"][3]``; empty for the top itself.
    """

    def __init__(self, reason: str, path: str = "") -> None:
        self.reason = reason
        self.path = path
        super().__init__(f"{reason} at {path}" if path else reason)


class ProtocolError(BridgeError):
    """A frame or a message that is not part of the protocol."""


class UnknownOperationError(ProtocolError):
    """A call of a function that the called module does not offer."""


class OperationError(BridgeError):
    """An operation that failed for a reason its caller can act on.

    Args:
        kind: One of :data:`KINDS`.
        message: What was wrong, where, what came, and the remedy; lower case, no full stop.
        type: ``details["type"]``; by default the type that :data:`KINDS` has for ``kind``.
        retryable: Whether a retry of the same call may succeed; by default as in :data:`KINDS`.
        facts: Further entries of the details map: ``path``, ``stage``, ``provider``, ``model``, ``status``,
            ``retry_after``, ``request_id``, ``limit``, ``option``. ``None`` leaves an entry out.
    """

    def __init__(
        self, kind: str, message: str, *, type: str | None = None, retryable: bool | None = None, **facts: Any
    ) -> None:
        default_type, is_retryable = KINDS[kind]
        self.kind = kind
        self.message = message
        self.type = type or default_type
        self.retryable = is_retryable if retryable is None else retryable
        self.facts = {name: fact for name, fact in facts.items() if fact is not None}
        super().__init__(message)


class MissingPackageError(OperationError):
    """An error of kind ``missing_dependency`` at the start of a port: a package of Python is not installed.

    Args:
        what: What needs it.
        module: The name of the module that cannot be imported.
        packages: What pip is to install.
    """

    def __init__(self, what: str, module: str | None, packages: str) -> None:
        self.cause = f"{what} needs the module {module}"
        self.remedy = f"install it with: {sys.executable} -m pip install {packages}"
        super().__init__("missing_dependency", f"{self.cause}; {self.remedy}")


def details(error: BaseException, *, request_id: str | None = None) -> dict[str, Any]:
    """Return the details map of an exception, as in ``{:error, {:python_exception, details}}``.

    Returns:
        String keys: ``type``, ``kind``, ``message``, ``path``, ``traceback`` (a list of lines, empty where the message
        says all), ``retryable``, and where known ``retry_after`` (seconds), ``status`` (HTTP), ``provider``,
        ``model``, ``request_id``, ``provider_request_id``, ``stage``; ``usage`` and ``cost`` if a model was asked. API
        keys that a language model was configured with are redacted.
    """
    found: dict[str, Any] = {"path": None, "traceback": [], **error.__dict__.get(_PAID, {})}
    error = _origin(error)
    if isinstance(error, OperationError):
        found |= {"type": error.type, "kind": error.kind, "message": error.message, "retryable": error.retryable}
        found |= error.facts
        if error.__cause__ is not None:
            found["traceback"] = traceback_lines(error.__cause__)
    else:
        kind = kind_of(error)
        is_retryable = KINDS[kind][1] and not is_lasting(error)
        found |= {"type": _type_name(error), "kind": kind, "message": message_of(error), "retryable": is_retryable}
        if isinstance(error, DecodeError | EncodeError):
            found["path"] = error.path
        elif kind not in _CAUSED_OUTSIDE:
            found["traceback"] = traceback_lines(error)
        found |= _facts_of_dspy(error)
    if request_id is not None:
        found["request_id"] = request_id
    return {
        name: _sendable(fact, _MAX_MESSAGE_CHARACTERS) if isinstance(fact, str) else fact
        for name, fact in found.items()
    }


def note_paid(error: BaseException, usage: Mapping[str, Any], cost: float | None) -> None:
    """Add to the details of an exception what its call has paid for answers of models, by model and in US dollars.

    What is noted first stays: it is the account of the innermost call.
    """
    error.__dict__.setdefault(_PAID, {"usage": dict(usage), "cost": cost})


def copy_paid(error: BaseException, to: _Error) -> _Error:
    """Return an error with what :func:`note_paid` has noted at another one, in whose place it stands."""
    to.__dict__ |= {name: noted for name, noted in error.__dict__.items() if name == _PAID}
    return to


def timeout_error(message: str, *, stage: str, model: str | None, cause: BaseException | None) -> OperationError:
    """Return the error of a call whose time ran out.

    Args:
        message: What was not done within which time.
        stage: Where the time went.
        model: The model of the call.
        cause: The error after which the call went on, if that is why it took too long.
    """
    known = None if cause is None else cause_of(cause)
    after = "" if known is None else f", after an error of kind {known['kind']}: {known['message']}"
    return OperationError("timeout", f"{message}{after}", stage=stage, model=model, cause=known)


def cause_of(error: BaseException) -> dict[str, Any]:
    """Return what is told of an error that was not the end: ``kind``, ``message``, ``status`` and ``retry_after``."""
    found = details(error)
    # DSPy's advice after the first line is for those to whom the error is the end.
    found["message"] = found["message"].partition("\n")[0]
    return {name: found[name] for name in _CAUSE_KEYS if name in found}


def kind_of(error: BaseException) -> str:
    """Return the kind of any exception: the ``kind`` of an :class:`OperationError`, ``"internal"`` if unforeseen."""
    error = _origin(error)
    if isinstance(error, OperationError):
        return error.kind
    if isinstance(error, EncodeError):
        return "encode"
    if isinstance(error, DecodeError):
        return "input"
    if isinstance(error, TimeoutError | asyncio.TimeoutError):  # two classes before Python 3.11
        return "timeout"
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    for cls in _classes_of_dspy(error):
        if cls.__name__ in _KIND_OF_DSPY_CLASS:
            return _KIND_OF_DSPY_CLASS[cls.__name__]
    if isinstance(error, ImportError):
        return "missing_dependency"
    if isinstance(error, MemoryError):
        return "overloaded"
    return "internal"


def is_lasting(error: BaseException) -> bool:
    """Return whether a retry would fail too, although errors of this kind may pass.

    An error of DSPy says so by its cause, an exception of this package with ``is_lasting``.
    """
    if isinstance(error, MemoryError):
        # The same call would need the same memory again.
        return True
    cause = error.__cause__
    return type(cause).__module__.startswith("erlport_bridge.") and getattr(cause, "is_lasting", False) is True


def message_of(error: BaseException) -> str:
    """Return the message of an exception, redacted and cut to a readable length."""
    try:
        text = str(error) or _DEFAULT_MESSAGES.get(type(error)) or type(error).__name__
    except BaseException as raised:  # noqa: BLE001 - a __str__ that raises must not cost the caller its answer
        text = f"{type(error).__name__}, whose message could not be made: {type(raised).__name__}"
    return _sendable(text.partition(_ADVICE)[0], _MAX_MESSAGE_CHARACTERS)


class ConstantError(ValueError):
    """A text holds ``NaN`` or an infinity, which are no JSON."""


def refuse_constant(name: str) -> NoReturn:
    """Raise :class:`ConstantError`: the ``parse_constant`` of a reader of JSON."""
    raise ConstantError(f"{name} is no JSON")


def json_fault(error: Exception) -> str:
    """Return why a text cannot be read as JSON, or a value cannot be written, from the exception of the json module."""
    if isinstance(error, RecursionError):
        return "its values are nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"its byte {error.start} is not UTF-8"
    # An integer of more than 4,300 digits, for which its words name a setting of the interpreter, or an infinity.
    if type(error) is ValueError:
        return "it has a number that is too large"
    return message_of(error)


def traceback_lines(error: BaseException) -> list[str]:
    """Return the last lines of an exception's traceback, its causes included, with API keys redacted."""
    try:
        formatted = traceback_module.format_exception(error)
    except BaseException:  # noqa: BLE001 - format_exception calls the error's __str__
        formatted = traceback_module.format_tb(error.__traceback__)
    lines = [line for entry in formatted for line in entry.splitlines()]
    return [_sendable(line, _MAX_MESSAGE_CHARACTERS) for line in lines[-_MAX_TRACEBACK_LINES:]]


def _origin(error: BaseException) -> BaseException:
    """Return the error of this package that DSPy's client has wrapped into one of its own, or the error itself."""
    cause = error.__cause__
    return cause if isinstance(cause, OperationError) and _classes_of_dspy(error) else error


def _classes_of_dspy(error: BaseException) -> list[type]:
    # str(): the module of a class may be anything, also None.
    return [cls for cls in type(error).__mro__ if str(cls.__module__).startswith("dspy.")]


def _facts_of_dspy(error: BaseException) -> dict[str, Any]:
    # Read attributes of DSPy's classes only: an attribute of another class may be a property that raises.
    if not _classes_of_dspy(error):
        return {}
    facts = {name: getattr(error, attribute, None) for attribute, name in _FACTS_OF_DSPY.items()}
    return {name: fact for name, fact in facts.items() if isinstance(fact, str | int | float)}


def _type_name(error: BaseException) -> str:
    if isinstance(error, DecodeError):
        # The caller's term was wrong.
        return "ValueError"
    # The adapter matches on the plain names, which mean that the caller's module or input is wrong. An exception
    # of other code must not be mistaken for that, so its name is qualified.
    name = type(error).__name__
    return f"{type(error).__module__}.{name}" if name in ("ModuleNotFoundError", "ValueError") else name


def _sendable(text: str, max_characters: int) -> str:
    """Return a text without API keys and without lone surrogates, which no binary can hold."""
    return redact_beginning(text, max_characters).encode("utf-8", "backslashreplace").decode()
