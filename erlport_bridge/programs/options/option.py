"""One option: its name, type, default, bounds and description; how it is read, and how it is described."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.text import arguments
from erlport_bridge.term import shown


@dataclass(frozen=True, kw_only=True, eq=False)
class Option(ABC):
    """An option of a module, an optimizer, a model, a call or a batch.

    Attributes:
        name: The name that callers write; where DSPy has the option, the name that DSPy's constructor gives it.
        description: What the option is for, a few words.
        default: Its value where a caller leaves it out.
        required: It cannot be left out.
        aliases: Other names for it, where no generation setting has that name.
        is_shared: Equal values make equal modules, which calls may share.
    """

    name: str
    description: str
    default: Any = None
    required: bool = False
    aliases: tuple[str, ...] = ()
    is_shared: bool = True

    def read(self, value: object, path: str) -> Any:
        """Return the checked value; ``None`` for ``nil`` where the default is ``nil``.

        Raises:
            OperationError: Of kind ``input``, with the path: the value has another type, or is out of bounds.
        """
        if value is None and self.default is None and not self.required:
            return None
        return self._read(value, path)

    def describe(self) -> dict[str, Any]:
        """Return the option as a term."""
        return {
            **self._type(),
            "default": self.default,
            "required": self.required,
            "description": self.description,
        }

    def shown(self, value: Any) -> Any:
        """Return a value that was read as a term, for descriptions."""
        return value

    @abstractmethod
    def _read(self, value: object, path: str) -> Any:
        """Check a value that is not left out."""

    @abstractmethod
    def _type(self) -> dict[str, Any]:
        """Return ``type`` and the bounds as a term."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerOption(Option):
    """An integer within bounds, both included; ``None``: no bound.

    Attributes:
        expected: What an error says is expected, before both bounds.
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
    """A list of integers within bounds, each once."""

    most: int

    def _read(self, value: object, path: str) -> Any:
        if not isinstance(value, list) or not 0 < len(value) <= self.most or len(value) != len(set(map(repr, value))):
            raise wrong(f"a list of 1 to {self.most} integers, each once,", value, path)
        return [super(IntegersOption, self)._read(item, f"{path}[{index}]") for index, item in enumerate(value)]

    def _type(self) -> dict[str, Any]:
        return {**super()._type(), "type": "list[int]"}


class TimeoutOption(Option):
    """A time limit in milliseconds; ``nil`` and ``:infinity`` are none."""

    def _read(self, value: object, path: str) -> int | None:
        return arguments.timeout_ms(value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "milliseconds", "minimum": 1, "maximum": arguments.MAX_TIMEOUT_MS}


class NumberOption(Option):
    """A finite number, read as a float."""

    def _read(self, value: object, path: str) -> Any:
        return float(self._number(value, path))

    def _number(self, value: object, path: str) -> int | float:
        if type(value) in (int, float) and isinstance(value, int | float) and math.isfinite(value):
            return value
        raise wrong("a number", value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "float"}


class ExactNumberOption(NumberOption):
    """A finite number, kept as the integer or float that it is."""

    def _read(self, value: object, path: str) -> int | float:
        return self._number(value, path)


class BooleanOption(Option):
    """``true`` or ``false``."""

    def _read(self, value: object, path: str) -> bool:
        if isinstance(value, bool):
            return value
        raise wrong("true or false", value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "bool"}


class TextOption(Option):
    """Text that is not empty: a binary, an atom or a charlist."""

    def _read(self, value: object, path: str) -> str:
        return arguments.text(value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "str"}


@dataclass(frozen=True, kw_only=True, eq=False)
class ChoiceOption(Option):
    """One of several names."""

    choices: tuple[str, ...]

    def _read(self, value: object, path: str) -> str:
        name = arguments.text(value, path)
        if name in self.choices:
            return name
        raise arguments.unknown("choice", name, self.choices, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "choice", "choices": list(self.choices)}


@dataclass(frozen=True, kw_only=True, eq=False)
class UnreadOption(Option):
    """An option whose value is read later, together with what it belongs to.

    Attributes:
        type_text: Its type, for descriptions.
    """

    type_text: str

    def _read(self, value: object, path: str) -> Any:
        return value

    def _type(self) -> dict[str, Any]:
        return {"type": self.type_text}


def wrong(expected: str, value: object, path: str) -> OperationError:
    """Return the error about a value of another type, or out of bounds."""
    return OperationError("input", f"expected {expected} at {path}, got {shown(value)}", path=path)
