"""Read the option ``adapter`` of a call, and build DSPy's adapter, which formats prompts and parses completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import dspy
from dspy.adapters.types.citation import Citations

from erlport_bridge import dspy_patches
from erlport_bridge.errors import OperationError
from erlport_bridge.limits import NAME_BYTES
from erlport_bridge.programs.models import configuration
from erlport_bridge.programs.models.answer_adapters import ChatForm, JSONForm, TwoStepForm, XMLForm
from erlport_bridge.programs.models.configuration import LanguageModel
from erlport_bridge.programs.signatures import SignatureSpec
from erlport_bridge.programs.text import arguments, text_of

_NATIVE_OPTION: Final = "native_function_calling"
_TWO_STEP: Final = "two_step"
ADAPTERS: Final[Mapping[str, Any]] = {
    "chat": ChatForm,
    "json": JSONForm,
    "xml": XMLForm,
    _TWO_STEP: TwoStepForm,
}
# The adapter that calls tools natively by default.
_CALLS_NATIVELY: Final = "json"
_TOOLS: Final = (dspy.Tool, list[dspy.Tool])
# Adapters that repeat a request with JSONAdapter if they cannot parse the completion.
_WITH_JSON_FALLBACK: Final = frozenset(["chat", "xml"])


class AdapterChoice(NamedTuple):
    """The adapter that a call chose, with its options.

    Attributes:
        name: The name of the adapter, a key of :data:`ADAPTERS`.
        json_fallback: Whether the model is asked again, for JSON, if its completion cannot be parsed.
        calls_natively: Whether tools and tool calls use the provider's native form; ``None``: DSPy's default, which is
            native for ``json`` only.
        extraction_model: For ``two_step``: the model that extracts the fields from the first model's free text.
    """

    name: str = "chat"
    json_fallback: bool = True
    calls_natively: bool | None = None
    extraction_model: LanguageModel | None = None

    def build(self) -> dspy.Adapter:
        """Build DSPy's adapter."""
        if self.extraction_model is not None:
            return TwoStepForm(self.extraction_model.lm)
        options: dict[str, bool] = {}
        if self.name in _WITH_JSON_FALLBACK:
            options["use_json_adapter_fallback"] = self.json_fallback
        if self.calls_natively is not None:
            options["use_native_function_calling"] = self.calls_natively
        return ADAPTERS[self.name](**options)

    def check(self, spec: SignatureSpec) -> None:
        """Check that the adapter supports the outputs of a signature.

        Raises:
            OperationError: Of kind ``signature``: an output is for native tool calls, but no input has tools. Of kind
                ``missing_dependency``: DSPy would remove an output for citations from the prompt.
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
    """Read an adapter: a name, or a map with ``name`` and the adapter's options.

    Raises:
        OperationError: Of kind ``input``: the adapter is unknown, or an option is invalid.
    """
    if value is None:
        return AdapterChoice()
    if text_of(value) is not None:
        value = {"name": value}
    given = arguments.options(value, path)
    name = arguments.text(given.get("name", "chat"), f"{path}.name", NAME_BYTES)
    if name not in ADAPTERS:
        raise arguments.unknown("adapter", name, ADAPTERS, path, hints=_hint(name))
    own = {"extraction_model"} if name == _TWO_STEP else {_NATIVE_OPTION}
    if name in _WITH_JSON_FALLBACK:
        own.add("json_fallback")
    arguments.only(given, {"name"} | own, f"option of the adapter {name}", path)
    if name == _TWO_STEP:
        return AdapterChoice(name, extraction_model=_extraction_model(given.get("extraction_model"), path))
    json_fallback = arguments.boolean(given.get("json_fallback"), f"{path}.json_fallback", default=True)
    natively = given.get(_NATIVE_OPTION)
    calls_natively = None if natively is None else arguments.boolean(natively, f"{path}.{_NATIVE_OPTION}")
    return AdapterChoice(name, json_fallback=json_fallback, calls_natively=calls_natively)


def _hint(name: str) -> dict[str, str]:
    """Return what is said of the class of DSPy that an adapter is, such as ``dspy.JSONAdapter``."""
    plain = name.rpartition(".")[2].lower().removesuffix("adapter").replace("twostep", _TWO_STEP)
    return {name: f'its name here is "{plain}"'} if plain in ADAPTERS and plain != name.lower() else {}


def _extraction_model(value: object, path: str) -> LanguageModel:
    path = f"{path}.extraction_model"
    if value is None:
        raise OperationError(
            "input",
            f'the adapter two_step needs a model that reads the fields at {path}, such as "openai/gpt-4o-mini"',
            path=path,
        )
    return configuration.from_option(value, path)
