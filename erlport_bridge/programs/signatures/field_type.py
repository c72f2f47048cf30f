"""The parsed type of a field: its text, the annotation for DSPy, constraints, description and default."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from erlport_bridge.programs.signatures.constraints import Constraints, constrained

#: Marks a field without a default value, since ``None`` can be a default.
NO_DEFAULT: Final = object()


@dataclass(frozen=True)
class CompoundDefault:
    """A default that is a list or a map: its JSON, so that types are hashable, and each use has a value of its own."""

    text: str

    @property
    def value(self) -> Any:
        """A new value."""
        return json.loads(self.text)


def default_value(default: Any) -> Any:
    """Return the value of a default."""
    return default.value if isinstance(default, CompoundDefault) else default


class FieldType(NamedTuple):
    """A parsed type.

    Attributes:
        text: The canonical text, with constraints, without description and default.
        annotation: The annotation for DSPy, without constraints.
        constraints: The constraints on the value.
        description: The field's description for the prompt, if any.
        default: The value of an input that is left out, or :data:`NO_DEFAULT`.
        members: The members of a union; empty for other types.
    """

    text: str
    annotation: Any
    constraints: Constraints = ()
    description: str | None = None
    default: Any = NO_DEFAULT
    members: tuple[FieldType, ...] = ()

    def replaced(self, **changes: Any) -> FieldType:
        """Return the type with other attributes."""
        return self._replace(**changes)

    @property
    def inner(self) -> Any:
        """The annotation with its constraints, for use inside another type."""
        return constrained(self.annotation, self.constraints)

    @property
    def whole_text(self) -> str:
        """The text with description and default, for a field of an object type."""
        beside = [] if self.description is None else [f"desc={string_text(self.description)}"]
        beside += [] if self.default is NO_DEFAULT else [f"default={default_text(self.default)}"]
        if not beside:
            return self.text
        text = f"({self.text})" if self.members else self.text
        head = text[:-1] + ", " if self.constraints else text + "("
        return f"{head}{', '.join(beside)})"


def choice_text(choice: str | float | None) -> str:
    """Return a choice of a ``Literal``, or a default, as it is written in the text of a type."""
    return string_text(choice) if isinstance(choice, str) else repr(choice)


def default_text(default: Any) -> str:
    """Return a default as it is written in the text of a type; lists and maps are written as in JSON."""
    value = default_value(default)
    if isinstance(value, list):
        return f"[{', '.join(map(default_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{string_text(name)}: {default_text(item)}' for name, item in value.items())}}}"
    return choice_text(value)


def string_text(text: str) -> str:
    """Return a string as it is written in the text of a type, in double quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
