"""Option types: each reads the value of one option, with its bounds, and describes the option as a term."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import NAME_BYTES, Limit
from erlport_bridge.programs.text import arguments
from erlport_bridge.term import shown


@dataclass(frozen=True, kw_only=True, eq=False)
class Option(ABC):
    """An option of a module, an optimizer, a language model, a call or a batch.

    Attributes:
        name: The name that callers write; if DSPy has the option, the name of the parameter in DSPy's constructor.
        description: The purpose of the option, in a few words.
        default: The value if a caller leaves the option out.
        required: Whether callers must give the option.
        aliases: Other names for the option, unless a generation setting has that name.
        is_shared: Whether equal values make equal modules, which calls may share.
        is_internal: Whether only ``DSPex.Python`` writes the option, so that no error offers it to a caller.
    """

    name: str
    description: str
    default: Any = None
    required: bool = False
    aliases: tuple[str, ...] = ()
    is_shared: bool = True
    is_internal: bool = False

    def read(self, value: object, path: str) -> Any:
        """Return the checked value, or ``None`` for ``nil`` if the default is ``nil``.

        Raises:
            OperationError: Of kind ``input``, with the path: the value has the wrong type, or is out of bounds.
        """
        if value is None and self.default is None and not self.required:
            return None
        return self._read(value, path)

    def describe(self) -> dict[str, Any]:
        """Return the option's description as a term."""
        return {
            **self._type(),
            "default": self.default,
            "required": self.required,
            "description": self.description,
        }

    def shown(self, value: Any) -> Any:
        """Return a value that :meth:`read` returned as a term, for descriptions."""
        return value

    @abstractmethod
    def _read(self, value: object, path: str) -> Any:
        """Return the checked value of an option that a caller has given."""

    @abstractmethod
    def _type(self) -> dict[str, Any]:
        """Return the option's type and bounds as a term."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerOption(Option):
    """An option whose value is an integer within bounds.

    Attributes:
        minimum: The least value; ``None``: no bound.
        maximum: The greatest value; ``None``: no bound.
        expected: The words before both bounds in an error.
    """

    minimum: int | None = None
    maximum: int | None = None
    expected: str = "an integer from "

    def _read(self, value: object, path: str) -> int:
        if (
            type(value) is int
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
        ):
            return value
        raise wrong(self._words(), value, path)

    def _words(self) -> str:
        if self.maximum is not None:
            return f"{self.expected}{self.minimum} to {self.maximum}"
        return "an integer" if self.minimum is None else "a positive integer"

    def _type(self) -> dict[str, Any]:
        bounds = {"minimum": self.minimum, "maximum": self.maximum}
        return {"type": "int", **{name: bound for name, bound in bounds.items() if bound is not None}}


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegersOption(IntegerOption):
    """An option whose value is a list of 1 to ``most`` different integers within bounds."""

    most: int

    def _read(self, value: object, path: str) -> Any:
        if not isinstance(value, list) or not 0 < len(value) <= self.most or len(value) != len(set(map(repr, value))):
            raise wrong(f"a list of 1 to {self.most} integers, each once,", value, path)
        return [super(IntegersOption, self)._read(item, f"{path}[{index}]") for index, item in enumerate(value)]

    def _type(self) -> dict[str, Any]:
        return {**super()._type(), "type": "list[int]"}


class TimeoutOption(Option):
    """An option whose value is a timeout in milliseconds; ``nil`` and ``:infinity`` mean no timeout."""

    def _read(self, value: object, path: str) -> int | None:
        return arguments.timeout_ms(value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "milliseconds", "minimum": 1, "maximum": arguments.MAX_TIMEOUT_MS}


@dataclass(frozen=True, kw_only=True, eq=False)
class NumberOption(Option):
    """An option whose value is a finite number within bounds, read as a float.

    Attributes:
        minimum: The least value; ``None``: no bound.
        maximum: The greatest value; ``None``: no bound, and none below either.
    """

    minimum: int | None = None
    maximum: int | None = None

    def _read(self, value: object, path: str) -> Any:
        return float(self._number(value, path))

    def _number(self, value: object, path: str) -> int | float:
        least = -math.inf if self.minimum is None else self.minimum
        most = math.inf if self.maximum is None else self.maximum
        if isinstance(value, int | float) and arguments.is_number(value) and least <= value <= most:
            return value
        bounds = "" if self.minimum is None else f" from {self.minimum} to {self.maximum}"
        raise wrong(f"a number{bounds}", value, path)

    def _type(self) -> dict[str, Any]:
        bounds = {} if self.minimum is None else {"minimum": self.minimum, "maximum": self.maximum}
        return {"type": "float", **bounds}


class ExactNumberOption(NumberOption):
    """An option whose value is a finite number, kept as an integer or a float."""

    def _read(self, value: object, path: str) -> int | float:
        return self._number(value, path)


class BooleanOption(Option):
    """An option whose value is ``true`` or ``false``."""

    def _read(self, value: object, path: str) -> bool:
        if isinstance(value, bool):
            return value
        raise wrong("true or false", value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "bool"}


@dataclass(frozen=True, kw_only=True, eq=False)
class TextOption(Option):
    """An option whose value is text that is not empty: a binary, an atom or a charlist.

    Attributes:
        limit: The limit on its bytes, if it is an id or a name.
    """

    limit: Limit | None = None

    def _read(self, value: object, path: str) -> str:
        return arguments.text(value, path, self.limit)

    def _type(self) -> dict[str, Any]:
        return {"type": "str"}


@dataclass(frozen=True, kw_only=True, eq=False)
class ChoiceOption(Option):
    """An option whose value is one of several names."""

    choices: tuple[str, ...]

    def _read(self, value: object, path: str) -> str:
        name = arguments.text(value, path, NAME_BYTES)
        if name in self.choices:
            return name
        raise arguments.unknown("choice", name, self.choices, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "choice", "choices": list(self.choices)}


@dataclass(frozen=True, kw_only=True, eq=False)
class UnreadOption(Option):
    """An option whose value other code reads later, together with related options.

    Attributes:
        type_text: The option's type, for descriptions.
    """

    type_text: str

    def _read(self, value: object, path: str) -> Any:
        return value

    def _type(self) -> dict[str, Any]:
        return {"type": self.type_text}


def wrong(expected: str, value: object, path: str) -> OperationError:
    """Return the error about a value that has the wrong type or is out of bounds."""
    return OperationError("input", f"expected {expected} at {path}, got {shown(value)}", path=path)
