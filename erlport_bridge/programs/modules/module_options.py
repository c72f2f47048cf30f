"""Options of the modules' constructors: their types, defaults and bounds, checked before anything is built."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from erlport_bridge.errors import OperationError
from erlport_bridge.programs import callbacks, models
from erlport_bridge.programs.callbacks import ElixirFunction
from erlport_bridge.programs.modules import retrieval, rewards
from erlport_bridge.programs.text import arguments
from erlport_bridge.term import OtpErlangFunction, shown


@dataclass(frozen=True, kw_only=True, eq=False)
class Option(ABC):
    """An option of a module.

    Attributes:
        name: As callers write it, and where DSPy has it, as DSPy's constructor calls it.
        description: What it is for, a few words.
        default: What it is where a caller leaves it out.
        required: It cannot be left out.
        aliases: What it may be called too, where no setting of the model has that name.
        is_shared: Equal values make equal modules, which calls may share.
    """

    name: str
    description: str
    default: Any = None
    required: bool = False
    aliases: tuple[str, ...] = ()
    is_shared: bool = True

    def read(self, value: object, path: str) -> Any:
        """Give the value as the module is built with it; ``nil`` where the default is ``nil``.

        Raises:
            OperationError: Of kind ``input``, with the path: it has not the type, or is out of bounds.
        """
        if value is None and self.default is None and not self.required:
            return None
        return self._read(value, path)

    def describe(self) -> dict[str, Any]:
        """Give the option as a term."""
        return {
            **self._type(),
            "default": self.default,
            "required": self.required,
            "description": self.description,
        }

    def shown(self, value: Any) -> Any:
        """Give a value that was read as a term, for descriptions."""
        return value

    @abstractmethod
    def _read(self, value: object, path: str) -> Any:
        """Check a value that is not left out."""

    @abstractmethod
    def _type(self) -> dict[str, Any]:
        """Give ``type`` and the bounds as a term."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerOption(Option):
    """An integer within bounds, both included."""

    minimum: int
    maximum: int

    def _read(self, value: object, path: str) -> int:
        if type(value) is int and self.minimum <= value <= self.maximum:
            return value
        raise _wrong(f"an integer from {self.minimum} to {self.maximum}", value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "int", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegersOption(Option):
    """A list of integers within bounds, each once."""

    minimum: int
    maximum: int
    most: int

    def _read(self, value: object, path: str) -> list[int]:
        if not isinstance(value, list) or not 0 < len(value) <= self.most or len(value) != len(set(map(repr, value))):
            raise _wrong(f"a list of 1 to {self.most} integers, each once,", value, path)
        for index, item in enumerate(value):
            if type(item) is not int or not self.minimum <= item <= self.maximum:
                raise _wrong(f"an integer from {self.minimum} to {self.maximum}", item, f"{path}[{index}]")
        return value

    def _type(self) -> dict[str, Any]:
        return {"type": "list[int]", "minimum": self.minimum, "maximum": self.maximum}


class NumberOption(Option):
    """A number."""

    def _read(self, value: object, path: str) -> float:
        if type(value) in (int, float) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
        raise _wrong("a number", value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "float"}


class BooleanOption(Option):
    """``true`` or ``false``."""

    def _read(self, value: object, path: str) -> bool:
        if isinstance(value, bool):
            return value
        raise _wrong("a boolean", value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "bool"}


class TextOption(Option):
    """Text that is not empty."""

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
class ModelOption(Option):
    """A language model, written as in the option ``lm`` of a call."""

    is_shared: bool = False

    def shown(self, value: Any) -> Any:
        """Give the model's name."""
        return value.model if value else None

    def _read(self, value: object, path: str) -> models.LanguageModel:
        return models.from_option(value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "lm"}


class RewardOption(Option):
    """A reward, see :mod:`.rewards`."""

    def shown(self, value: Any) -> Any:
        """Give what it is, as a sentence."""
        return value.code

    def _read(self, value: object, path: str) -> rewards.ElixirReward | rewards.Check:
        return rewards.read_reward(value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "reward"}


@dataclass(frozen=True, kw_only=True, eq=False)
class FunctionOption(Option):
    """A function of Elixir."""

    takes: str

    def shown(self, value: Any) -> Any:
        """Say that it is one."""
        return "a function"

    def _read(self, value: object, path: str) -> ElixirFunction:
        if isinstance(value, OtpErlangFunction):
            raise callbacks.refuse(path)
        if not isinstance(value, Mapping) or "callback" not in arguments.options(value, path):
            raise _wrong("a function", value, path)
        given = arguments.options(value, path)
        arguments.only(given, ["callback"], "key of a function", path)
        return callbacks.bring(path, given["callback"])

    def _type(self) -> dict[str, Any]:
        return {"type": "function", "takes": self.takes}


#: Of what is searched by vectors.
EMBEDDER: Final = FunctionOption(
    name="embedder", takes="texts", description="gives a list of vectors for a list of texts"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class DataOption(Option):
    """Data that a module works on: a list of text, of vectors, or of maps of fields."""

    of: Literal["texts", "vectors", "examples"]
    is_shared: bool = False

    def shown(self, value: Any) -> Any:
        """Say how much there is."""
        return f"{len(value)} {self.of}"

    def _read(self, value: object, path: str) -> Any:
        if self.of == "vectors":
            return retrieval.read_vectors(value, path)
        if not isinstance(value, list) or not value:
            raise _wrong(f"a list of {self.of}", value, path)
        if self.of == "texts":
            return [arguments.text(item, f"{path}[{index}]") for index, item in enumerate(value)]
        return [arguments.options(item, f"{path}[{index}]") for index, item in enumerate(value)]

    def _type(self) -> dict[str, Any]:
        return {"type": self.of}


def _wrong(expected: str, value: object, path: str) -> OperationError:
    return OperationError("input", f"expected {expected} at {path}, got {shown(value)}", path=path)
