"""Tools of which everything that goes wrong is an observation of the language model.

A language model writes the arguments and reads the result, so both are treated as foreign text: arguments are checked
before the tool sees them, and an error becomes one short sentence, without a traceback or a path of this host.
"""

from __future__ import annotations

import asyncio
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Final

import dspy
import pydantic_core
from dspy.utils.callback import with_callbacks

from erlport_bridge.errors import message_of
from erlport_bridge.programs.text import neutral
from erlport_bridge.request import within
from erlport_bridge.term import shown
from erlport_bridge.threads import NoThreadError

#: ReAct's own tool, which ends the trajectory; it silently replaces one of the same name.
RESERVED_NAMES: Final = frozenset(("finish",))
#: What a tool may be called: providers of models take no more.
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

_HOST_PATH: Final = re.compile(r"(?:[A-Za-z]:\\|/)[\w.+-]+(?:[/\\][\w.+-]+)+")
_MAX_ERROR_CHARACTERS: Final = 300


class ArgumentsError(Exception):
    """The arguments that a model wrote are not those that the tool takes; the text says why."""


class CallEndedError(BaseException):
    """Ends the call in which a tool runs, with ``__cause__`` as its error. ReAct would go on with an ``Exception``."""


class ObservedTool(dspy.Tool):  # type: ignore[misc]
    """A tool of which everything that goes wrong is an observation.

    DSPy's own checks and a tool's own exceptions are raised, and ReAct shows the model what is raised with a traceback
    that has this host's paths in it.
    """

    # The positional-only self leaves every name free for an argument.
    async def acall(self, /, **arguments: Any) -> Any:
        """Call the tool from a task."""
        return await self._observation(arguments)

    def __call__(self, /, **arguments: Any) -> Any:
        """Call the tool from a thread without an event loop."""
        return asyncio.run(self._observation(arguments))

    @with_callbacks  # type: ignore[untyped-decorator]
    async def _observation(self, kwargs: dict[str, Any]) -> Any:
        try:
            with within("tool"):
                return _observation_of(await self._run(self._checked(kwargs)))
        except ArgumentsError as error:
            return f"Error in {self.name}: {neutral(str(error))}"
        except NoThreadError as error:
            # Nothing that the model could do anything about.
            raise CallEndedError from error
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - what it raises is told to the model
            return f"Error in {self.name}: {_error_text(error)}"

    @abstractmethod
    def _checked(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Give the arguments as the tool takes them; raises :class:`ArgumentsError`."""

    @abstractmethod
    async def _run(self, values: dict[str, Any]) -> Any:
        """Do what the tool is for."""


def check_names(given: Mapping[str, Any], *, known: Iterable[str], required: Iterable[str]) -> None:
    """Raise an :class:`ArgumentsError` that names all arguments that are missing or unknown, if there are any."""
    missing = [f"missing argument {name}" for name in required if name not in given]
    unknown = [f"unknown argument {shown(name)}" for name in given if name not in known]
    if missing or unknown:
        raise ArgumentsError(", ".join(missing + unknown))


def _observation_of(result: Any) -> Any:
    result = _neutral(result)
    if isinstance(result, list) and not all(isinstance(item, str) for item in result):
        # DSPy words a list as texts, and fails with a TypeError where one holds anything else.
        return pydantic_core.to_json(result, fallback=str).decode()
    return result


def _neutral(result: Any) -> Any:
    """Give a tool's result with its text neutral, in lists and maps too.

    DSPy would turn a marker in it into a content part of the prompt, such as an image to be fetched.
    """
    if isinstance(result, str):
        return neutral(result)
    if type(result) in (list, tuple):
        return type(result)(_neutral(item) for item in result)
    if type(result) is dict:
        return {_neutral(key): _neutral(value) for key, value in result.items()}
    return result


def _error_text(error: BaseException) -> str:
    text = " ".join(_HOST_PATH.sub("…", message_of(error)).split())[:_MAX_ERROR_CHARACTERS]
    return neutral(text) or type(error).__name__
