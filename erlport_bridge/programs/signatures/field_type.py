"""One type of a field: its text, the annotation that DSPy takes, and what stands beside it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from erlport_bridge.programs.signatures.constraints import Constraints, constrained

#: No default value; ``None`` is one.
NO_DEFAULT: Final = object()


class FieldType(NamedTuple):
    """A type: its canonical text, what DSPy takes as the field's annotation, and what was said beside it."""

    text: str
    annotation: Any
    constraints: Constraints = ()
    description: str | None = None
    default: Any = NO_DEFAULT

    @property
    def inner(self) -> Any:
        """The annotation where the type stands within another."""
        return constrained(self.annotation, self.constraints)

    @property
    def whole_text(self) -> str:
        """The text with what was said beside the type, as a field of an object has it."""
        beside = [] if self.description is None else [f"desc={string_text(self.description)}"]
        beside += [] if self.default is NO_DEFAULT else [f"default={choice_text(self.default)}"]
        if not beside:
            return self.text
        head = self.text[:-1] + ", " if self.constraints else self.text + "("
        return f"{head}{', '.join(beside)})"


def choice_text(choice: str | float | None) -> str:
    """Return a choice of a ``Literal``, or a default, as it stands in the text of a type."""
    return string_text(choice) if isinstance(choice, str) else repr(choice)


def string_text(text: str) -> str:
    """Return a string as it stands in a type."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
