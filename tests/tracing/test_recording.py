"""The spans of a recording: parents under concurrency, limits, and ends."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from erlport_bridge import tracing
from erlport_bridge.errors import OperationError
from erlport_bridge.redaction import remember_secret
from erlport_bridge.tracing import recording as recording_module
from erlport_bridge.tracing import texts

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def recording() -> tracing.Recording:
    return tracing.Recording(tracing.new_trace())


def named(terms: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {term["name"]: term for term in terms}


def test_span_lies_below_the_span_around_it() -> None:
    found = tracing.read_traceparent(CALLER)
    assert found is not None
    recorded = tracing.Recording(found)
    with tracing.record(recorded, "python", "call"), tracing.span("module", "outer"):
        with tracing.span("model", "one", model="m"):
            pass
        with tracing.span("model", "two"):
            pass
    spans = named(recorded.term()["spans"])
    assert recorded.term()["id"] == found.trace_id
    assert spans["call"]["parent"] == found.span_id
    assert spans["outer"]["parent"] == spans["call"]["id"]
    assert spans["one"]["parent"] == spans["two"]["parent"] == spans["outer"]["id"]
    assert spans["one"]["attributes"] == {"model": "m"}


def test_nothing_is_recorded_outside_of_a_recording() -> None:
    with tracing.span("module", "x") as span, tracing.labelled(stage="s"):
        assert span is None
        assert tracing.current() is None
    with tracing.record(recording(), "python", "call"):
        pass
    assert tracing.here() is None


def test_two_hundred_calls_at_once_never_mix_parents() -> None:
    async def call(number: int) -> dict[str, Any]:
        recorded = recording()
        with tracing.record(recorded, "python", f"call {number}"):
            await asyncio.gather(*(module(number, part) for part in range(3)))
        return recorded.term()

    async def module(number: int, part: int) -> None:
        with tracing.span("module", f"module {number}.{part}"):
            await asyncio.sleep(0)
            await asyncio.gather(asyncio.to_thread(tool, number, part), model(number, part))

    async def model(number: int, part: int) -> None:
        with tracing.span("model", f"model {number}.{part}"):
            await asyncio.sleep(0.001)

    def tool(number: int, part: int) -> None:
        with tracing.span("tool", f"tool {number}.{part}"):
            pass

    async def calls() -> list[dict[str, Any]]:
        return await asyncio.gather(*map(call, range(200)))

    for number, term in enumerate(asyncio.run(calls())):
        spans = named(term["spans"])
        assert len(spans) == 10
        for part in range(3):
            module_span = spans[f"module {number}.{part}"]
            assert module_span["parent"] == spans[f"call {number}"]["id"]
            for kind in ("model", "tool"):
                assert spans[f"{kind} {number}.{part}"]["parent"] == module_span["id"]


def test_place_is_carried_to_a_thread_by_hand() -> None:
    recorded = recording()
    with tracing.record(recorded, "python", "call"):
        place = tracing.here()
        context = contextvars.Context()
        context.run(tracing.enter, place)
        with ThreadPoolExecutor(1) as threads:
            threads.submit(context.run, _in_thread).result()
    spans = named(recorded.term()["spans"])
    assert spans["in thread"]["parent"] == spans["call"]["id"]


def _in_thread() -> None:
    with tracing.span("tool", "in thread"):
        pass


def test_error_has_its_kind_and_what_has_not_ended_is_cancelled() -> None:
    recorded = recording()

    def call() -> None:
        with tracing.record(recorded, "python", "call"):
            tracing.span("module", "open").__enter__()
            with pytest.raises(asyncio.CancelledError), tracing.span("model", "cancelled"):
                raise asyncio.CancelledError
            raise OperationError("sandbox", "no")

    with pytest.raises(OperationError):
        call()
    spans = named(recorded.take())
    assert (spans["call"]["status"], spans["call"]["error"]) == ("error", {"kind": "sandbox", "message": "no"})
    assert spans["cancelled"]["status"] == spans["open"]["status"] == "cancelled"
    assert recorded.take() == []


def test_labels_are_attributes_of_all_spans_below() -> None:
    recorded = recording()
    with tracing.record(recorded, "python", "call"):
        with tracing.labelled(stage="search"), tracing.span("module", "m"), tracing.span("model", "n"):
            pass
        with tracing.span("module", "o"):
            pass
    spans = named(recorded.take())
    assert [spans[name]["attributes"].get("stage") for name in ("m", "n", "o")] == ["search", "search", None]


def test_spans_beyond_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording_module, "MAX_SPANS", 5)
    recorded = recording()
    with tracing.record(recorded, "python", "call"):
        part = recorded.part(tracing.current())
        with tracing.record(part, "item", "item"):
            for number in range(6):
                with tracing.span("model", str(number)):
                    pass
    assert len(recorded.take()) == 1
    # With the span around it.
    term = part.term()
    assert (len(term["spans"]), term["dropped"]) == (5, 3)


def test_part_has_the_span_around_it_which_goes_on() -> None:
    recorded = recording()
    with tracing.record(recorded, "python", "call"):
        part = recorded.part(tracing.current())
        with tracing.record(part, "item", "item"), tracing.span("module", "m"):
            pass
        call, item, module = part.term()["spans"]
    assert [call["status"], item["parent"], module["parent"]] == ["ok", call["id"], item["id"]]
    (whole,) = recorded.take()
    assert whole["id"] == call["id"]
    assert whole["duration_us"] >= call["duration_us"]


def test_texts_are_kept_without_keys_and_within_limits() -> None:
    remember_secret("sk-trace-secret-0123")
    kept = texts.Texts()
    assert kept.keep("key sk-trace-secret-0123!") == "key [redacted]!"
    long = kept.keep("x" * (texts.MAX_CHARACTERS + 5))
    assert long.endswith("… (5 characters more)")
    loop: list[Any] = []
    loop.append(loop)
    for value in ({"a": b"\xff", 1: {2}}, [object()], loop, list(range(10**6)), "\ud800", float("nan")):
        assert isinstance(kept.keep(value), str)
        assert len(kept.keep(value)) < 2 * texts.MAX_CHARACTERS
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "plain"]
    assert kept.keep_messages(messages) == [{"role": "user", "content": "a\nb"}, {"role": "user", "content": "plain"}]


def test_texts_and_messages_of_errors_are_left_out_if_the_application_redacts() -> None:
    recorded = tracing.Recording(tracing.new_trace(), tells="texts", is_redacted=True)
    with tracing.record(recorded, "python", "call"), tracing.span("tool", "stock") as tool:
        assert tool is not None
        tool.keep(arguments={"article": "nut"})
        tool.failed("tool", "closed for nut")
    spans = named(recorded.take())
    assert spans["stock"]["error"] == {"kind": "tool", "message": "[redacted]"}
    assert spans["stock"]["attributes"] == {}


def test_answer_has_texts_only_if_it_wants_them() -> None:
    for tells, kept in (("texts", {"stage": "s", "code": "1"}), ("spans", {"stage": "s"})):
        recorded = tracing.Recording(tracing.new_trace(), tells=tells)  # type: ignore[arg-type]
        with tracing.record(recorded, "sandbox", "python") as span:
            span.set(stage="s", code="1")
        assert recorded.take()[0]["attributes"] == kept


def test_span_that_begins_after_the_end_of_its_recording_is_not_recorded() -> None:
    recorded = recording()
    with tracing.record(recorded, "python", "call"):
        place = tracing.here()
        part = recorded.part(tracing.current())
    recorded.close()
    tracing.enter(place)
    with tracing.span("tool", "late"), tracing.record(part, "item", "late"):
        pass
    tracing.enter(None)
    assert [span["name"] for span in recorded.take()] == ["call"]


def test_texts_end_when_the_call_has_enough_of_them() -> None:
    kept = texts.Texts()
    full = texts.MAX_TOTAL // texts.MAX_CHARACTERS
    assert all(kept.keep("x" * texts.MAX_CHARACTERS) for _ in range(full))
    assert kept.keep("more") is None
    assert kept.keep_messages([{"role": "user", "content": "more"}]) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forks_have_other_ids() -> None:
    """Workers of a pool are forks of one process, and their spans are joined in one trace."""
    code = """
import os
from erlport_bridge.tracing import new_trace
if os.fork() == 0:
    print(new_trace().trace_id, flush=True)
    os._exit(0)
os.wait()
print(new_trace().trace_id)
"""
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len(set(lines)) == 2


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00-0-0-0",
        CALLER + "-more",
        CALLER.upper(),
        CALLER.replace("00-", "ff-", 1),
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
    ],
)
def test_malformed_traceparent_counts_as_none(header: str) -> None:
    assert tracing.read_traceparent(header) is None


def test_later_version_of_traceparent_may_have_more() -> None:
    found = tracing.read_traceparent(CALLER.replace("00-", "01-", 1) + "-more")
    assert found is not None
    assert found.header() == CALLER
