"""Vocabularies: sets of options by name, from which options are read, described and documented."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from erlport_bridge.programs.options.option import Option
from erlport_bridge.programs.text import arguments


class Vocabulary(Mapping[str, Option]):
    """An immutable mapping from names to options."""

    def __init__(self, *options: Option) -> None:
        self._options = {option.name: option for option in options}

    def __getitem__(self, name: str) -> Option:
        return self._options[name]

    def __contains__(self, name: object) -> bool:
        # Asked for each option of a call; the base class would catch an exception for a name that is not there.
        return name in self._options

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def __or__(self, other: Vocabulary) -> Vocabulary:
        """Return the options of both vocabularies; for a name in both, the option of ``other``."""
        return Vocabulary(*{**self, **other}.values())

    @property
    def offered(self) -> list[str]:
        """The names that errors offer to a caller: all but those of internal options."""
        return [name for name, option in self.items() if not option.is_internal]

    def without(self, *names: str) -> Vocabulary:
        """Return a vocabulary without the options of these names."""
        return Vocabulary(*(option for name, option in self.items() if name not in names))

    def read(self, given: Mapping[str, Any], path: str, *, skip: Collection[str] = ()) -> dict[str, Any]:
        """Return the checked values of the options in ``given``; an option that is ``nil`` is left out.

        Args:
            given: A map of options; names outside this vocabulary are ignored.
            path: The path of the map, for errors.
            skip: Names that are not read.

        Raises:
            OperationError: Of kind ``input``, with the path of the option.
        """
        return {
            name: self._options[name].read(value, f"{path}.{name}")
            for name, value in given.items()
            if name in self._options and value is not None and name not in skip
        }

    def read_all(
        self, opts: object, path: str = "opts", *, hints: Mapping[str, str] = arguments.NO_HINTS
    ) -> dict[str, Any]:
        """Return a value for each option of the vocabulary, from a map or a keyword list.

        ``hints`` say where names belong that are not in the vocabulary.

        Raises:
            OperationError: Of kind ``input``, with the path: a value is wrong, or a name is not in the vocabulary.
        """
        given = arguments.options(opts, path)
        arguments.only(given, self, "option", path, hints, self.offered)
        return self.with_defaults(self.read(given, path))

    def with_defaults(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a value for each option: the value in ``values``, else the option's default."""
        return {name: values.get(name, option.default) for name, option in self.items()}

    def describe(self) -> dict[str, Any]:
        """Return the description of each option as a term, by name."""
        return {name: option.describe() for name, option in self.items()}


#: The empty vocabulary.
NO_OPTIONS = Vocabulary()
