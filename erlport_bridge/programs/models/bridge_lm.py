"""A DSPy language model with fallback models, rate limits, a partitioned cache, cancellation and an account."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import dspy
from dspy.clients import call_context
from dspy.clients.execution import IGNORED_CACHE_KEYS, aexecute, execute, finalize, prepare
from dspy.lm15 import RegisteredProvider
from dspy.utils.callback import with_callbacks

from erlport_bridge import dspy_patches
from erlport_bridge.errors import OperationError, kind_of
from erlport_bridge.programs.models import (
    budgets,
    content_parts,
    endings,
    kept_answers,
    litellm_engines,
    native_engines,
    request_retries,
)
from erlport_bridge.programs.models.api_keys import KeySource
from erlport_bridge.programs.models.history import Recording
from erlport_bridge.programs.models.model_account import ModelRequest, current_account
from erlport_bridge.programs.models.rate_limits import ModelLimit
from erlport_bridge.programs.models.response_cache import within_partition
from erlport_bridge.request import asking, current_progress, weight, within
from erlport_bridge.threads import wait_for

_log = logging.getLogger(__name__)

dspy_patches.provide("native_engines", native_engines.REPLACEMENTS)
dspy_patches.provide("litellm_engines", litellm_engines.REPLACEMENTS)
dspy_patches.provide("request_retries", request_retries.within_deadline)

#: Kinds of errors after which the fallback model is asked: the model is unavailable, or cannot take this request. A
#: request that is invalid would fail with the fallback model too.
_FALLBACK_KINDS: Final = frozenset(
    {
        *("rate_limit", "timeout", "transport", "server", "auth", "billing", "unsupported_model", "context_window"),
        *("lm_not_configured", "missing_dependency"),
    }
)


class BridgeLM(dspy.LM):  # type: ignore[misc]
    """A language model whose requests run in the stage ``model`` and are cancelled with the call that makes them.

    Args:
        model: DSPy's name of the model.
        shown_name: The name of the model for callers.
        limit: The limit on requests to the model.
        partition: The partition of the response cache; ``None``: answers are not cached.
        declared: The provider in ``model``, if DSPy does not know it.
        carried: The kinds of content that can be sent to the model beside text, see :mod:`.content_parts`.
        options: Parameters of ``dspy.LM``.
    """

    def __init__(
        self,
        model: str,
        *,
        shown_name: str | None = None,
        limit: ModelLimit | None = None,
        partition: str | None = None,
        declared: RegisteredProvider | None = None,
        carried: frozenset[str] = content_parts.TEXT_ALONE,
        **options: Any,
    ) -> None:
        super().__init__(model, cache=partition is not None, **options)
        if declared is not None:
            # For this model only: all models share DSPy's registry, which would grow with every address and header.
            self._providers = (declared,)
        self.shown_name = shown_name or model
        self.limit = limit
        self.partition = partition
        self.carried = carried
        self._calls_tools = False
        self._is_local = not isinstance(options.get("engine", "auto"), str)
        self.fallbacks: tuple[BridgeLM, ...] = ()
        self._key_function: tuple[KeySource, Callable[[str], BridgeLM]] | None = None

    def with_fallbacks(self, models: Sequence[BridgeLM]) -> BridgeLM:
        """Return a copy with these fallback models, each followed by its own fallback models."""
        copied = self.copy()
        copied.fallbacks = tuple(fallback for model in models for fallback in (model, *model.fallbacks))
        return copied

    def with_key_function(self, key_function: KeySource, with_key: Callable[[str], BridgeLM]) -> BridgeLM:
        """Return a copy whose requests each read their API key.

        Args:
            key_function: The function of Elixir that returns the key.
            with_key: Returns the model that is configured with a key: the owner of its connections, limit and cache.
        """
        copied = self.copy()
        copied._key_function = (key_function, with_key)
        return copied

    def calling_tools(self) -> BridgeLM:
        """Return a copy that counts as capable of native tool calls, even if DSPy does not know the model."""
        copied = self.copy()
        copied._calls_tools = True
        return copied

    @property
    def supports_function_calling(self) -> bool:
        """Whether the model takes tools in its provider's native form."""
        return self._calls_tools or bool(super().supports_function_calling)

    def copy(self, **changes: Any) -> BridgeLM:
        """Return a copy with other settings, also for the fallback models; the copy shares the connections."""
        copied: BridgeLM = super().copy(**changes)
        copied.fallbacks = tuple(model.copy(**changes) for model in self.fallbacks)
        return copied

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request from a thread, and return the answer.

        The request runs on the event loop, where it can be cancelled; a thread that reads from a socket cannot.
        """
        progress = current_progress()
        if progress is not None and threading.get_ident() != progress.thread_id:
            return wait_for(asyncio.run_coroutine_threadsafe(self.acall(*args, **kwargs), progress.loop))
        # Sync code on the event loop blocks the loop, whatever happens here.
        with within("model"), call_context.adapter_fallback_scope() as shown:
            for model, following in self._with_followers():
                try:
                    return model._with_current_key_sync()._request_sync(self.shown_name, *args, **kwargs)
                except dspy.LMError as error:
                    model._fall_back(error, following, has_streamed=shown.emitted)
        raise AssertionError("the last model answers or raises")

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request from a task, and return the answer.

        If the model fails, the next fallback model is asked, unless a part of the answer has already been streamed.
        """
        with within("model"), call_context.adapter_fallback_scope() as shown:
            for model, following in self._with_followers():
                try:
                    keyed = await model._with_current_key()
                    return await keyed._request(self.shown_name, *args, **kwargs)
                except dspy.LMError as error:
                    model._fall_back(error, following, has_streamed=shown.emitted)
        raise AssertionError("the last model answers or raises")

    def _with_followers(self) -> Iterator[tuple[BridgeLM, BridgeLM | None]]:
        """Return the model and its fallback models, each paired with the next model to ask if it fails."""
        models = (self, *self.fallbacks)
        return zip(models, (*models[1:], None), strict=True)

    async def _with_current_key(self) -> BridgeLM:
        """Return the model with the key that its function returns now."""
        if self._key_function is None:
            return self
        key_function, with_key = self._key_function
        return self._keyed(with_key(await key_function.read()))

    def _with_current_key_sync(self) -> BridgeLM:
        if self._key_function is None:
            return self
        key_function, with_key = self._key_function
        return self._keyed(with_key(key_function.read_sync()))

    def _keyed(self, configured: BridgeLM) -> BridgeLM:
        """Return a copy with the key, connections, limit and cached answers of a configured model."""
        copied: BridgeLM = super().copy(api_key=configured.kwargs["api_key"])
        copied._key_function = None
        copied.limit, copied.partition = configured.limit, configured.partition
        copied._engine_store, copied._engine_lock = configured._engine_store, configured._engine_lock
        return copied

    def _fall_back(self, error: dspy.LMError, following: BridgeLM | None, *, has_streamed: bool) -> None:
        """Record the failure; raise the error again if there is no next model, or if the next would not help."""
        self._name_in(error)
        if (progress := current_progress()) is not None:
            progress.failure = error
        if following is None or has_streamed or kind_of(error) not in _FALLBACK_KINDS:
            raise error
        current_account().add_failure(self.shown_name, error)
        _log.warning("model %s failed (%s), asking %s", self.shown_name, kind_of(error), following.shown_name)

    def _name_in(self, error: dspy.LMError) -> None:
        """Name the model in its error as the caller does; DSPy asks some providers under the name of another one."""
        if error.model != self.model or self.model == self.shown_name:
            return
        error.model = self.shown_name
        error.args = tuple(
            f"[{self.shown_name}]{text[len(self.model) + 2 :]}"
            if isinstance(text, str) and text.startswith(f"[{self.model}]")
            else text
            for text in error.args
        )

    @with_callbacks  # type: ignore[untyped-decorator]
    async def _request(self, asked: str, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Run the steps of ``dspy.BaseLM.acall``, and count the result, which that method does not expose."""
        counted = ModelRequest(
            asked,
            self.shown_name,
            is_limited=self.limit is not None,
            is_local=self._is_local,
            sent=messages or prompt,
        )
        # The recording within the span, which gets the texts that it has redacted.
        with counted:
            async with Recording(asked, self.shown_name) as recorded:
                if self.limit is None:
                    call, result = await self._answer(counted, recorded, prompt, messages, kwargs)
                else:
                    async with self.limit.passed():
                        counted.passed_limit()
                        call, result = await self._answer(counted, recorded, prompt, messages, kwargs)
                counted.answered(result)
                recorded.answered(result)
        await budgets.add(counted.paid())
        return self._outputs(call, result)

    async def _answer(
        self, counted: ModelRequest, recorded: Recording, prompt: Any, messages: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, Any]:
        with within_partition(self.partition):
            messages = await weight.aside(self._checked, messages)
            call = await weight.to_thread(prepare, self, prompt, messages, kwargs, asynchronous=True)
            try:
                await dspy_patches.make_request(self, call)
                if (kept := kept_answers.current()) is not None:
                    return call, await self._kept_or_asked(kept, counted, recorded, call)
                return call, await self._asked(counted, recorded, call)
            except (TypeError, ValueError) as error:
                raise self._refused(error) from error
            except dspy.LMUnexpectedError as error:
                # The time was over while a large request was made; DSPy takes that for a fault of its engine.
                if isinstance(error.__cause__, weight.LateError):
                    raise error.__cause__ from None
                raise

    async def _asked(self, counted: ModelRequest, recorded: Recording, call: Any) -> Any:
        await budgets.check(partial(weight.to_thread, self._is_cached, call, is_async=True))
        asking.note()
        counted.is_sent()
        recorded.sent(call)
        return await aexecute(self, call)

    async def _kept_or_asked(
        self, kept: kept_answers.KeptAnswers, counted: ModelRequest, recorded: Recording, call: Any
    ) -> Any:
        place = await kept.place(self.shown_name, call, self)
        result = await kept.find(place)
        if result is None:
            result = await self._asked(counted, recorded, call)
            await kept.keep(place, result)
        return result

    @with_callbacks  # type: ignore[untyped-decorator]
    def _request_sync(self, asked: str, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Run the steps of ``dspy.BaseLM.__call__``, and count the result."""
        passed = contextlib.nullcontext() if self.limit is None else self.limit.passed_at_once(self.shown_name)
        counted = ModelRequest(asked, self.shown_name, is_local=self._is_local, sent=messages or prompt)
        recorded = Recording(asked, self.shown_name)
        with recorded, counted, passed, within_partition(self.partition):
            call = prepare(self, prompt, self._checked(messages), kwargs)
            try:
                budgets.check_in_thread(partial(self._is_cached, call, is_async=False))
                asking.note()
                counted.is_sent()
                recorded.sent(call)
                result = execute(self, call)
            except (TypeError, ValueError) as error:
                raise self._refused(error) from error
            counted.answered(result)
            recorded.answered(result)
        budgets.add_in_thread(counted.paid())
        return self._outputs(call, result)

    def _is_cached(self, call: Any, *, is_async: bool) -> bool:
        return call.cache and dspy.cache.get(call.key(self, is_async), IGNORED_CACHE_KEYS) is not None

    def _outputs(self, call: Any, result: Any) -> Any:
        if (progress := current_progress()) is not None:
            progress.failure = None
        outputs = finalize(self, call, result)
        found = endings.endings_of(result, self.shown_name)
        if found:
            current_account().add_warnings(map(str, found))
            endings.note(found)
        return outputs

    def _refused(self, error: Exception) -> OperationError:
        """Word an error of DSPy about settings that no request can hold; a client's errors are those of DSPy."""
        return OperationError("input", f"{self.shown_name} cannot take this request: {error}")

    def _checked(self, messages: Any) -> Any:
        return messages and content_parts.checked(messages, self.carried, self.shown_name)
