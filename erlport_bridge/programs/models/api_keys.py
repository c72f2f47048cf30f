"""API keys that are functions of Elixir: each request reads the key, so that keys can rotate.

On the wire such an ``api_key`` is a map ``{"callback": id}``. Elixir keeps the function registered as long as the model
is configured, or for the call that names the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.port import elixir
from erlport_bridge.programs.models.providers import usable_key
from erlport_bridge.programs.text import arguments
from erlport_bridge.threads import wait_for

_CALLBACKS_MODULE: Final = "Elixir.DSPex.Python.Callbacks"


class KeyFunction:
    """A function of Elixir that returns the API key of a model.

    Args:
        callback_id: The id under which Elixir has registered the function.
        path: The path of the key in the options, for errors.
        model: The model's name, for errors.
    """

    def __init__(self, callback_id: str, path: str, model: str) -> None:
        self._callback_id = callback_id
        self._path = path
        self._model = model

    async def read(self) -> str:
        """Return the current key, from a task.

        Raises:
            LMAuthError: The function failed, or returned no usable key; the error does not show what it returned.
        """
        try:
            return self._checked(await elixir.call(_CALLBACKS_MODULE, "call", [self._callback_id, {}]))
        except OperationError as error:
            raise self._failure(error) from None

    def read_sync(self) -> str:
        """Return the current key, from a thread; see :meth:`read`."""
        try:
            return self._checked(wait_for(elixir.begin_call(_CALLBACKS_MODULE, "call", [self._callback_id, {}])))
        except OperationError as error:
            raise self._failure(error) from None

    def _checked(self, value: Any) -> str:
        return usable_key(value, self._path)

    def _failure(self, error: OperationError) -> dspy.LMAuthError:
        # DSPy's own error, so that fallback models are asked.
        return dspy.LMAuthError(f"the function at {self._path} gave no API key: {error.message}", model=self._model)


def key_function(value: object, path: str, model: str) -> KeyFunction | None:
    """Return the function that stands in the place of a key; ``None`` if ``value`` is not one.

    Raises:
        OperationError: Of kind ``input``: a map without the id of a function.
    """
    if not isinstance(value, Mapping):
        return None
    path = f"{path}.api_key"
    return KeyFunction(arguments.text(arguments.options(value, path).get("callback"), f"{path}.callback"), path, model)
