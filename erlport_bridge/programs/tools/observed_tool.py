"""Tools whose errors become observations for the language model.

A language model writes the arguments and reads the result, so both are untrusted text. Arguments are checked before the
tool sees them. An error becomes one short sentence, without a traceback and without paths of this host.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Final

import dspy
import pydantic_core
from dspy.utils.callback import with_callbacks

from erlport_bridge.dspy_patches import sets_as_lists
from erlport_bridge.errors import message_of
from erlport_bridge.limits import TOOL_RESULT_BYTES, size_of
from erlport_bridge.programs.text import beginning, neutral
from erlport_bridge.request import asking, within
from erlport_bridge.term import shown
from erlport_bridge.threads import NoThreadError
from erlport_bridge.tracing import Span, span

#: ReAct's own tool, which ends the trajectory; DSPy would silently replace a tool of this name by it.
RESERVED_NAMES: Final = frozenset(("finish",))
#: Valid names of tools: model providers accept no others.
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

_HOST_PATH: Final = re.compile(r"(?:[A-Za-z]:\\|/)[\w.+-]+(?:[/\\][\w.+-]+)+")
_MAX_ERROR_CHARACTERS: Final = 300


class ArgumentsError(Exception):
    """The arguments that a model wrote are invalid for the tool; the message says why."""


class CallEndedError(BaseException):
    """Ends the call in which a tool runs, with ``__cause__`` as the error.

    A ``BaseException``, since ReAct catches any ``Exception`` and goes on.
    """


class ObservedTool(dspy.Tool):  # type: ignore[misc]
    """A tool whose errors become observations for the model.

    DSPy's tools raise, for invalid arguments and for errors of their function. ReAct then shows the model a traceback,
    which contains paths of this host.
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
        # ReAct's own tool does nothing.
        with contextlib.nullcontext() if self.name in RESERVED_NAMES else span("tool", self.name) as traced:
            if traced is not None:
                traced.keep(arguments=kwargs)
            observation = await self._observed(kwargs, traced)
            if traced is not None:
                traced.keep(result=observation)
            return observation

    async def _observed(self, kwargs: dict[str, Any], traced: Span | None) -> Any:
        try:
            with within("tool"):
                values = self._checked(kwargs)
                asking.note(is_seen=True)
                result = await self._run(values)
                TOOL_RESULT_BYTES.check(size_of(result, TOOL_RESULT_BYTES.most), "its result")
                return _observation_of(result)
        except ArgumentsError as error:
            if traced is not None:
                traced.failed("input", neutral(str(error)))
            return f"Error in {self.name}: {neutral(str(error))}"
        except NoThreadError as error:
            # The model cannot remedy a lack of threads.
            raise CallEndedError from error
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - the model reads every error
            text = _error_text(error)
            if traced is not None:
                traced.failed("tool", text)
            return f"Error in {self.name}: {text}"

    @abstractmethod
    def _checked(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments as the tool takes them; raise :class:`ArgumentsError` if they are invalid."""

    @abstractmethod
    async def _run(self, values: dict[str, Any]) -> Any:
        """Run the tool's function."""


def check_names(given: Mapping[str, Any], *, known: Iterable[str], required: Iterable[str]) -> None:
    """Raise an :class:`ArgumentsError` that names all missing and unknown arguments, if there are any."""
    missing = [f"missing argument {name}" for name in required if name not in given]
    unknown = [f"unknown argument {shown(name)}" for name in given if name not in known]
    if missing or unknown:
        raise ArgumentsError(", ".join(missing + unknown))


def _observation_of(result: Any) -> Any:
    result = _neutral(result)
    if isinstance(result, list) and not all(isinstance(item, str) for item in result):
        # DSPy formats a list as texts, and raises TypeError if an item is not text.
        return pydantic_core.to_json(sets_as_lists(result), fallback=str).decode()
    return result


def _neutral(result: Any) -> Any:
    """Return a tool's result with all its text neutral, also inside lists and maps.

    DSPy would turn a marker in the text into a content part of the prompt, such as an image that the provider fetches.
    """
    if isinstance(result, str):
        return neutral(result)
    if type(result) in (list, tuple):
        return type(result)(_neutral(item) for item in result)
    if type(result) is dict:
        return {_neutral(key): _neutral(value) for key, value in result.items()}
    return result


def _error_text(error: BaseException) -> str:
    text = " ".join(_HOST_PATH.sub("…", message_of(error)).split())
    return neutral(beginning(text, _MAX_ERROR_CHARACTERS)) or type(error).__name__
