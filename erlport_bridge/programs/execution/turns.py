"""Read the turns of a conversation as callers write them: maps of a program's fields, or messages with roles.

A message ``%{role: "user", content: "…"}`` is clear where the program has one input and one output of text: what the
user said is the input, what the assistant said is the output, and both together are one turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Optional

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.pipelines import HISTORY_FIELD, Stage
from erlport_bridge.programs.signatures import Field, SignatureSpec
from erlport_bridge.programs.text import expected_text, quoted, suggestion, text_of
from erlport_bridge.programs.values import convert
from erlport_bridge.term import shown

_OPTIONAL_HISTORY: Final = Optional[dspy.History]  # noqa: UP045  # as field types are written
_ROLES: Final = ("user", "assistant")


@dataclass(frozen=True)
class TurnFields:
    """What a turn may hold.

    Attributes:
        inputs: The inputs of the program, without the conversation itself.
        outputs: Its outputs.
        known: The names of all fields that the stages of the program have.
    """

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    known: frozenset[str]

    @classmethod
    def of(cls, stages: Sequence[Stage], whole: SignatureSpec) -> TurnFields:
        """Return what the turns of a program, or of one module, may hold."""
        inputs = tuple(item for item in whole.inputs if not _is_history(item))
        names = {item.name for item in (*inputs, *whole.outputs)}
        for stage in (inner for outer in stages for inner in outer.chain):
            names |= {*stage.spec.input_names, *stage.fields, *stage.entry.reserved}
        return cls(inputs, whole.outputs, frozenset(names - {HISTORY_FIELD}))

    def terms(self, value: object, path: str) -> list[dict[str, Any]]:
        """Return turns as maps of fields; messages with roles become turns.

        Raises:
            OperationError: Of kind ``input``, with the path: no list of maps, an unknown field, or a message whose
                meaning is not clear.
        """
        if not isinstance(value, list):
            raise OperationError("input", f"expected a list of turns at {path}, got {shown(value)}", path=path)
        turns: list[dict[str, Any]] = []
        is_asked = False
        for index, item in enumerate(value):
            where = f"{path}[{index}]"
            if not isinstance(item, Mapping):
                message = f"expected a turn (a map from the names of fields) at {where}, got {shown(item)}"
                raise OperationError("input", message, path=where)
            if not item:
                message = f"expected a turn with at least one field at {where}, got an empty map{self._holds()}"
                raise OperationError("input", message, path=where)
            given = {_key(key, where): one for key, one in item.items()}
            if not ("role" in given and "role" not in self.known):
                self._check_names(given, where)
                turns.append(given)
                is_asked = False
                continue
            role, said = self._message(given, where)
            if role == "assistant" and is_asked:
                turns[-1] |= said
            else:
                turns.append(said)
            is_asked = role == "user"
        return turns

    def converted(self, turns: Sequence[Mapping[str, Any]], path: str) -> list[dict[str, Any]]:
        """Return turns with the values that DSPy takes.

        Raises:
            OperationError: Of kind ``input``, with the path: a value does not fit its field.
        """
        types = {item.name: item.annotation for item in (*self.inputs, *self.outputs)}
        return [
            {
                name: None if value is None else convert(types.get(name, Any), value, f"{path}[{index}].{name}")
                for name, value in turn.items()
            }
            for index, turn in enumerate(turns)
        ]

    def _check_names(self, given: Mapping[str, Any], path: str) -> None:
        # Nothing is known of the outputs of a module that declares none.
        for name in given if self.outputs else ():
            if name not in self.known:
                where = f"{path}.{quoted(name)[1:-1]}"
                remedy = suggestion(name, self.known) or self._holds()
                raise OperationError("input", f"unknown field {quoted(name)} at {path}{remedy}", path=where)

    def _message(self, given: Mapping[str, Any], path: str) -> tuple[str, dict[str, Any]]:
        role = text_of(given["role"])
        if role not in _ROLES:
            shown_role = shown(given["role"])
            message = f'expected "user" or "assistant" at {path}.role, got {shown_role}'
            if role in ("system", "developer"):
                message += "; what a model is told to do stands in the instructions of the signature"
            raise OperationError("input", message, path=f"{path}.role")
        for name in given:
            if name not in ("role", "content"):
                message = f"unknown key {quoted(name)} at {path}; a message has role and content"
                raise OperationError("input", message, path=f"{path}.{quoted(name)[1:-1]}")
        fields = self.inputs if role == "user" else self.outputs
        if len(fields) != 1 or fields[0].annotation is not str:
            message = f"the meaning of a message with a role is not clear at {path}: the {role}'s part of a turn is "
            message += f"{', '.join(f'{item.name}: {item.type_text}' for item in fields)}; write the turn as a map of "
            message += f"{self._listed()}"
            raise OperationError("input", message, path=path)
        content = given.get("content")
        if text_of(content) is None:
            raise OperationError("input", expected_text(f"{path}.content", content), path=f"{path}.content")
        return role, {fields[0].name: content}

    def _holds(self) -> str:
        return f"; a turn holds {self._listed()}"

    def _listed(self) -> str:
        return ", ".join(item.name for item in (*self.inputs, *self.outputs))


def read_histories(stages: Sequence[Stage], whole: SignatureSpec, given: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the inputs of a call with each conversation among them as a list of maps of fields.

    Raises:
        OperationError: As :meth:`TurnFields.terms`.
    """
    read = dict(given)
    fields = TurnFields.of(stages, whole)
    for name in (item.name for item in whole.inputs if _is_history(item)):
        value, path = read.get(name), f"inputs.{name}"
        if isinstance(value, Mapping):
            key = next((key for key in value if key == "messages"), None)
            if key is not None and isinstance(value[key], list):
                read[name] = {**value, key: fields.terms(value[key], f"{path}.messages")}
        elif isinstance(value, list):
            read[name] = fields.terms(value, path)
    return read


def has_history(whole: SignatureSpec) -> bool:
    """Return whether an input is a conversation."""
    return any(map(_is_history, whole.inputs))


def _is_history(item: Field) -> bool:
    annotation = item.annotation
    # A class is never equal to a union, which takes long to compare.
    return annotation is dspy.History or (not isinstance(annotation, type) and annotation == _OPTIONAL_HISTORY)


def _key(key: object, path: str) -> str:
    if isinstance(key, str):
        return str(key)
    raise OperationError("input", f"expected an atom or a string as a key of {path}, got {shown(key)}", path=path)
