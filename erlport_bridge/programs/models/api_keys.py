"""API keys that are functions of Elixir: each request reads the key, so that keys can rotate.

On the wire such an ``api_key`` is a map ``{"callback": id}``. Elixir keeps the function registered as long as the model
is configured, or for the call that names the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import NAME_BYTES
from erlport_bridge.port import elixir
from erlport_bridge.programs import callbacks
from erlport_bridge.programs.models.providers import usable_key
from erlport_bridge.programs.text import arguments
from erlport_bridge.threads import wait_for

#: Stands in a configuration in place of a key that was not stored, with the name of the option that is missing.
MISSING: Final = "missing"


class KeySource(Protocol):
    """Returns the key of a model, for each of its requests."""

    async def read(self) -> str:
        """Return the current key, from a task."""

    def read_sync(self) -> str:
        """Return the current key, from a thread."""


class MissingKey:
    """The key of a model that was read from a store, which has no keys: each request fails with the remedy.

    Args:
        option: The option of the model that is missing.
        model: The model's name, for errors.
    """

    def __init__(self, option: str, model: str) -> None:
        self._option = option
        self._model = model

    async def read(self) -> str:
        """Raise the error; see :meth:`read_sync`."""
        return self.read_sync()

    def read_sync(self) -> str:
        """Raise the error.

        Raises:
            LMAuthError: Always.
        """
        message = (
            f"the model {self._model} was read from the store, which keeps no secrets, and needs its {self._option} "
        )
        message += (
            "again; configure it anew, or give the key as {:system, variable}: it is found again if the variable "
        )
        message += "was in the environment when the pool started, or is in the pool's option env"
        # DSPy's own error, so that fallback models are asked.
        raise dspy.LMAuthError(message, model=self._model)


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
            return self._checked(await elixir.call(*callbacks.invocation(self._callback_id, {})))
        except OperationError as error:
            raise self._failure(error) from None

    def read_sync(self) -> str:
        """Return the current key, from a thread; see :meth:`read`."""
        try:
            return self._checked(wait_for(elixir.begin_call(*callbacks.invocation(self._callback_id, {}))))
        except OperationError as error:
            raise self._failure(error) from None

    def _checked(self, value: Any) -> str:
        return usable_key(value, self._path)

    def _failure(self, error: OperationError) -> dspy.LMAuthError:
        # DSPy's own error, so that fallback models are asked.
        return dspy.LMAuthError(f"the function at {self._path} gave no API key: {error.message}", model=self._model)


def key_function(value: object, path: str, model: str) -> KeySource | None:
    """Return the function that stands in the place of a key; ``None`` if ``value`` is a key itself.

    Raises:
        OperationError: Of kind ``input``: a map without the id of a function.
    """
    if not isinstance(value, Mapping):
        return None
    path = f"{path}.api_key"
    given = arguments.options(value, path)
    if MISSING in given:
        return MissingKey(arguments.text(given[MISSING], f"{path}.{MISSING}", NAME_BYTES), model)
    return KeyFunction(arguments.text(given.get("callback"), f"{path}.callback"), path, model)
