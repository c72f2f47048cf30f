"""The spans of modules and models, compared with what DSPy's own callbacks tell of the same calls."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback
from dspy.utils.callback_context import ACTIVE_CALL_ID
from dspy.utils.usage_tracker import UsageTracker

from erlport_bridge import tracing
from erlport_bridge.programs import pipelines
from erlport_bridge.programs.execution import dspy_context
from erlport_bridge.programs.models.bridge_lm import BridgeLM
from tests.model_server import ModelServer

CALLS = 200
#: A tree: the name of a span, and the trees below it, in the order in which they began.
Tree = tuple[str, tuple[Any, ...]]

assert pipelines.pipeline  # installs the patch


class Asker(dspy.Module):  # type: ignore[misc]
    """Calls its modules at the same time: in tasks and in a thread."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.ChainOfThought("question -> answer")
        self.second = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        """Ask three times."""
        await asyncio.sleep(random.random() / 100)  # noqa: S311
        return (
            await asyncio.gather(
                self.first.acall(question=question),
                self.second.acall(question=question),
                asyncio.to_thread(self.second, question=question),
            )
        )[0]


class Recorder(BaseCallback):  # type: ignore[misc]
    """Records what DSPy tells: of each call its parent and its name."""

    def __init__(self) -> None:
        self.calls: dict[str, tuple[str | None, str]] = {}

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Record a module."""
        cls = type(instance)
        name = cls.__name__ if cls.__module__ == __name__ else f"dspy.{cls.__name__}"
        self.calls[call_id] = ACTIVE_CALL_ID.get(), name

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Record a request to a model."""
        self.calls[call_id] = ACTIVE_CALL_ID.get(), instance.model

    def trees(self) -> list[Tree]:
        """Return the trees of all calls that have no parent."""
        return _trees([(call_id, parent, name) for call_id, (parent, name) in self.calls.items()])


def _trees(calls: list[tuple[str, str | None, str]], parent: str | None = None) -> list[Tree]:
    return sorted((name, tuple(_trees(calls, call_id))) for call_id, above, name in calls if above == parent)


def _recorded_trees(term: dict[str, Any]) -> list[Tree]:
    spans = [span for span in term["spans"] if span["kind"] in ("module", "model")]
    root = next(span["id"] for span in term["spans"] if span["kind"] == "python")
    calls = [(span["id"], span["parent"], span["name"].rpartition(f"{__name__}.")[2]) for span in spans]
    return _trees(calls, root)


def test_spans_have_the_parents_that_dspy_tells_in_200_calls_at_once(model_server: ModelServer) -> None:
    lm = BridgeLM("openai/good", api_base=f"{model_server.url}/v1", api_key="k", num_retries=0)

    async def call(number: int) -> tuple[list[Tree], list[Tree], dict[str, Any]]:
        recorder = Recorder()
        recording = tracing.Recording(tracing.new_trace(), tells="texts")
        with (
            tracing.record(recording, "python", "call"),
            dspy_context(lm, dspy.ChatAdapter(), callbacks=[recorder]),
        ):
            await Asker().acall(question=f"question {number}.")
        term = recording.term()
        return recorder.trees(), _recorded_trees(term), term

    async def calls() -> list[tuple[list[Tree], list[Tree], dict[str, Any]]]:
        limit = asyncio.Semaphore(64)

        async def limited(number: int) -> tuple[list[Tree], list[Tree], dict[str, Any]]:
            async with limit:
                return await call(number)

        return list(await asyncio.gather(*map(limited, range(CALLS))))

    model = ("openai/good", ())
    predict = ("dspy.Predict", (model,))
    expected = [("Asker", (("dspy.ChainOfThought", (predict,)), predict, predict))]
    for number, (told, recorded, term) in enumerate(asyncio.run(calls())):
        assert told == recorded == expected
        # Nothing of another call.
        models = [span for span in term["spans"] if span["kind"] == "model"]
        assert all(f"question {number}." in str(span["attributes"]["messages"]) for span in models)
        assert all(span["status"] == "ok" for span in term["spans"])


class Observing(dspy.Module):  # type: ignore[misc]
    """Runs two modules, and tells what DSPy's context is within each."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.depth = depth
        self.inner = Observing(depth - 1) if depth else dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        """Ask."""
        dspy.settings.seen.append(
            {
                "modules": [type(module).__name__ for module in dspy.settings.caller_modules],
                "tracker": dspy.settings.usage_tracker is not None,
                **{name: value for name, value in dspy.settings.config.items() if name in ("lm", "own")},
            }
        )
        return await self.inner.acall(question=question)


@pytest.mark.parametrize("track_usage", [False, True])
@pytest.mark.parametrize("has_tracker", [False, True])
def test_the_context_within_modules_is_that_of_dspy(track_usage: bool, has_tracker: bool) -> None:
    """With a callback DSPy's own method runs."""
    lm = dspy.utils.DummyLM([{"answer": "So."}] * 4)
    found = []
    for callbacks in ([], [Recorder()]):
        tracker = UsageTracker() if has_tracker else None
        settings = {"lm": lm, "adapter": dspy.ChatAdapter(), "track_usage": track_usage, "usage_tracker": tracker}
        seen: list[Any] = []
        trace: list[Any] = []
        with dspy.context(**settings, seen=seen, own=1, trace=trace, callbacks=callbacks):
            before = dspy.settings.config
            prediction = asyncio.run(Observing().acall(question="Why?"))
            assert dspy.settings.config == before
        modules = [type(module).__name__ for module, *_ in trace]
        found.append((seen, prediction.toDict(), prediction.get_lm_usage(), modules, tracker and tracker.usage_data))
    assert found[0] == found[1]
    assert found[0][0][-1]["modules"] == ["Observing"] * 3


def test_the_context_ends_with_a_module_that_raises() -> None:
    with dspy.context(lm=dspy.utils.DummyLM([]), seen=[]):
        before = dspy.settings.config

        async def failing() -> None:
            with pytest.raises(TypeError):
                await Observing().acall(unknown="Why?")
            assert dspy.settings.config == before

        asyncio.run(failing())
