"""The embedded model: an extractive question answerer in place of a language model, for demonstrations and tests.

It is a custom engine of DSPy: it reads the prompt that DSPy's adapter wrote, and writes a completion that the same
adapter parses. It is deterministic, needs no network and no weights, and answers only from the given text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from dspy import lm15

from erlport_bridge.programs.models.bridge_lm import BridgeLM
from erlport_bridge.programs.models.embedded import module_steps
from erlport_bridge.programs.models.embedded.field_answers import SourceText, answer, wanted_words
from erlport_bridge.programs.models.embedded.prompt_reading import Prompt, PromptField, Schema, read_prompt
from erlport_bridge.programs.text import find_expression, sentences
from erlport_bridge.request import weight

DESCRIPTION: Final = (
    "The embedded model answers from the text it is given: the sentence nearest to the question, the numbers, dates "
    "and options in it, the value of an arithmetic expression. It is deterministic, needs no network, and ignores "
    "temperature and other generation settings. It is no language model: it knows nothing and writes no prose."
)

# A prompt of this size takes about 5 ms. A longer prompt goes to a thread, since it would block the event loop.
_MAX_CHARACTERS_ON_LOOP: Final = 50_000

_REASONING_NAMES: Final = ("reasoning", "rationale")
_QUESTION_NAMES: Final = frozenset(
    ("question", "query", "q", "prompt", "request", "task", "claim", "goal", "topic", "instruction", "problem")
)
# Inputs that modules of DSPy add; `module_steps` reads them, and they are not text to answer from.
_MODULE_INPUTS: Final = re.compile(
    r"trajectory|reasoning_attempt_\d+|final_generated_code|code_output|previous_code|error"
)
_HEADER_START: Final = re.compile(r"\[\[ ##")
_PLAIN_TEXT: Final[Schema] = {"type": "string"}


def embedded_model() -> BridgeLM:
    """Return the embedded model as a language model of DSPy, for sync and async modules."""
    return BridgeLM("embedded/extractive", engine=_EmbeddedEngine(), async_engine=_AsyncEmbeddedEngine())


def complete(system: str, user: str) -> str:
    """Return the completion of one prompt of DSPy.

    Args:
        system: The system message.
        user: The last user message.

    Returns:
        The completion in the form that the prompt asks for, with every output field. For a prompt without output
        fields, plain text from the user message.
    """
    prompt = read_prompt(system, user)
    if not prompt.outputs:
        return str(answer(_question_and_text([(None, user)]), _PLAIN_TEXT, ""))
    values = _values(prompt)
    if prompt.wants_json:
        # DSPy reads the text of a field of bytes as JSON again.
        binary = {field.name for field in prompt.outputs if field.schema.get("format") == "binary"}
        return json.dumps({name: json.dumps(value) if name in binary else value for name, value in values.items()})
    # DSPy reads a missing section as None; the text "null" would be a string for an optional string.
    parts = [
        f"[[ ## {field.name} ## ]]\n{_rendered(values[field.name], field.schema)}"
        for field in prompt.outputs
        if values[field.name] is not None or not _is_optional_text(field.schema)
    ]
    return "\n\n".join([*parts, "[[ ## completed ## ]]"])


def _values(prompt: Prompt) -> dict[str, Any]:
    """Return a value for each output field, in the signature's order."""
    source = _source(prompt)
    names = [field.name for field in prompt.outputs]
    known: Mapping[str, Any] = {}
    if "next_tool_name" in names and "next_tool_args" in names:
        known = module_steps.next_tool_call(prompt, source)
    elif "generated_code" in names:
        known = {"generated_code": module_steps.program(prompt, source)}
    elif prompt.value("code_output") is not None and prompt.value("final_generated_code") is not None:
        known = module_steps.computed_values(prompt, source)
    elif prompt.value("reasoning_attempt_1") is not None and names[0] == "rationale":
        known = module_steps.majority(prompt, source)
    values = dict(known)
    # The reasoning explains the first answer, so it is made after that answer, although its field comes first.
    reason = source.reason if known else None
    reasoning = [name for name in names if name in _REASONING_NAMES and name not in known and len(names) > 1]
    for field in prompt.outputs:
        if field.name not in known and field.name not in reasoning:
            values[field.name] = answer(source, field.schema, wanted_words(field.name, _described(field)))
            reason = reason or source.reason
    values |= dict.fromkeys(reasoning, reason)
    return {name: values[name] for name in names}


def _described(field: PromptField) -> str:
    return "" if field.description.startswith(("${", "Constraints: ")) else field.description.partition("\n")[0]


def _source(prompt: Prompt) -> SourceText:
    given = [(field, value) for field, value in prompt.inputs if not _MODULE_INPUTS.fullmatch(field.name)]
    source = _question_and_text([(field.name, _passages(field, value)) for field, value in given])
    trajectory = prompt.value("trajectory")
    observed = module_steps.observations(trajectory) if trajectory else ""
    return SourceText(source.question, observed) if observed else source


def _question_and_text(given: list[tuple[str | None, str]]) -> SourceText:
    """Return the question and the text among the inputs.

    The question is found by the input's name, else by its question mark. A single input may contain both.
    """
    asked = [index for index, (name, _) in enumerate(given) if name in _QUESTION_NAMES]
    asked = asked or [index for index, (_, value) in enumerate(given) if value.rstrip().endswith("?")]
    if not asked:
        return SourceText("", "\n".join(value for _, value in given))
    question = given[asked[0]][1]
    text = "\n".join(value for index, (_, value) in enumerate(given) if index != asked[0] and value)
    if text or find_expression(question):
        return SourceText(question, text)
    parts = sentences(question)
    questions = [part for part in parts if part.endswith("?")]
    statements = [part for part in parts if not part.endswith("?")]
    return (
        SourceText(" ".join(questions), "\n".join(statements)) if questions and statements else SourceText(question, "")
    )


def _passages(field: PromptField, value: str) -> str:
    """Return the text of an input's value: the items of a list, one per line; else the value unchanged."""
    if field.type_text == "str" or not value.startswith("["):
        return value
    try:
        items = json.loads(value)
    except ValueError:
        return value
    return "\n".join(item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in items)


def _rendered(value: Any, schema: Schema) -> str:
    """Return a value as ChatAdapter parses it: plain text for text and enum options, JSON for other values."""
    if isinstance(value, str) and "enum" in schema:
        return value if value == value.strip() else f"'{value}'"
    if isinstance(value, str) and (_is_plain_text(schema) or _is_optional_text(schema)):
        # The given text may contain headers; a header at the start of a line would end this field.
        return _HEADER_START.sub("[[##", value)
    return json.dumps(value)


def _is_optional_text(schema: Schema) -> bool:
    alternatives = schema.get("anyOf", ())
    return any(map(_is_plain_text, alternatives)) and {"type": "null"} in alternatives


def _is_plain_text(schema: Schema) -> bool:
    return schema.get("type") == "string" and schema.keys() <= {"type", "minLength", "maxLength", "pattern"}


def _read_request(request: lm15.Request) -> tuple[str, str]:
    users = [_message_text(message) for message in request.messages if message.role == "user"]
    return _plain_text(request.system), users[-1] if users else ""


def _message_text(message: lm15.Message) -> str:
    return "\n".join(part.text for part in message.parts if isinstance(part, lm15.TextPart))


def _plain_text(system: Any) -> str:
    if isinstance(system, str):
        return system
    return "\n".join(part.text for part in system or () if isinstance(part, lm15.TextPart))


def _response(request: lm15.Request, prompt_characters: int, completion: str) -> lm15.Response:
    """Return a completion as a response; four characters count as one token, the usual estimate without a tokenizer."""
    input_tokens, output_tokens = -(-prompt_characters // 4), -(-len(completion) // 4)
    return lm15.Response(
        id=None,
        model=request.model,
        message=lm15.Message.assistant([lm15.TextPart(completion)]),
        finish_reason="stop",
        usage=lm15.Usage(
            input_tokens=input_tokens, output_tokens=output_tokens, total_tokens=input_tokens + output_tokens
        ),
    )


class _EmbeddedEngine:
    def complete(self, request: lm15.Request) -> lm15.Response:
        system, user = _read_request(request)
        characters = len(system) + sum(len(_message_text(message)) for message in request.messages)
        return _response(request, characters, complete(system, user))


class _AsyncEmbeddedEngine:
    async def complete(self, request: lm15.Request) -> lm15.Response:
        engine = _EmbeddedEngine()
        if sum(len(_message_text(message)) for message in request.messages) > _MAX_CHARACTERS_ON_LOOP:
            return await weight.to_thread(engine.complete, request)
        return engine.complete(request)
