"""Word large prompts and read long answers in a thread, since DSPy's adapters do both on the event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import dspy

from erlport_bridge.request import weight

# A longer answer is read in a thread. To repair JSON takes 5 µs for a character, and for some texts a time that is
# quadratic in their length: 20 ms for 2,000 characters.
_MAX_CHARACTERS_ON_LOOP: Final = 2_000


class Postponed(NamedTuple):
    """The reading of a long answer, in place of what was read; :meth:`read` is to run in a thread."""

    read: Callable[[], list[dict[str, Any]]]


async def for_one_request(
    adapter: dspy.Adapter, lm: Any, lm_kwargs: Mapping[str, Any], signature: Any, demos: Any, inputs: Any
) -> Any:
    """Return a copy of an adapter for one request: with the prompt worded if it is large, and with :class:`Postponed`.

    Args:
        adapter: An adapter with the method ``signature_of_prompt``.
        lm: The model, and the other arguments of the adapter's ``acall``.
        lm_kwargs: The settings of the request.
        signature: The signature.
        demos: The examples of the prompt.
        inputs: The inputs.
    """
    # As `copy.copy`, which takes ten times as long.
    copied = object.__new__(type(adapter))
    # What DSPy's `acall` calls on the event loop.
    copied.__dict__.update(adapter.__dict__, _call_postprocess=partial(_read_or_postponed, adapter))
    # The instructions as they are kept: DSPy cleans them each time that they are read.
    if weight.is_heavy(demos, inputs, signature.__doc__):
        # For the rest of the request too, which DSPy's client makes of the prompt.
        weight.weigh(demos, inputs, signature.__doc__)
        shown = adapter.signature_of_prompt(lm, dict(lm_kwargs), signature, inputs)
        messages = await weight.aside(adapter.format, shown, demos, inputs)
        copied.__dict__["format"] = lambda *_: messages
    return copied


def _read_or_postponed(adapter: dspy.Adapter, *arguments: Any) -> list[dict[str, Any]] | Postponed:
    """Read the answers of a model, the third argument; postpone that if they are long."""
    characters = 0
    for output in arguments[2]:
        has_fields = type(output) is not str and isinstance(output, Mapping)
        characters += len((output.get("text") if has_fields else output) or "")
    read = partial(adapter._call_postprocess, *arguments)
    return Postponed(read) if characters > _MAX_CHARACTERS_ON_LOOP else read()
