"""How a prompt is worded and its answer read: the option ``adapter`` of a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import dspy
from dspy.adapters.types.citation import Citations

from erlport_bridge import dspy_patches
from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models import configuration
from erlport_bridge.programs.models.configuration import LanguageModel
from erlport_bridge.programs.signatures import SignatureSpec
from erlport_bridge.programs.text import arguments, text_of

_NATIVELY: Final = "native_function_calling"
_TWO_STEP: Final = "two_step"
ADAPTERS: Final[Mapping[str, Any]] = {
    "chat": dspy.ChatAdapter,
    "json": dspy.JSONAdapter,
    "xml": dspy.XMLAdapter,
    _TWO_STEP: dspy.TwoStepAdapter,
}
_CALLS_NATIVELY: Final = "json"
_TOOLS: Final = (dspy.Tool, list[dspy.Tool])
# Those that repeat a request whose answer they cannot read, in the form of JSON.
_WITH_JSON_FALLBACK: Final = frozenset(["chat", "xml"])


class AdapterChoice(NamedTuple):
    """An adapter, as a call names it.

    Attributes:
        json_fallback: A model whose answer cannot be read is asked again, for JSON.
        calls_natively: Tools that are an input go to the model as its provider has them, and its calls come back in
            the same way; ``None``: as DSPy does it, natively with ``json`` alone.
        extraction_model: Of ``two_step``: reads the fields out of what the model wrote freely.
    """

    name: str = "chat"
    json_fallback: bool = True
    calls_natively: bool | None = None
    extraction_model: LanguageModel | None = None

    def build(self) -> dspy.Adapter:
        """Make the adapter."""
        if self.extraction_model is not None:
            return dspy.TwoStepAdapter(self.extraction_model.lm)
        options: dict[str, bool] = {}
        if self.name in _WITH_JSON_FALLBACK:
            options["use_json_adapter_fallback"] = self.json_fallback
        if self.calls_natively is not None:
            options["use_native_function_calling"] = self.calls_natively
        return ADAPTERS[self.name](**options)

    def check(self, spec: SignatureSpec) -> None:
        """Check that tools are there for a signature that wants to know which are called.

        Raises:
            OperationError: Of kind ``signature``. Of kind ``missing_dependency``: DSPy would take an output for
                citations out of the prompt.
        """
        if any(item.annotation is Citations for item in spec.outputs):
            dspy_patches.require("native_response_types", "outputs of the type dspy.Citations")
        natively = self.name == _CALLS_NATIVELY if self.calls_natively is None else self.calls_natively
        if not natively:
            return
        wants = [item.name for item in spec.outputs if item.annotation is dspy.ToolCalls]
        if wants and not any(item.annotation in _TOOLS for item in spec.inputs):
            raise OperationError(
                "signature",
                f"the output {wants[0]} is for calls of tools, and there is no input for tools; add one of the type "
                'list[dspy.Tool], or give the adapter as %{name: "json", native_function_calling: false}',
                path="signature",
            )


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
    own = {"extraction_model"} if name == _TWO_STEP else {_NATIVELY}
    if name in _WITH_JSON_FALLBACK:
        own.add("json_fallback")
    arguments.only(given, {"name"} | own, f"option of the adapter {name}", path)
    if name == _TWO_STEP:
        return AdapterChoice(name, extraction_model=_extraction_model(given.get("extraction_model"), path))
    json_fallback = arguments.boolean(given.get("json_fallback"), f"{path}.json_fallback", default=True)
    natively = given.get(_NATIVELY)
    calls_natively = None if natively is None else arguments.boolean(natively, f"{path}.{_NATIVELY}")
    return AdapterChoice(name, json_fallback=json_fallback, calls_natively=calls_natively)


def _extraction_model(value: object, path: str) -> LanguageModel:
    path = f"{path}.extraction_model"
    if value is None:
        raise OperationError(
            "input",
            f'the adapter two_step needs a model that reads the fields at {path}, such as "openai/gpt-4o-mini"',
            path=path,
        )
    return configuration.from_option(value, path)
