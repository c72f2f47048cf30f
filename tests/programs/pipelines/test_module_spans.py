"""The spans of modules and models, compared with what DSPy's own callbacks tell of the same calls."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback
from dspy.utils.callback_context import ACTIVE_CALL_ID

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
