"""How a prompt is worded and its answer read: the option ``adapter`` of a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs import arguments, models
from erlport_bridge.programs.models import LanguageModel
from erlport_bridge.programs.text import text_of

_TWO_STEP: Final = "two_step"
ADAPTERS: Final[Mapping[str, Any]] = {
    "chat": dspy.ChatAdapter,
    "json": dspy.JSONAdapter,
    "xml": dspy.XMLAdapter,
    _TWO_STEP: dspy.TwoStepAdapter,
}
# Those that repeat a request whose answer they cannot read, in the form of JSON.
_WITH_JSON_FALLBACK: Final = frozenset(["chat", "xml"])


@dataclass(frozen=True)
class AdapterChoice:
    """An adapter, as a call names it.

    Attributes:
        json_fallback: A model whose answer cannot be read is asked again, for JSON.
        extraction_model: Of ``two_step``: reads the fields out of what the model wrote freely.
    """

    name: str = "chat"
    json_fallback: bool = True
    extraction_model: LanguageModel | None = None

    def build(self) -> dspy.Adapter:
        """Make the adapter."""
        if self.extraction_model is not None:
            return dspy.TwoStepAdapter(self.extraction_model.lm)
        if self.name in _WITH_JSON_FALLBACK:
            return ADAPTERS[self.name](use_json_adapter_fallback=self.json_fallback)
        return ADAPTERS[self.name]()


def read_adapter(value: object, path: str = "opts.adapter") -> AdapterChoice:
    """Read an adapter: a name, or a map with ``name`` and its options.

    Raises:
        OperationError: Of kind ``input``.
    """
    if value is None:
        return AdapterChoice()
    if text_of(value) is not None:
        value = {"name": value}
    given = arguments.options(value, path)
    name = arguments.text(given.get("name", "chat"), f"{path}.name")
    if name not in ADAPTERS:
        raise arguments.unknown("adapter", name, ADAPTERS, path)
    own = {"extraction_model"} if name == _TWO_STEP else {"json_fallback"} if name in _WITH_JSON_FALLBACK else set()
    arguments.only(given, {"name"} | own, f"option of the adapter {name}", path)
    if name == _TWO_STEP:
        return AdapterChoice(name, extraction_model=_extraction_model(given.get("extraction_model"), path))
    json_fallback = arguments.boolean(given.get("json_fallback"), f"{path}.json_fallback", default=True)
    return AdapterChoice(name, json_fallback=json_fallback)


def _extraction_model(value: object, path: str) -> LanguageModel:
    path = f"{path}.extraction_model"
    if value is None:
        raise OperationError(
            "input",
            f'the adapter two_step needs a model that reads the fields at {path}, such as "openai/gpt-4o-mini"',
            path=path,
        )
    return models.from_option(value, path)
