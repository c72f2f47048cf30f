"""The generation settings, such as ``temperature``: options of a model's configuration and of a call."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from erlport_bridge.programs.options import ExactNumberOption, IntegerOption, Option, TextOption, Vocabulary, wrong

# OpenAI's limit. Without it the embedded model would write any number of completions, and could not be stopped.
_MAX_COMPLETIONS: Final = 128
# JSON parsers hold no larger integer, and Python refuses to write an integer of more than 4,300 digits.
_MAX_NUMBER: Final = 2**63 - 1


class _StopOption(Option):
    """An option whose value is one text or a list of texts, none of them empty."""

    def _read(self, value: object, path: str) -> list[str]:
        texts = value if isinstance(value, list) else [value]
        if texts and all(isinstance(item, str) and item for item in texts):
            return [str(item) for item in texts]
        raise wrong("a string or a list of strings, none of them empty", value, path)

    def _type(self) -> dict[str, Any]:
        return {"type": "str | list[str]"}


#: The settings by name; the model chooses a setting that is left out. The bounds are those of DSPy's own client, within
#: which a provider may accept less.
GENERATION_SETTINGS: Final = Vocabulary(
    ExactNumberOption(name="temperature", minimum=0, maximum=2, description="how much the model varies its answers"),
    IntegerOption(name="max_tokens", minimum=1, description="most tokens of an answer"),
    IntegerOption(
        name="n",
        minimum=1,
        maximum=_MAX_COMPLETIONS,
        expected="",
        description='completions of one request; all of them under "completions"',
    ),
    ExactNumberOption(
        name="top_p", minimum=0, maximum=1, description="the share of probability that tokens are drawn from"
    ),
    _StopOption(name="stop", description="text at which the model stops"),
    IntegerOption(
        name="rollout_id",
        minimum=0,
        description="calls of another id share no cached answer; the provider does not see it",
    ),
    IntegerOption(name="seed", description="random seed, for providers that take one"),
    ExactNumberOption(
        name="presence_penalty", minimum=-2, maximum=2, description="penalty of tokens that occur already"
    ),
    ExactNumberOption(
        name="frequency_penalty",
        minimum=-2,
        maximum=2,
        description="penalty of tokens by how often they occur already",
    ),
    TextOption(name="reasoning_effort", description='for reasoning models, such as "low"'),
)


# Settings are described, and part of cached models, in one order.
_IN_ORDER: Final = tuple(sorted(GENERATION_SETTINGS))


def read_settings(given: Mapping[str, Any], path: str, *, skip: Collection[str] = ()) -> dict[str, Any]:
    """Return the checked generation settings in a map, without settings that are ``nil`` or named in ``skip``.

    Raises:
        OperationError: Of kind ``input``, with the path: a setting is invalid.
    """
    if given.keys().isdisjoint(_IN_ORDER):
        return {}
    names = [name for name in _IN_ORDER if name in given and name not in skip]
    settings = {name: generation_setting(name, given[name], path) for name in names}
    return {name: value for name, value in settings.items() if value is not None}


def generation_setting(name: str, value: object, path: str = "opts") -> Any:
    """Check one generation setting and return its value.

    Raises:
        OperationError: Of kind ``input``, with the path: the setting is invalid.
    """
    if isinstance(value, int) and abs(value) > _MAX_NUMBER:
        raise wrong("a number of at most 63 bits", value, f"{path}.{name}")
    return GENERATION_SETTINGS[name].read(value, f"{path}.{name}")
