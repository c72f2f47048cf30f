"""The parsed type of a field: its text, the annotation for DSPy, constraints, description and default."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from erlport_bridge.programs.signatures.constraints import Constraints, constrained

#: Marks a field without a default value, since ``None`` can be a default.
NO_DEFAULT: Final = object()


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
        beside += [] if self.default is NO_DEFAULT else [f"default={choice_text(self.default)}"]
        if not beside:
            return self.text
        text = f"({self.text})" if self.members else self.text
        head = text[:-1] + ", " if self.constraints else text + "("
        return f"{head}{', '.join(beside)})"


def choice_text(choice: str | float | None) -> str:
    """Return a choice of a ``Literal``, or a default, as it is written in the text of a type."""
    return string_text(choice) if isinstance(choice, str) else repr(choice)


def string_text(text: str) -> str:
    """Return a string as it is written in the text of a type, in double quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
