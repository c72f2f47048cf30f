"""Write the configuration of a model without its keys, so that it can be stored, and complete it again.

A key that stands in the environment, as ``{:system, variable}`` has it, is stored as the name of its variable, and one
that is the key of the port's default model as that. Any other key is left out: the model is found again, and the first
request to it says that it needs its key. So are headers, and an address with a user or a query.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from erlport_bridge.programs.models.api_keys import MISSING
from erlport_bridge.programs.text import text_of

_KEY: Final = "api_key"
_ADDRESSES: Final = ("api_base", "base_url")
_FALLBACKS: Final = "fallbacks"
# What stands in a recipe in place of a secret: the variable that holds it, or whose it is.
_VARIABLE: Final = "variable"
_DEFAULT: Final = "of_default_model"
# No variable holds the secret: none has an empty name.
_NOWHERE: Final = {_VARIABLE: ""}
_CALLBACK: Final = "callback"
# A shorter value may stand in any variable by chance.
_MIN_SECRET_CHARACTERS: Final = 8


def keyless(configuration: Any, default: Any = None) -> Any:
    """Return the configuration of a model, as a caller writes it, without any secret.

    Args:
        configuration: The configuration.
        default: The configuration of the port's default model, whose key needs no other place.
    """
    if isinstance(configuration, list):
        return [keyless(item, default) for item in configuration]
    if not isinstance(configuration, Mapping):
        return configuration
    found: dict[str, Any] = {}
    for name, value in configuration.items():
        name = str(name)
        if name == _FALLBACKS:
            found[name] = keyless(value, default)
        elif name == _KEY and text_of(value) and text_of(value) == text_of(_key_of(default)):
            found[name] = {_DEFAULT: True}
        elif _is_secret(name, value):
            found[name] = _place_of(text_of(value))
        else:
            found[name] = value
    return found


def complete(recipe: Any, default: Any = None) -> Any:
    """Return the configuration of a model from what :func:`keyless` returned; a key that is gone is marked as missing.

    Args:
        recipe: The configuration without secrets.
        default: The configuration of the port's default model.
    """
    if isinstance(recipe, list):
        return [complete(item, default) for item in recipe]
    if not isinstance(recipe, Mapping):
        return recipe
    found = {name: complete(value, default) if name == _FALLBACKS else value for name, value in recipe.items()}
    for name in [
        name for name, value in found.items() if isinstance(value, Mapping) and {_VARIABLE, _DEFAULT} & value.keys()
    ]:
        place = found.pop(name)
        secret = _key_of(default) if _DEFAULT in place else os.environ.get(str(place[_VARIABLE]))
        if secret:
            found[name] = secret
        else:
            found[_KEY] = {MISSING: name}
    return found


def is_whole(configuration: Any, default: Any = None) -> bool:
    """Return whether another process with the same environment and default model finds the same model by its recipe.

    That needs each secret to stand in the environment, and no function of Elixir, which is registered for one process.
    """
    if isinstance(configuration, list):
        return all(is_whole(item, default) for item in configuration)
    if not isinstance(configuration, Mapping):
        return True
    if _CALLBACK in configuration:
        return False
    recipe = keyless(configuration, default)
    return _NOWHERE not in recipe.values() and is_whole(configuration.get(_FALLBACKS), default)


def _is_secret(name: str, value: Any) -> bool:
    if name == _KEY:
        return text_of(value) is not None
    if name == "headers":
        return bool(value)
    if name in _ADDRESSES and (address := text_of(value)):
        parts = urlsplit(address)
        return "@" in parts.netloc or bool(parts.query)
    return False


def _place_of(secret: str | None) -> dict[str, Any]:
    """Return the name of the variable that holds a secret."""
    if secret is None or len(secret) < _MIN_SECRET_CHARACTERS:
        return dict(_NOWHERE)
    return next(({_VARIABLE: name} for name, value in os.environ.items() if value == secret), dict(_NOWHERE))


def _key_of(configuration: Any) -> Any:
    return configuration.get(_KEY) if isinstance(configuration, Mapping) else None
