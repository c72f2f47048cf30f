"""Read the fields of a model's answer in JSON, and install the reading of values in DSPy's adapters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import dspy
from dspy.adapters.utils import apply_output_field_defaults
from dspy.utils.callback import with_callbacks

from erlport_bridge import dspy_patches
from erlport_bridge.programs.values import answer_json
from erlport_bridge.programs.values.answers import UnreadableError, read_json, read_text
from erlport_bridge.term import shown


def problem_of(error: dspy.AdapterParseError) -> tuple[str, str]:
    r"""Return what is wrong with an answer, as one sentence, and the path of the wrong value.

    >>> signature = dspy.Signature("question -> answer: int")
    >>> try:
    ...     dspy.ChatAdapter().parse(signature, "[[ ## answer ## ]]\nseven")
    ... except dspy.AdapterParseError as error:
    ...     problem_of(error)
    ('expected an integer at outputs.answer, got "seven"', 'outputs.answer')
    """
    cause = error.__cause__ or error.__context__
    if isinstance(cause, dspy.AdapterParseError) and error.adapter_name == dspy.TwoStepAdapter.__name__:
        return problem_of(cause)
    if isinstance(error, AnswerError):
        return error.sentence, error.path
    fields = list(error.signature.output_fields)
    if isinstance(cause, UnreadableError):
        place = ".".join(["outputs", *_field_read_by(error, fields)])
        return cause.at(place), place + cause.path
    missing = [name for name in fields if name not in (error.parsed_result or {})]
    place = f"outputs.{missing[0]}" if missing else "outputs"
    remark = f"; missing: {', '.join(missing)}" if 0 < len(missing) < len(fields) else ""
    unread = "" if error.parsed_result else answer_json.remark(error.lm_response or "")
    expected = f"the field{'s' if len(fields) > 1 else ''} {', '.join(fields)}"
    return f"expected {expected} in the model's answer, got {shown(error.lm_response)}{remark}{unread}", place


def _field_read_by(error: BaseException, fields: Collection[str]) -> list[str]:
    """Return the field that DSPy's ``parse`` was reading, as a list of one; an empty list if that is unknown."""
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name == "parse" and isinstance(frame.f_locals.get("self"), dspy.Adapter):
            # The variable of the loop over fields, in DSPy's chat and XML adapters.
            read = (frame.f_locals.get(name) for name in ("k", "name"))
            return [name for name in read if isinstance(name, str) and name in fields][:1]
        traceback = traceback.tb_next
    return []


class AnswerError(dspy.AdapterParseError):  # type: ignore[misc]
    """An answer that cannot be read: DSPy's error, with one sentence and a path.

    Attributes:
        sentence: What was expected, where, and what came.
        path: The path of the value, such as ``outputs.people[0].name``.
    """

    def __init__(self, adapter: dspy.Adapter, signature: Any, completion: str, sentence: str, path: str) -> None:
        super().__init__(type(adapter).__name__, signature, completion, message=sentence)
        self.sentence = sentence
        self.path = path


def read_fields(adapter: dspy.Adapter, signature: Any, completion: str) -> dict[str, Any]:
    """Return the output fields of an answer in JSON, as ``JSONAdapter.parse`` does.

    The object may stand in a code block, in prose, or in what models wrap it in: ``{"response": {…}}``.

    Raises:
        AnswerError: The answer has no such object, or a field does not fit its type.
    """
    wanted = signature.output_fields
    found = _object_with(wanted, completion)
    fields = {}
    for name, value in found.items():
        if name in wanted:
            try:
                fields[name] = read_json(value, wanted[name].annotation)
            except UnreadableError as error:
                sentence, path = error.at(f"outputs.{name}"), f"outputs.{name}{error.path}"
                raise AnswerError(adapter, signature, completion, sentence, path) from error
    fields = apply_output_field_defaults(signature, fields)
    if fields.keys() != wanted.keys():
        raise dspy.AdapterParseError(type(adapter).__name__, signature, completion, parsed_result=fields)
    return dict(fields)


def _object_with(wanted: Mapping[str, Any], completion: str) -> dict[str, Any]:
    """Return the object that has most of the wanted fields, or an empty map if there is no object.

    Of several such objects the last one counts: before its answer, a model may quote its input.
    """
    best: dict[str, Any] = {}
    most = 0
    for value in answer_json.values_in(completion):
        found = _unwrapped(value, wanted)
        count = sum(name in wanted for name in found)
        if count >= most:
            best, most = found, count
    return best


_MAX_WRAPPINGS: Final = 4


def _unwrapped(value: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object that has a wanted field: ``value``, or the nearest such object within it."""
    level, first = [value], None
    for _ in range(_MAX_WRAPPINGS):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str) and item.lstrip()[:1] in ("{", "["):
                item = answer_json.exact(item)
            if isinstance(item, dict):
                if any(name in wanted for name in item):
                    return item
                first = item if first is None else first
                inner += item.values()
            elif isinstance(item, list) and len(item) == 1:
                inner += item
        level = inner
    return first or {}


# DSPy finds the callback of a method by the method's name.
def parse(self: dspy.Adapter, signature: Any, completion: str) -> dict[str, Any]:
    """Replace ``JSONAdapter.parse``."""
    return read_fields(self, signature, completion)


def _reader(original: ModuleType) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(original), "loads": answer_json.loads})


dspy_patches.provide(
    "answers",
    {
        "dspy.adapters.utils:json_repair": _reader,
        "dspy.adapters.chat_adapter:parse_value": lambda _: read_text,
        "dspy.adapters.xml_adapter:parse_value": lambda _: read_text,
        "dspy.adapters.json_adapter:JSONAdapter.parse": lambda _: with_callbacks(parse),
        "dspy.predict.rlm:parse_value": lambda _: read_json,
        "dspy.predict.flex.bridge:parse_value": lambda _: read_json,
    },
)
