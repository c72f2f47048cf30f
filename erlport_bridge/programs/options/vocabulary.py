"""Options that belong together, by name: the one place from which they are read, described and documented."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from erlport_bridge.programs.options.option import Option
from erlport_bridge.programs.text import arguments


class Vocabulary(Mapping[str, Option]):
    """Options by name; immutable."""

    def __init__(self, *options: Option) -> None:
        self._options = {option.name: option for option in options}

    def __getitem__(self, name: str) -> Option:
        return self._options[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def __or__(self, other: Vocabulary) -> Vocabulary:
        """Return the options of both; of two with one name, the other's."""
        return Vocabulary(*{**self, **other}.values())

    def without(self, *names: str) -> Vocabulary:
        """Return the options of other names."""
        return Vocabulary(*(option for name, option in self.items() if name not in names))

    def read(self, given: Mapping[str, Any], path: str, *, skip: Collection[str] = ()) -> dict[str, Any]:
        """Return the values of the options that stand in ``given``; one that is ``nil`` is left out.

        Args:
            given: A map of options; names that are not of this vocabulary are left alone.
            path: Where the map stands, for errors.
            skip: Names that are not read.

        Raises:
            OperationError: Of kind ``input``, with the path of the option.
        """
        return {
            name: self._options[name].read(value, f"{path}.{name}")
            for name, value in given.items()
            if name in self._options and value is not None and name not in skip
        }

    def read_all(self, opts: object, path: str = "opts") -> dict[str, Any]:
        """Return a value for each option, from a map or keyword list that may hold no other names.

        Raises:
            OperationError: Of kind ``input``, with the path.
        """
        given = arguments.options(opts, path)
        arguments.only(given, self, "option", path)
        return self.with_defaults(self.read(given, path))

    def with_defaults(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a value for each option: from ``values``, or its default."""
        return {name: values.get(name, option.default) for name, option in self.items()}

    def describe(self) -> dict[str, Any]:
        """Return all options as terms, by name."""
        return {name: option.describe() for name, option in self.items()}


#: No options.
NO_OPTIONS = Vocabulary()
