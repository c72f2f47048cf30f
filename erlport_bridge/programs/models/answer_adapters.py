"""DSPy's adapters, with our reading of what models answer, and with prompts in which no data can pose as structure.

| | DSPy | here |
| --- | --- | --- |
| markers, tags | must stand as asked | are found where models set them: :mod:`.text.chat_text`, :mod:`.text.xml_text` |
| an answer that cannot be read | is asked for again as JSON | not if it was cut off, filtered or refused |
| constraints of outputs | are not checked | are checked; an answer that breaks one cannot be read |
| a retry | none | asks the same request again, with what was wrong; see :mod:`.asking_again` |
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import dspy
import pydantic
from dspy.adapters import chat_adapter, xml_adapter
from dspy.adapters.utils import apply_output_field_defaults, format_field_value
from dspy.utils.callback import with_callbacks
from dspy.utils.exceptions import AdapterParseError

from erlport_bridge import dspy_patches
from erlport_bridge.errors import OperationError, message_of
from erlport_bridge.programs import values
from erlport_bridge.programs.models import endings, off_loop
from erlport_bridge.programs.models.asking_again import Asking
from erlport_bridge.programs.text import chat_text, indented_below, without_headers, xml_text
from erlport_bridge.request import weight

# The exceptions of DSPy's and Pydantic's parsers: for example, text that nests too deep is a RecursionError.
_OF_PARSERS: Final = (ValueError, TypeError, ArithmeticError, RecursionError)
_TEXTS: Final = (str, str | None)

_Signature = type[dspy.Signature]


class FormattedText(str):
    """Text with markers of its own, which an adapter has made from fields, such as the trajectory of an agent."""

    __slots__ = ()


def _untold(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of DSPy without what tells its callbacks of each call: a method that calls it tells them."""
    while getattr(method, "__code__", None) is _telling:
        method = method.__wrapped__  # type: ignore[attr-defined]
    return method


# The code of all methods that tell DSPy's callbacks of their calls.
_telling: Final = with_callbacks(lambda _self: None).__code__
_parse_json, _parse_xml = _untold(dspy.JSONAdapter.parse), _untold(dspy.XMLAdapter.parse)
_two_step_messages = _untold(dspy.TwoStepAdapter.format)


class _Form:
    """What the adapters share: how they ask, and how they read values."""

    #: The class of DSPy.
    plain: type[dspy.Adapter]

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        # Each class of DSPy wraps the methods that it inherits once more, and callbacks such as MLflow's are told of
        # each prompt several times.
        for name in ("format", "parse") if issubclass(cls, dspy.Adapter) else ():
            setattr(cls, name, with_callbacks(_untold(getattr(cls, name))))

    def __call__(self, lm: Any, lm_kwargs: Any, signature: _Signature, demos: Any, inputs: Any) -> Any:
        """Ask a model from a thread, and return the fields of its completions."""
        asking = Asking(self, signature)
        while True:
            with asking.attempt():
                form = asking.form
                return asking.checked(form.plain.__call__(form, lm, dict(lm_kwargs), asking.signature, demos, inputs))

    async def acall(self, lm: Any, lm_kwargs: Any, signature: _Signature, demos: Any, inputs: Any) -> Any:
        """Ask a model from a task, and return the fields of its completions."""
        asking = Asking(self, signature)
        while True:
            with asking.attempt():
                signature = asking.signature
                form = await off_loop.for_one_request(asking.form, lm, lm_kwargs, signature, demos, inputs)
                completions = await form.plain.acall(form, lm, dict(lm_kwargs), signature, demos, inputs)
                if isinstance(completions, off_loop.Postponed):
                    completions = await weight.aside(completions.read, heavy=True)
                return await weight.aside(asking.checked, completions)

    def signature_of_prompt(self, lm: Any, lm_kwargs: dict[str, Any], signature: _Signature, inputs: Any) -> _Signature:
        """Return the signature that a prompt shows: without fields that the provider has in its own form."""
        shown: _Signature = self._call_preprocess(lm, lm_kwargs, signature, inputs)  # type: ignore[attr-defined]
        return shown

    def _call_postprocess(self, processed: _Signature, original: _Signature, *arguments: Any) -> list[dict[str, Any]]:
        try:
            read: list[dict[str, Any]] = super()._call_postprocess(processed, original, *arguments)  # type: ignore[misc]
        except pydantic.ValidationError as error:  # of calls of tools, which alone DSPy reads itself
            names = (name for name, field in original.output_fields.items() if field.annotation is dspy.ToolCalls)
            path = f"outputs.{next(names, 'tool_calls')}"
            reason = error.errors()[0]["msg"]
            raise OperationError("parse", f"expected calls of tools at {path}: {reason}", path=path) from error
        return read

    def fallback(self) -> Any:
        """Return the adapter that asks again if an answer cannot be read, or ``None``."""
        return None


class _TextForm(_Form):
    """What the adapters share whose prompts have sections."""

    plain = dspy.Adapter
    use_json_adapter_fallback: bool
    use_native_function_calling: bool
    parallel_tool_calls: bool | None

    def fallback(self) -> Any:
        """Return the adapter for JSON, if the caller allows another request."""
        if not self.use_json_adapter_fallback:
            return None
        return JSONForm(
            use_native_function_calling=self.use_native_function_calling, parallel_tool_calls=self.parallel_tool_calls
        )


class ChatForm(_TextForm, dspy.ChatAdapter):  # type: ignore[misc]
    """The port's ``dspy.ChatAdapter``."""

    def format_user_message_content(
        self, signature: _Signature, inputs: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> str:
        """Return a user message, whose values hold no headers."""
        shown = _guarded(signature.input_fields, inputs, without_headers)
        return str(super().format_user_message_content(signature, shown, *args, **kwargs))

    def format_assistant_message_content(
        self, signature: _Signature, outputs: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> str:
        """Return an earlier answer, whose values hold no headers."""
        shown = _guarded(signature.output_fields, outputs, without_headers)
        return str(super().format_assistant_message_content(signature, shown, *args, **kwargs))

    def parse(self, signature: _Signature, completion: str) -> dict[str, Any]:
        """Return the fields of a completion.

        Raises:
            AdapterParseError: A field is missing, or its value does not fit its type.
        """
        outputs = signature.output_fields
        texts = chat_text.fields_of(completion, chat_text.Names.of(outputs, signature.input_fields))
        if not texts:
            with contextlib.suppress(AdapterParseError):
                return values.read_fields(self, signature, completion)
        fields = {}
        for name, field in outputs.items():
            if name in texts:
                text = texts[name] if field.annotation in _TEXTS else texts[name].strip(chat_text.SPACE)
                fields[name] = _value(self, signature, name, text, completion, chat_adapter.parse_value)
        return _complete(self, signature, fields, completion)


_parse_chat = _untold(ChatForm.parse)


class JSONForm(_Form, dspy.JSONAdapter):  # type: ignore[misc]
    """The port's ``dspy.JSONAdapter``."""

    plain = dspy.JSONAdapter

    def format_user_message_content(
        self, signature: _Signature, inputs: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> str:
        """Return a user message, whose values hold no headers."""
        shown = _guarded(signature.input_fields, inputs, without_headers)
        return str(super().format_user_message_content(signature, shown, *args, **kwargs))

    def parse(self, signature: _Signature, completion: str) -> dict[str, Any]:
        """Return the fields of a completion.

        Raises:
            AdapterParseError: There is no JSON object, a field is missing, or its value does not fit its type.
        """
        try:
            return dict(_parse_json(self, signature, completion))
        except AdapterParseError:
            # The inputs of the prompt stand in sections, which some models copy.
            names = chat_text.Names.of(signature.output_fields, signature.input_fields)
            if not chat_text.fields_of(completion, names):
                raise
            return dict(_parse_chat(ChatForm(), signature, completion))


class XMLForm(_TextForm, dspy.XMLAdapter):  # type: ignore[misc]
    """The port's ``dspy.XMLAdapter``."""

    def format_user_message_content(
        self, signature: _Signature, inputs: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> str:
        """Return a user message, whose values hold no tags of the signature's fields."""
        shown = _guarded(signature.input_fields, inputs, lambda text: xml_text.without_tags(text, signature.fields))
        return str(super().format_user_message_content(signature, shown, *args, **kwargs))

    def format_assistant_message_content(
        self, signature: _Signature, outputs: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> str:
        """Return an earlier answer; DSPy escapes the values of text fields only."""
        others = {name: field for name, field in signature.output_fields.items() if field.annotation is not str}
        texts = {name: value for name, value in outputs.items() if isinstance(value, str)}
        shown = _guarded(others, texts, lambda text: xml_text.without_tags(text, signature.fields))
        return str(super().format_assistant_message_content(signature, {**outputs, **shown}, *args, **kwargs))

    def parse(self, signature: _Signature, completion: str) -> dict[str, Any]:
        """Return the fields of a completion.

        Raises:
            AdapterParseError: An element is missing, or its value does not fit its type.
        """
        elements = xml_text.elements_of(completion, signature.output_fields)
        contents: dict[str, list[xml_text.Element]] = {}
        for element in elements:
            contents.setdefault(element.name, []).append(element)
        fields: dict[str, Any] = {}
        for name, field in signature.output_fields.items():
            if name not in contents:
                continue
            if field.annotation is str:
                text = chat_text.value_of(xml_text.text_of_content(contents[name][0].content))
                fields[name] = _value(self, signature, name, text, completion, xml_adapter.parse_value)
            else:
                alone = dspy.Signature({name: (field.annotation, dspy.OutputField())})
                document = xml_text.document(contents[name], _tags_of(field.annotation))
                try:
                    fields[name] = _parse_xml(self, alone, document)[name]
                except (AdapterParseError, *_OF_PARSERS) as error:
                    raise _unreadable(self, signature, name, error, completion) from error
        return _complete(self, signature, fields, completion)

    @classmethod
    def _elements_to_value(cls, elements: Any, schema: Any, definitions: Any) -> Any:
        # DSPy makes a list of one text of `<v>null</v>` if the type is a list or nil.
        choices = schema.get("anyOf", ())
        if {"type": "null"} in choices and any(choice.get("type") in ("array", "object") for choice in choices):
            (element, *others) = elements
            if not others and not list(element) and (element.text or "").strip() in ("null", "None"):
                return None
        return super()._elements_to_value(elements, schema, definitions)


class TwoStepForm(_Form, dspy.TwoStepAdapter):  # type: ignore[misc]
    """The port's ``dspy.TwoStepAdapter``; the second model's answers are read by :class:`_ExtractionForm`."""

    plain = dspy.TwoStepAdapter

    def format(
        self, signature: _Signature, demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Return the messages of the first request, with earlier turns as turns; DSPy writes them as one text."""
        history = next((name for name, field in signature.input_fields.items() if field.annotation is dspy.History), "")
        if not history:
            return list(_two_step_messages(self, signature, demos, inputs))
        asked, given = signature.delete(history), dict(inputs)
        turns = self.format_conversation_history(asked, history, given)
        *before, last = _two_step_messages(self, asked, demos, given)
        return [*before, *turns, last]

    def signature_of_prompt(self, lm: Any, lm_kwargs: dict[str, Any], signature: _Signature, inputs: Any) -> _Signature:
        """Return the whole signature."""
        return signature

    def format_user_message_content(
        self, signature: _Signature, inputs: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> str:
        """Return a user message, in which no line of a value begins like a field."""
        shown = _guarded(
            signature.input_fields, _ordered(inputs), lambda text: indented_below(text, signature.fields), str
        )
        return str(super().format_user_message_content(signature, shown, *args, **kwargs))

    def format_assistant_message_content(
        self, signature: _Signature, outputs: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> str:
        """Return an earlier answer, in which no line of a value begins like a field."""
        # The signature of an earlier turn has only the fields that the turn holds.
        shown = _guarded(signature.output_fields, _ordered(outputs), lambda text: indented_below(text, None), str)
        return str(super().format_assistant_message_content(signature, shown, *args, **kwargs))


def _ordered(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a message without sets: this adapter writes values as Python shows them."""
    return {name: dspy_patches.sets_as_lists(value) for name, value in given.items()}


class _ExtractionForm(ChatForm):
    """Reads the fields from the text of the first of two steps, unless that text was cut off, filtered or a refusal."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Ask the second model from a thread."""
        endings.refuse_lasting()
        return super().__call__(*arguments, **named)

    async def acall(self, *arguments: Any, **named: Any) -> Any:
        """Ask the second model from a task."""
        endings.refuse_lasting()
        return await super().acall(*arguments, **named)


dspy_patches.provide("two_step_reader", lambda _: _ExtractionForm)
dspy_patches.keep_system_messages(ChatForm, JSONForm, XMLForm)


def _guarded(
    fields: Mapping[str, Any],
    given: Mapping[str, Any],
    guard: Callable[[str], str],
    written: Callable[[Any], str] | None = None,
) -> dict[str, Any]:
    """Return the values of a message; a value whose text could pose as structure is replaced by its guarded text."""
    shown = dict(given)
    for name, field in fields.items():
        value = given.get(name)
        if value is None or isinstance(value, bool | int | float):
            continue
        if isinstance(value, FormattedText) and guard is without_headers:
            continue
        if isinstance(value, str):
            text = str(value)
        else:
            text = format_field_value(field, value) if written is None else written(value)
        guarded = guard(text)
        if guarded != text:
            shown[name] = guarded
    return shown


def _value(
    adapter: dspy.Adapter,
    signature: _Signature,
    name: str,
    value: Any,
    completion: str,
    parse: Callable[[Any, Any], Any],
) -> Any:
    try:
        return parse(value, signature.output_fields[name].annotation)
    except _OF_PARSERS as error:
        raise _unreadable(adapter, signature, name, error, completion) from error


def _unreadable(
    adapter: dspy.Adapter, signature: _Signature, name: str, error: BaseException, completion: str
) -> AdapterParseError:
    """Return the error of a field whose value does not fit its type."""
    place = path = f"outputs.{name}"
    if isinstance(error, values.UnreadableError):
        sentence, path = error.at(place), place + error.path
    elif isinstance(error, AdapterParseError):
        sentence, path = values.problem_of(error)
    else:
        sentence = f"cannot read the value at {place}: {message_of(error)}"
    return values.AnswerError(adapter, signature, completion, sentence, path)


def _complete(adapter: dspy.Adapter, signature: _Signature, fields: dict[str, Any], completion: str) -> dict[str, Any]:
    """Return all fields, with the defaults of missing ones, or raise an error if one has none."""
    if fields.keys() == signature.output_fields.keys():
        return fields
    whole: dict[str, Any] = apply_output_field_defaults(signature, fields)
    if whole.keys() != signature.output_fields.keys():
        raise AdapterParseError(type(adapter).__name__, signature, completion, parsed_result=whole)
    return whole


_known_tags: dict[str, frozenset[str]] = {}
_MAX_KNOWN_TAGS: Final = 512


def _tags_of(annotation: Any) -> frozenset[str]:
    """Return the names of the elements inside of an element of a type: properties of objects, and DSPy's own."""
    key = repr(annotation)
    known = _known_tags.get(key)
    if known is None:
        found = {"item", "entry"}
        schemas: list[Any] = [pydantic.TypeAdapter(annotation).json_schema(by_alias=False)]
        while schemas:
            schema = schemas.pop()
            if isinstance(schema, Mapping):
                found |= schema.get("properties", {}).keys()
                schemas += schema.values()
            elif isinstance(schema, list):
                schemas += schema
        known = frozenset(found)
        if len(_known_tags) < _MAX_KNOWN_TAGS:
            _known_tags[key] = known
    return known
