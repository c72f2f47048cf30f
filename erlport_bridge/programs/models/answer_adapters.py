"""DSPy's adapters, with our reading of what models answer, and with prompts in which no data can pose as structure.

| | DSPy | here |
| --- | --- | --- |
| markers, tags | must stand as asked | are found where models set them: :mod:`.text.chat_text`, :mod:`.text.xml_text` |
| an answer that cannot be read | is asked for again as JSON | not if it was cut off, filtered or refused |
| constraints of outputs | are not checked | are checked; an answer that breaks one cannot be read |
| a retry | none | asks the same request again, with what was wrong; see :func:`retrying` |

Only the request whose answer cannot be read is asked again: what an agent or a program did before is not repeated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, Final
from weakref import WeakKeyDictionary

import dspy
import pydantic
from dspy.adapters import chat_adapter, xml_adapter
from dspy.adapters.utils import apply_output_field_defaults, format_field_value
from dspy.clients.call_context import adapter_fallback_scope
from dspy.utils.exceptions import AdapterParseError

from erlport_bridge import dspy_patches
from erlport_bridge.errors import OperationError, message_of
from erlport_bridge.programs import values
from erlport_bridge.programs.models import call_arguments, endings, off_loop, response_cache
from erlport_bridge.programs.signatures import constraints
from erlport_bridge.programs.text import beginning, chat_text, indented_below, without_headers, xml_text
from erlport_bridge.request import Assigned, weight

_MAX_REASON_CHARACTERS: Final = 500
# The exceptions of DSPy's and Pydantic's parsers: for example, text that nests too deep is a RecursionError.
_OF_PARSERS: Final = (ValueError, TypeError, ArithmeticError, RecursionError)
_TEXTS: Final = (str, str | None)

_Signature = type[dspy.Signature]


class FormattedText(str):
    """Text with markers of its own, which an adapter has made from fields, such as the trajectory of an agent."""

    __slots__ = ()


@dataclass
class _Budget:
    retries: int


_budget: ContextVar[_Budget | None] = ContextVar("parse_retries", default=None)


def retrying(retries: int) -> contextlib.AbstractContextManager[None]:
    """Within the ``with`` block, ask again after answers that cannot be read, at most ``retries`` times in all."""
    return Assigned(_budget, _Budget(retries))


def is_unreadable(error: BaseException) -> bool:
    """Return whether an exception says that the answer of a model cannot be read."""
    return isinstance(error, AdapterParseError) or (isinstance(error, OperationError) and error.kind == "parse")


def problem_of(error: BaseException) -> str:
    """Return what an exception says about an answer that cannot be read, for the model; without the answer itself."""
    if isinstance(error, OperationError):
        reason = error.message
    else:
        reason = values.problem_of(error)[0] if isinstance(error, AdapterParseError) else message_of(error)
    return beginning(reason, _MAX_REASON_CHARACTERS)


def would_end_alike(error: BaseException) -> bool:
    """Return whether an answer that cannot be read was cut off, filtered or refused, as the next one would be."""
    return isinstance(error, OperationError) and error.kind == "parse" and not error.retryable


def read_outputs(signature: _Signature, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return output fields read from the values of a JSON object, checked against their types and constraints.

    Raises:
        OperationError: Of kind ``parse``: a value does not fit its field.
    """
    fields = {}
    for name, field in signature.output_fields.items():
        try:
            fields[name] = values.read_json(given[name], field.annotation)
        except values.UnreadableError as error:
            raise OperationError("parse", error.at(f"outputs.{name}"), path=f"outputs.{name}{error.path}") from error
        _check(signature, name, fields[name])
    return fields


class _Asking:
    """One request of a predictor, which is asked again while its answer cannot be read and a retry is left.

    Attributes:
        form: The adapter of the current attempt.
        signature: The signature of the current attempt.
    """

    def __init__(self, adapter: Any, signature: _Signature) -> None:
        self._adapter = adapter
        self._original = signature
        self.form = adapter
        self.signature = signature
        self._is_parsed = False

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Run one attempt in the ``with`` block, which ends without an exception if another one is to follow."""
        self._is_parsed = False
        ended = endings.Endings()
        try:
            with adapter_fallback_scope() as shown, endings.collected(ended), response_cache.kept_if_read(ended):
                yield
        except (AdapterParseError, OperationError) as error:
            if not is_unreadable(error):
                raise
            if ended.lasting is not None:
                raise ended.lasting.error() from error
            # Text that a stream has sent cannot be taken back.
            if shown.emitted or not self._asks_again(error):
                raise

    def _asks_again(self, error: Exception) -> bool:
        fallback = self._adapter.fallback() if self.form is self._adapter and not self._is_parsed else None
        if fallback is not None:
            self.form = fallback
            return True
        budget = _budget.get()
        if budget is None or not budget.retries:
            return False
        budget.retries -= 1
        note = f"An answer was refused before: {problem_of(error)}. Answer anew, and keep to the form."
        self.form = self._adapter
        self.signature = self._original.with_instructions(f"{self._original.instructions}\n\n{note}")
        return True

    def checked(self, completions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the fields of each completion after a check of their constraints."""
        self._is_parsed = True
        for name, field in self._original.output_fields.items():
            if field.annotation is dspy.ToolCalls:
                for fields in completions:
                    if isinstance(calls := fields.get(name), dspy.ToolCalls):
                        fields[name] = _read_calls(name, calls)
        for name in _validators(self._original):
            for fields in completions:
                _check(self._original, name, fields.get(name))
        return completions


_known: WeakKeyDictionary[_Signature, dict[str, Callable[[Any], Any]]] = WeakKeyDictionary()


def _validators(signature: _Signature) -> dict[str, Callable[[Any], Any]]:
    """Return the functions that check outputs against the constraints of their fields, by name."""
    found = _known.get(signature)
    if found is None:
        found = _known[signature] = {
            name: pydantic.TypeAdapter(_annotated(field)).validate_python
            for name, field in signature.output_fields.items()
            if field.metadata
        }
    return found


def _check(signature: _Signature, name: str, value: Any) -> None:
    validate = _validators(signature).get(name)
    if validate is not None and value is not None:
        constraints.validated(validate, value, f"outputs.{name}", "parse")


def _read_calls(name: str, calls: dspy.ToolCalls) -> dspy.ToolCalls:
    """Read native calls of tools, which no adapter has read, and check their texts: not every text has a term."""
    place = f"outputs.{name}"
    try:
        calls = call_arguments.read_calls(calls)
        place += ".tool_calls"
        values.check_texts([{"name": call.name, "args": call.args} for call in calls.tool_calls])
    except values.UnreadableError as error:
        raise OperationError("parse", error.at(place), path=place + error.path) from error
    return calls


def _annotated(field: Any) -> Any:
    parts = (field.annotation, *field.metadata)
    return Annotated[parts]


class _Form:
    """What the adapters share: how they ask, and how they read values."""

    #: The class of DSPy.
    plain: type[dspy.Adapter]

    def __call__(self, lm: Any, lm_kwargs: Any, signature: _Signature, demos: Any, inputs: Any) -> Any:
        """Ask a model from a thread, and return the fields of its completions."""
        asking = _Asking(self, signature)
        while True:
            with asking.attempt():
                form = asking.form
                return asking.checked(form.plain.__call__(form, lm, dict(lm_kwargs), asking.signature, demos, inputs))

    async def acall(self, lm: Any, lm_kwargs: Any, signature: _Signature, demos: Any, inputs: Any) -> Any:
        """Ask a model from a task, and return the fields of its completions."""
        asking = _Asking(self, signature)
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
            return dict(super().parse(signature, completion))
        except AdapterParseError:
            # The inputs of the prompt stand in sections, which some models copy.
            names = chat_text.Names.of(signature.output_fields, signature.input_fields)
            if not chat_text.fields_of(completion, names):
                raise
            return ChatForm().parse(signature, completion)


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
                    fields[name] = super().parse(alone, document)[name]
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
            return list(super().format(signature, demos, inputs))
        asked, given = signature.delete(history), dict(inputs)
        turns = self.format_conversation_history(asked, history, given)
        *before, last = super().format(asked, demos, given)
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
