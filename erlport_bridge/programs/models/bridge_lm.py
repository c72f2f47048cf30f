"""The models of this port: DSPy's, with what DSPy does not do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

import dspy
from dspy.clients.call_context import adapter_fallback_scope
from dspy.clients.execution import aexecute, execute, finalize, prepare
from dspy.lm15 import RegisteredProvider
from dspy.utils.callback import with_callbacks

from erlport_bridge.errors import kind_of
from erlport_bridge.programs.models import content_parts
from erlport_bridge.programs.models.model_account import Asking, current_account
from erlport_bridge.programs.models.rate_limits import ModelLimit
from erlport_bridge.programs.models.response_cache import within_partition
from erlport_bridge.request import current_progress, within
from erlport_bridge.threads import wait_for

_log = logging.getLogger(__name__)

#: The model is not available, or this request is not for it; a request that is wrong is so for the next one too.
_ASKS_NEXT: Final = frozenset(
    {
        *("rate_limit", "timeout", "transport", "server", "auth", "billing", "unsupported_model", "context_window"),
        "lm_not_configured",
    }
)


class BridgeLM(dspy.LM):  # type: ignore[misc]
    """A language model whose requests are the stage ``model``, and end with the request for which they are made.

    Args:
        model: DSPy's name for it.
        shown_name: What callers call it.
        limit: How much may be asked of it.
        partition: Where its answers are cached, if they are.
        declared: The provider of its name, if DSPy knows none.
        carried: What can be sent to it beside text, see :mod:`.content_parts`.
        options: What ``dspy.LM`` takes.
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
            # Its own: DSPy's registry would have every model know it, and would grow with every address and header.
            self._providers = (declared,)
        self.shown_name = shown_name or model
        self.limit = limit
        self.partition = partition
        self.carried = carried
        self._is_told_to_call = False
        self.fallbacks: tuple[BridgeLM, ...] = ()

    def with_fallbacks(self, models: Sequence[BridgeLM]) -> BridgeLM:
        """Give a copy that has these models asked, and theirs, in this order, when it fails."""
        copied = self.copy()
        copied.fallbacks = tuple(one for model in models for one in (model, *model.fallbacks))
        return copied

    def calling_tools(self) -> BridgeLM:
        """Give a copy that is taken to know tools, also where DSPy knows nothing of the model."""
        copied = self.copy()
        copied._is_told_to_call = True
        return copied

    @property
    def supports_function_calling(self) -> bool:
        """Whether tools can go to it as its provider has them."""
        return self._is_told_to_call or bool(super().supports_function_calling)

    def copy(self, **changes: Any) -> BridgeLM:
        """Give a copy with other settings, which its fallbacks have too; it shares the connections."""
        copied: BridgeLM = super().copy(**changes)
        copied.fallbacks = tuple(model.copy(**changes) for model in self.fallbacks)
        return copied

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Ask the model from a thread.

        The loop asks it: what waits for an answer there can be cancelled, a thread that reads from a socket cannot.
        """
        progress = current_progress()
        if progress is not None and threading.get_ident() != progress.thread_id:
            return wait_for(asyncio.run_coroutine_threadsafe(self.acall(*args, **kwargs), progress.loop))
        # Code on the loop that does not await it holds up the loop, as it would anyway.
        with within("model"), adapter_fallback_scope() as shown:
            for model, following in self._in_order():
                try:
                    return model._ask_here(self.shown_name, *args, **kwargs)
                except dspy.LMError as error:
                    model._give_up(error, following, has_told=shown.emitted)
        raise AssertionError("the last model answers or raises")

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Ask the model from a task; if it fails, the next one, unless a reader has seen a part of its answer."""
        with within("model"), adapter_fallback_scope() as shown:
            for model, following in self._in_order():
                try:
                    return await model._ask(self.shown_name, *args, **kwargs)
                except dspy.LMError as error:
                    model._give_up(error, following, has_told=shown.emitted)
        raise AssertionError("the last model answers or raises")

    def _in_order(self) -> Iterator[tuple[BridgeLM, BridgeLM | None]]:
        """Give the models that are asked, each with the one that is asked if it fails."""
        models = (self, *self.fallbacks)
        return zip(models, (*models[1:], None), strict=True)

    def _give_up(self, error: dspy.LMError, following: BridgeLM | None, *, has_told: bool) -> None:
        """Note that the next model is asked; raises the error again if there is none, or if it would not help."""
        if following is None or has_told or kind_of(error) not in _ASKS_NEXT:
            raise error
        current_account().add_failure(self.shown_name, error)
        _log.warning("model %s failed (%s), asking %s", self.shown_name, kind_of(error), following.shown_name)

    @with_callbacks  # type: ignore[untyped-decorator]
    async def _ask(self, asked: str, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Do as ``dspy.BaseLM.acall`` does, and keep account of the result, which that keeps to itself."""
        with Asking(asked, self.shown_name, is_limited=self.limit is not None) as asking:
            if self.limit is None:
                call, result = await self._answer(prompt, messages, kwargs)
            else:
                async with self.limit.passed():
                    asking.passed_limit()
                    call, result = await self._answer(prompt, messages, kwargs)
            asking.answered(result)
        return finalize(self, call, result)

    async def _answer(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        with within_partition(self.partition):
            messages = self._checked(messages)
            call = await asyncio.to_thread(prepare, self, prompt, messages, kwargs, asynchronous=True)
            return call, await aexecute(self, call)

    @with_callbacks  # type: ignore[untyped-decorator]
    def _ask_here(self, asked: str, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Do as ``dspy.BaseLM.__call__`` does, and keep account."""
        passed = contextlib.nullcontext() if self.limit is None else self.limit.passed_at_once(self.shown_name)
        with Asking(asked, self.shown_name) as asking, passed, within_partition(self.partition):
            call = prepare(self, prompt, self._checked(messages), kwargs)
            result = execute(self, call)
            asking.answered(result)
        return finalize(self, call, result)

    def _checked(self, messages: Any) -> Any:
        return messages and content_parts.checked(messages, self.carried, self.shown_name)
