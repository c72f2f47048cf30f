"""Say in errors which type, or which setting of a type, is meant by a name of another language or library."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from erlport_bridge.programs.text import suggestion

_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("text", "binary", "bitstring", "char", "charlist", "varchar", "String.t", "Elixir.String"), "str"),
    **dict.fromkeys(("double", "real", "Elixir.Float"), "float"),
    **dict.fromkeys(("long", "Elixir.Integer"), "int"),
    **dict.fromkeys(("null", "none", "void"), "None"),
    **dict.fromkeys(("hash", "struct", "json", "Elixir.Map", "keyword"), "dict"),
    **dict.fromkeys(("timestamp", "utc_datetime", "naive_datetime", "Elixir.DateTime"), "datetime"),
    **dict.fromkeys(("enum", "choice", "one_of", "oneof", "literal"), 'Literal["a", "b"]'),
    **dict.fromkeys(("maybe", "optional", "nullable"), "str | None"),
    "sequence": "list",
    "Elixir.List": "list",
    "Elixir.Date": "date",
    "Elixir.Time": "time",
    "Elixir.Decimal": "Decimal",
    "Elixir.MapSet": "set",
}
# Of several meanings, the one that the type takes.
_SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("min", "minimum"), ("ge", "min_length")),
    **dict.fromkeys(("max", "maximum"), ("le", "max_length")),
    **dict.fromkeys(("gte", "greater_than_or_equal"), ("ge",)),
    **dict.fromkeys(("lte", "less_than_or_equal"), ("le",)),
    **dict.fromkeys(("min_len", "min_items", "min_size", "minLength", "minItems"), ("min_length",)),
    **dict.fromkeys(("max_len", "max_items", "max_size", "maxLength", "maxItems", "length"), ("max_length",)),
    **dict.fromkeys(("regex", "regexp", "format", "match"), ("pattern",)),
    **dict.fromkeys(("step", "multipleOf"), ("multiple_of",)),
    **dict.fromkeys(("choices", "values", "one_of"), ("enum",)),
    **dict.fromkeys(("doc", "comment", "prompt"), ("desc",)),
    **dict.fromkeys(("gt", "ge"), ("min_length",)),
    **dict.fromkeys(("lt", "le"), ("max_length",)),
    "min_length": ("ge",),
    "max_length": ("le",),
    "greater_than": ("gt",),
    "less_than": ("lt",),
}


def of_type(name: str, known: Collection[str]) -> str:
    """Return `` (did you mean …?)`` for an unknown type, or an empty string."""
    meant = _TYPES.get(name) or _TYPES.get(name.lower())
    return f" (did you mean {meant}?)" if meant else suggestion(name, known)


def of_setting(name: str, known: Collection[str]) -> str:
    """Return `` (did you mean …?)`` for an unknown setting of a type that takes those of ``known``."""
    meant = next((meant for meant in _SETTINGS.get(name, ()) if meant in known), None)
    return f" (did you mean {meant}?)" if meant else suggestion(name, known)
