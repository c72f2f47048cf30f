"""Every patch of the table: installed with the DSPy of this environment, and left out if DSPy differs."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Literal

import dspy
import pytest
from dspy import lm15
from dspy._vendor.lm15 import result
from dspy._vendor.lm15.providers import async_base, base, openai, openai_chat
from dspy._vendor.lm15.transports import TransportResponse, _async, _sync
from dspy.adapters import json_adapter, utils
from dspy.clients import call_result, capabilities, costs, execution
from dspy.predict import predict
from dspy.propose import grounded_proposer
from dspy.teleprompt import simba_utils
from dspy.utils import callback

from erlport_bridge import dspy_patches
from erlport_bridge.dspy_patches.guards import Place
from erlport_bridge.dspy_patches.installing import seam
from erlport_bridge.dspy_patches.patch import Patch
from erlport_bridge.dspy_patches.table import PATCHES
from erlport_bridge.errors import OperationError
from erlport_bridge.operations import OPERATIONS
from erlport_bridge.programs.models import content_parts, providers, response_cache
from erlport_bridge.programs.models.adapters import AdapterChoice
from erlport_bridge.programs.pipelines import read_stages
from erlport_bridge.programs.sandbox import facade
from erlport_bridge.programs.signatures import parse_signature
from erlport_bridge.request import weight

ADAPTERS = (dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter())
MODELS_OF_PREDICTORS = [
    {"name": "x", "module": "dspy.ChainOfThought", "signature": "a -> b", "lms": {"predict": "embedded"}}
]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


class Scored(dspy.Signature):  # type: ignore[misc]
    """Answer."""

    question: str = dspy.InputField(desc="what is asked")
    level: Literal["low", "high"] = dspy.InputField()
    answer: str = dspy.OutputField(min_length=1)
    score: float = dspy.OutputField()


class Recorder(callback.BaseCallback):  # type: ignore[misc]
    """A callback that records its calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Record the arguments of a tool."""
        self.calls.append(inputs)

    def on_tool_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        """Record the result of a tool."""
        self.calls.append((outputs, exception))


def _read_and_written() -> Any:
    read = utils.parse_value("7", int), utils.parse_value('["1", 2]', list[int]), utils.parse_value(None, int | None)
    return read, utils.serialize_for_json({"a": [1, 2.5]})


def _read_answer() -> Any:
    return dspy.JSONAdapter().parse(Scored, '{"answer": "7.10", "score": 0.5}')


def _read_in_two_steps() -> Any:
    model = dspy.utils.DummyLM([{"answer": "7.10", "score": "0.5"}])
    return dspy.TwoStepAdapter(model).parse(Scored, "It is 7.10, half sure.")


def _recorded_tool_call() -> Any:
    recorder = Recorder()
    with dspy.context(callbacks=[recorder]):
        dspy.Tool(_doubled)(number=2)
    return recorder.calls


def _doubled(number: int) -> int:
    return 2 * number


class Doubling(dspy.Module):  # type: ignore[misc]
    """A module without a model."""

    def forward(self, number: int) -> Any:
        """Double the number."""
        return dspy.Prediction(number=2 * number)

    async def aforward(self, number: int) -> Any:
        """Double the number."""
        return self.forward(number)


def _called_modules() -> Any:
    return Doubling()(number=2).toDict(), asyncio.run(Doubling().acall(number=3)).toDict()


def _asked_predictor() -> Any:
    with dspy.context(lm=dspy.utils.DummyLM([{"answer": "So.", "score": "0.5"}]), adapter=dspy.ChatAdapter()):
        return asyncio.run(dspy.Predict(Scored).acall(question="Why?", level="low")).toDict()


def _values_of_a_request() -> Any:
    usage = lm15.Usage(input_tokens=1, output_tokens=2)
    answer = lm15.Response(None, "m", lm15.Message.assistant("So."), "stop", usage)
    return repr(lm15.Request("m", (lm15.Message.user("Why?"),), "Answer.")), repr(answer)


def _read_response() -> Any:
    usage = lm15.Usage(input_tokens=1, output_tokens=2)
    response = lm15.Response(None, "m", lm15.Message.assistant("So."), "stop", usage)
    return call_result.legacy_output(response), call_result.usage_dict(response), execution.usage_dict(response, "xai")


def _metadata_of_models() -> Any:
    models = ("gpt-4o-mini", "no-such-model")
    return [user.model_info("openai", model) for user in (capabilities, costs) for model in models]


def _repetitions() -> Any:
    errors = [dspy.LMServerError("no"), dspy.LMRateLimitError("no", retry_after=3_600.0), dspy.LMAuthError("no")]
    return [execution._retryable(execution._Attempt(), error, attempt, 1) for error in errors for attempt in (0, 1)]


def _request_of_a_large_prompt() -> Any:
    def requested() -> list[str]:
        weight.weigh("x" * 100_000)
        call = execution.prepare(dspy.LM("openai/m", api_key="k"), None, [{"role": "user", "content": "x"}], {})
        # Twice, as DSPy asks for it.
        return [repr(execution._canonical(call)) for _ in range(2)]

    return contextvars.copy_context().run(requested)


def _worded_turns(adapter: dspy.Adapter) -> Any:
    turns = [{"question": "Why?", "answer": "So.", "score": 0.5}]
    return adapter.format_conversation_history(Scored, "history", {"history": dspy.History(messages=turns)})


def _response(chunks: list[bytes]) -> Any:
    return TransportResponse(
        status=200, reason="OK", headers=[], http_version="1.1", chunks=iter(chunks), release=lambda _: None
    )


def _heads_and_staleness() -> list[Any]:
    """Return the head of a reply as both clients read it, and whether a new connection is stale."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def read() -> list[Any]:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            connection = _async._AsyncConnection(("http", "host", 80), reader, writer)
            peer, _ = listener.accept()
            with peer:
                states = [connection.is_stale()]
                peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                head = await _async.StdlibAsyncTransport()._read_head(connection, read_timeout=60)
                writer.close()
            return [*states, head.status]

        heads = asyncio.run(read())
        with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as peer:
            peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            connection = _sync._SyncConnection(("http", "host", 80), client)
            return [*heads, _sync.StdlibTransport()._read_head(connection, read_timeout=60).status]


async def _events_of_lines() -> list[Any]:
    lines = [b"event: a\n", b"data: 1\n", b"\n", b"data: 2\n", b"\n"]

    async def arriving() -> Any:
        for line in lines:
            yield line

    return [*base.parse_sse(iter(lines)), *[event async for event in async_base.aparse_sse(arriving())]]


def _arguments_of_litellm() -> list[Any]:
    lm = dspy.LM("openai/m", api_key="k")
    request = execution._canonical(execution.prepare(lm, "x", None, {"temperature": 0.5}))
    engines = (execution.LiteLLMEngine, execution.AsyncLiteLLMEngine)
    return [engine(api_key="k", api_base="http://host/v1")._arguments(request) for engine in engines]


#: Results that DSPy's own code gives too, without the patch.
PLAIN: dict[str, Callable[[], Any]] = {
    "type_adapters": _read_and_written,
    "set_order": lambda: [utils.serialize_for_json(value) for value in ({1}, [{"a": {2}}], "x")],
    "signature_fields": lambda: (Scored.input_fields, list(Scored.output_fields), Scored.signature),
    "system_message": lambda: [adapter.format_system_message(Scored) for adapter in ADAPTERS],
    "decision_outputs": lambda: type(predict.resolve_adapter(None, ADAPTERS[0], Scored, {})),
    "text_requests": lambda: repr(
        execution._canonical(execution.prepare(dspy.LM("openai/m", api_key="k"), "x", None, {}))
    ),
    "encodable_texts": lambda: execution._check_encodable([{"role": "user", "content": "x"}], "messages"),
    "value_checks": _values_of_a_request,
    "scopes": _asked_predictor,
    "settings_lookup": lambda: [dspy.settings.get(name, 1) for name in ("callbacks", "no_such_setting")],
    "single_completion": _asked_predictor,
    "text_answers": _read_response,
    "predictor_attributes": lambda: [list(dspy.Predict(Scored).demos), hasattr(dspy.Predict(Scored), "missing")],
    "predictor_calls": _asked_predictor,
    "type_schema": lambda: utils._get_json_schema(dict[str, Literal["low", "high"] | list[int]]),
    "strict_schemas": lambda: json_adapter._get_structured_outputs_response_format(Scored).model_json_schema(),
    "large_requests": _request_of_a_large_prompt,
    "model_lookup": _metadata_of_models,
    "callback_choice": _recorded_tool_call,
    "callback_arguments": _recorded_tool_call,
    "answers": _read_answer,
    "two_step_reader": _read_in_two_steps,
    "litellm_engines": _arguments_of_litellm,
    "request_retries": _repetitions,
    "module_spans": _called_modules,
    "earlier_turns": lambda: [_worded_turns(adapter) for adapter in ADAPTERS],
    "reply_limit": lambda: _response([b"one", b"", b"two"]).read(),
    "large_events": lambda: asyncio.run(_events_of_lines()),
    "connections": _heads_and_staleness,
    "call_arguments": lambda: [
        read('{"a": [1]}')
        for read in (openai.parse_json_object, openai_chat.parse_json_object, result._parse_json_best_effort)
    ],
    "program_source": lambda: grounded_proposer.get_dspy_source_code(dspy.ReAct(Scored, tools=[_doubled])),
    "class_source": lambda: simba_utils.inspect.getsource(dspy.ReAct),
}
#: Calls that are refused without the patch.
REFUSED: dict[str, Callable[[], Any]] = {
    "native_response_types": lambda: AdapterChoice().check(parse_signature("text -> quotes: dspy.Citations")),
    "content_markers": lambda: content_parts.checked([{"role": "user", "content": [IMAGE]}], content_parts.CHAT, "m"),
    "native_engines": lambda: providers.api_base(
        "http://me:secret@host", providers.PROVIDERS["openai"], "openai", "config"
    ),
    "response_cache": lambda: response_cache.partition_of("a model"),
    "sandbox_signature": lambda: facade.check_tools({"__dspy_construct__": _doubled}),
    "sandbox_inputs": lambda: facade.check_tools({"__dspy_construct__": _doubled}),
    # test_without_patches.py tests a whole compilation.
    "predictor_models": lambda: read_stages(MODELS_OF_PREDICTORS, None),
    "optimizer_threads": lambda: dspy_patches.require("optimizer_threads", "optimizers"),
}

each_patch = pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)


@pytest.fixture
def plain_dspy(patch: Patch, monkeypatch: pytest.MonkeyPatch) -> Patch:
    """Undo one patch, which then counts as not yet tried, and return it."""
    for target, original in seam.originals[patch.name].items():
        place = Place(target)
        monkeypatch.setattr(place.owner, place.attribute, original)
    monkeypatch.delitem(seam.originals, patch.name)
    monkeypatch.setattr(seam, "reasons", {})
    return patch


def install(patch: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a patch, whichever package has its replacement."""
    monkeypatch.setitem(seam.patches, patch.name, patch)
    seam.install()
    if None in patch.targets.values():
        seam.provide(patch.name, _must_not_be_called)


def _must_not_be_called(original: Any) -> Any:
    raise AssertionError("nothing is replaced that is not as expected")


def answered_by_ping() -> dict[str, Any]:
    answer: Any = OPERATIONS["ping"]()
    return dict(answer[1])


def values(patch: Patch) -> list[Any]:
    return [Place(target).value() for target in patch.targets]


def test_each_patch_is_compared_with_the_plain_way_or_refused() -> None:
    assert sorted([*PLAIN, *REFUSED]) == sorted(patch.name for patch in PATCHES)


def test_no_patch_expects_what_another_one_replaces() -> None:
    """Otherwise the order of the patches would matter."""
    for patch in PATCHES:
        others = {target for other in PATCHES if other is not patch for target in other.targets}
        assert not others & set(patch.expects)


@each_patch
def test_a_patch_says_what_it_is_for_and_is_installed(patch: Patch) -> None:
    assert all((patch.why, patch.since, patch.until, patch.without))
    assert dspy_patches.left_out() == []
    originals = seam.originals[patch.name]
    assert list(originals) == list(patch.targets)
    for value, original in zip(values(patch), originals.values(), strict=True):
        assert value is not original
    dspy_patches.require(patch.name, "its features")


@each_patch
def test_a_patch_is_installed_once(patch: Patch) -> None:
    before = values(patch)
    seam.install()
    if None in patch.targets.values():
        seam.provide(patch.name, _must_not_be_called)
    # Equal functions are the same ones; a bound method is made anew each time that it is read.
    assert all(value == other for value, other in zip(values(patch), before, strict=True))


@each_patch
@pytest.mark.parametrize("changed", ["source", "target"])
def test_a_patch_is_left_out_where_dspy_differs(
    patch: Patch,
    changed: str,
    plain_dspy: Patch,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if changed == "source":
        name = list(patch.expects)[-1]
        patch = patch._replace(expects={**patch.expects, name: ("of another version",)})
    else:
        name = next(iter(patch.expects))
        place = Place(name)
        monkeypatch.setattr(place.owner, place.attribute, _another(place.value()))
    before = values(patch)
    with caplog.at_level(logging.WARNING):
        install(patch, monkeypatch)
        install(patch, monkeypatch)
    # Equal functions are the same ones; a bound method is made anew each time that it is read.
    assert all(value == other for value, other in zip(values(patch), before, strict=True))
    (line,) = dspy_patches.left_out()
    assert line.startswith(f"{patch.name}: {name} is not the one that is known here")
    assert line.endswith(f"; {patch.without}")
    (record,) = caplog.records
    assert record.getMessage() == f"DSPy {dspy.__version__}: left out the patch {line}"
    assert answered_by_ping()["dspy_patches_left_out"] == [line]


def _another(value: Any) -> Any:
    if isinstance(value, type):
        return type("Another", (value,), {})
    if callable(value):
        return functools.wraps(value)(lambda *args, **kwargs: value(*args, **kwargs))
    return f"another {value}"


@pytest.mark.parametrize("patch", [patch for patch in PATCHES if patch.name in PLAIN], ids=lambda patch: patch.name)
def test_dspy_without_the_patch_gives_the_same(
    patch: Patch, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    patched = PLAIN[patch.name]()
    request.getfixturevalue("plain_dspy")
    if patch.name == "program_source" and sys.version_info >= (3, 14):
        # DSPy looks for the name of a signature where it writes none with this Python.
        with pytest.raises(TypeError, match="not subscriptable"):
            PLAIN[patch.name]()
        return
    assert PLAIN[patch.name]() == patched


@pytest.mark.parametrize("patch", [patch for patch in PATCHES if patch.name in REFUSED], ids=lambda patch: patch.name)
def test_what_would_be_wrong_without_a_patch_is_refused(
    patch: Patch, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    REFUSED[patch.name]()
    request.getfixturevalue("plain_dspy")
    name = next(iter(patch.expects))
    install(patch._replace(expects={name: ("of another version",)}), monkeypatch)
    with pytest.raises(OperationError) as raised:
        REFUSED[patch.name]()
    assert raised.value.kind == "missing_dependency"
    message = f"are refused: the patch {patch.name} does not fit DSPy {dspy.__version__}: {name} is not the one that"
    assert message in str(raised.value)


def test_text_goes_to_a_model_without_the_markers_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(seam.originals, "content_markers")
    messages = [{"role": "user", "content": "text"}, {"role": "user", "content": [{"type": "text", "text": "more"}]}]
    assert content_parts.checked(messages, content_parts.TEXT_ALONE, "m") == messages


def test_ping_has_no_line_where_everything_fits() -> None:
    assert "dspy_patches_left_out" not in answered_by_ping()


def test_the_command_says_that_everything_fits() -> None:
    """``make compat`` runs the command with other versions of DSPy."""
    command = [sys.executable, "-m", "erlport_bridge.dspy_patches"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    *rows, last = done.stdout.splitlines()
    assert done.returncode == 0
    assert all(row.endswith("  fits") for row in rows)
    assert last == f"DSPy {dspy.__version__}: {len(rows)} of {len(rows)} fit"
    assert {f"patch {patch.name}" for patch in PATCHES} <= {row.removesuffix("fits").strip() for row in rows}


def test_the_command_fails_where_something_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import erlport_bridge.dspy_patches.__main__ as command

    # All names are replaced in this process, so no fingerprint is as expected.
    assert command.main() == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("patch system_message")]
    assert "Adapter.format_system_message is not the one that is known here" in line
    assert line.endswith("without it, requests are prepared slower")
