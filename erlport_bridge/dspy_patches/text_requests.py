"""Make the canonical request of messages of text alone without reading its settings again: a tenth of a prediction."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

from dspy.lm15 import Config, Message, Request, TextPart

# The most configurations that are kept. Calls with a seed or a rollout of their own would fill any number.
_MOST: Final = 256
# The types of settings that say all of a value: no object that can change, none that is equal to one of another type.
_SCALARS: Final = (str, int, float, bool, type(None))
_ROLES: Final = frozenset({"user", "assistant"})
_KEYS: Final = frozenset({"role", "content"})


def of_text(original: Callable[..., Request]) -> Callable[..., Request]:
    """Return a replacement for ``request_from_openai_chat``, which keeps what it has made of the settings of a call."""
    known: OrderedDict[Any, Config] = OrderedDict()

    def request_from_openai_chat(body: Mapping[str, Any], *, compat: Any = None) -> Request:
        key = _settings(body, compat)
        if key is None:
            return original(body, compat=compat)
        config = known.get(key)
        made = None if config is None else _request(body, config)
        if made is None:
            made = original(body, compat=compat)
            # Tools, extensions and a place for the provider's cache belong to one request.
            if not made.tools and made.config.extensions is None and made.config.cache is None:
                known[key] = made.config
                if len(known) > _MOST:
                    known.popitem(last=False)
        return made

    return request_from_openai_chat


def _settings(body: Mapping[str, Any], compat: Any) -> Any:
    """Return what the configuration of a request depends on; ``None`` if that can change, or if it is not known."""
    settings = []
    for name, value in body.items():
        if name != "messages":
            if type(value) not in _SCALARS:
                return None
            settings.append((name, type(value), value))
    try:
        hash(compat)
    except TypeError:
        return None
    return compat, tuple(settings)


def _request(body: Mapping[str, Any], config: Config) -> Request | None:
    """Return the request of messages of text alone, of which the first may be the system's; ``None`` for others."""
    messages = body.get("messages")
    if type(messages) is not list:
        return None
    system = None
    turns = []
    for message in messages:
        if type(message) is not dict or message.keys() != _KEYS:
            return None
        role, text = message["role"], message["content"]
        if type(text) is not str:
            return None
        if role in _ROLES:
            turns.append(Message(role, (TextPart(text),)))
        elif role == "system" and message is messages[0] and not turns:
            system = text
        else:
            return None
    return Request(body["model"], tuple(turns), system, (), config) if turns else None
