"""Read options of modules that are more than plain data: models, rewards, functions of Elixir, and searched data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from erlport_bridge.programs import callbacks, models
from erlport_bridge.programs.callbacks import ElixirFunction
from erlport_bridge.programs.modules import retrieval, rewards
from erlport_bridge.programs.options import Option, wrong
from erlport_bridge.programs.text import arguments
from erlport_bridge.term import OtpErlangFunction

_FUNCTION_KEYS: Final = ("callback", callbacks.EXPORTED)


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelOption(Option):
    """A language model, written as in the option ``lm`` of a call."""

    is_shared: bool = False

    def shown(self, value: Any) -> Any:
        """Return the name of the model."""
        return value.model if value else None

    def _read(self, value: object, path: str) -> models.LanguageModel:
        return models.from_option(value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "lm"}


class RewardOption(Option):
    """A reward, as :mod:`.rewards` reads it."""

    def shown(self, value: Any) -> Any:
        """Return the reward as a sentence."""
        return value.code

    def _read(self, value: object, path: str) -> rewards.ElixirReward | rewards.Check:
        return rewards.read_reward(value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "reward"}


@dataclass(frozen=True, kw_only=True, eq=False)
class FunctionOption(Option):
    """A function of Elixir, written as ``%{callback: id}``."""

    takes: str

    def shown(self, value: Any) -> Any:
        """Return the text of an exported function, otherwise ``a function``; an id means nothing outside its call."""
        return value.exported.partition(":")[2] if value.exported else "a function"

    def _read(self, value: object, path: str) -> ElixirFunction:
        if isinstance(value, OtpErlangFunction):
            raise callbacks.refuse(path)
        given = arguments.options(value, path) if isinstance(value, Mapping) else {}
        if given.keys().isdisjoint(_FUNCTION_KEYS):
            raise wrong("a function", value, path)
        arguments.only(given, _FUNCTION_KEYS, "key of a function", path)
        return callbacks.read(path, given, self.name)

    def _type(self) -> dict[str, Any]:
        return {"type": "function", "takes": self.takes}


#: The function that computes embeddings of what is searched.
EMBEDDER: Final = FunctionOption(
    name="embedder", takes="texts", description="returns a list of vectors for a list of texts"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class DataOption(Option):
    """Data that a module works on: a list of texts, of vectors, or of maps of fields."""

    of: Literal["texts", "vectors", "examples"]
    is_shared: bool = False

    def shown(self, value: Any) -> Any:
        """Return the number of items, as text."""
        return f"{len(value)} {self.of}"

    def _read(self, value: object, path: str) -> Any:
        if self.of == "vectors":
            return retrieval.read_vectors(value, path)
        if not isinstance(value, list) or not value:
            raise wrong(f"a list of {self.of}", value, path)
        if self.of == "texts":
            return [arguments.text(item, f"{path}[{index}]") for index, item in enumerate(value)]
        return [arguments.options(item, f"{path}[{index}]") for index, item in enumerate(value)]

    def _type(self) -> dict[str, Any]:
        return {"type": self.of}
