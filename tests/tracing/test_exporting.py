"""Spans are exported by OTLP: what a collector gets, when, and what becomes of them without one."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.redaction import redact
from erlport_bridge.tracing import exporting
from tests.deadlines import Busyness
from tests.model_server import ModelServer, openai
from tests.otlp_collector import Collector
from tests.port_process import PortProcess
from tests.proc import HAS_PROC
from tests.template_process import TemplateProcess, python_path

QA = "question -> answer"
WHY = {"question": "why is the sky blue"}
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def finished(number: int = 1, **changed: Any) -> exporting.Finished:
    span = exporting.Finished(
        trace_id=TRACE,
        id=f"{number:016x}",
        parent=None,
        is_parent_remote=False,
        kind="module",
        name="m",
        start_ns=10**18,
        end_ns=10**18 + 5_000,
        error_kind=None,
        message=None,
        attributes={},
    )
    return span._replace(**changed)


def exporter_to(endpoint: str, *, has_texts: bool = False) -> exporting.Exporter:
    return exporting.Exporter(exporting.Settings(endpoint, has_texts), lambda: {"process.pid": 7})


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


def wait_for(condition: Callable[[], object], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def by_name(spans: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {span["name"]: span for span in spans}


def test_spans_of_a_call_are_exported_below_the_span_of_the_caller(
    collector: Collector, model_server: ModelServer
) -> None:
    models = [openai(model_server, "status-503"), openai(model_server, "gpt-4o-mini")]
    with PortProcess(["--worker=3"], environment={"DSPEX_OTLP": collector.url}) as port:
        opts = {"lm": models, "traceparent": CALLER, "called_at_us": time.time_ns() // 1000}
        answer = port.operate("execute_module", "dspy.ChainOfThought", QA, WHY, opts)
        spans = collector.wait_for(6)
    assert len(answer) == 2
    found = by_name(spans)
    root = found["execute_module"]
    assert {span["trace_id"] for span in spans} == {TRACE}
    assert root["parent"] == found["queue"]["parent"] == "b7ad6b7169203331"
    assert found["dspy.ChainOfThought"]["parent"] == root["id"]
    assert found["dspy.Predict"]["parent"] == found["dspy.ChainOfThought"]["id"]
    failed, answered = found["chat status-503"], found["chat gpt-4o-mini"]
    assert failed["parent"] == answered["parent"] == found["dspy.Predict"]["id"]
    assert (failed["status"], failed["attributes"]["error.type"], failed["message"]) == ("ERROR", "server", "")
    assert answered["status"] == "UNSET"
    assert answered["attributes"]["gen_ai.usage.input_tokens"] > 0
    assert answered["attributes"]["dspex.fallback_for"] == "openai/status-503"
    assert (root["resource"]["service.name"], root["resource"]["dspex.worker"]) == ("dspex", 3)
    assert found["queue"]["start_us"] + found["queue"]["duration_us"] == pytest.approx(root["start_us"], abs=1)
    # Neither prompt nor answer, without being asked.
    assert b"sky" not in collector.received()


def test_answer_with_its_trace_has_the_spans_that_are_exported(collector: Collector) -> None:
    with PortProcess(environment={"DSPEX_OTLP": collector.url}) as port:
        status, _prediction, trace = port.operate(
            "execute_module", "dspy.Predict", QA, WHY, {"lm": "embedded", "trace": True}
        )
        spans = collector.wait_for(3)
        # The operations about calls are none that have spans.
        port.done("metrics")
        port.close()
        port.process.wait()
    assert status == "ok"
    told = [(span["id"], span["parent"], span["start_us"], span["duration_us"]) for span in trace["spans"]]
    exported = [(span["id"], span["parent"], span["start_us"], span["duration_us"]) for span in spans]
    assert sorted(told) == sorted(exported)
    assert trace["spans"][-1]["attributes"]["messages"]
    assert len(collector.spans) == 3


def test_full_content_has_prompts_and_answers_without_keys(collector: Collector, model_server: ModelServer) -> None:
    key = "sk-a-very-secret-key"
    lm = {**openai(model_server, "gpt-4o-mini"), "api_key": key}
    with PortProcess(environment={"DSPEX_OTLP": collector.url, "DSPEX_OTLP_CONTENT": "full"}) as port:
        answer = port.operate(
            "execute_module", "dspy.Predict", QA, {"question": f"what is {key}"}, {"lm": lm, "trace": "metadata"}
        )
        spans = collector.wait_for(3)
    asked = by_name(spans)["chat gpt-4o-mini"]["attributes"]
    assert "what is [redacted]" in asked["gen_ai.input.messages"]
    assert "[[ ## answer ## ]]" in asked["gen_ai.output.messages"]
    assert key.encode() not in collector.received()
    # The caller wants no texts.
    assert "messages" not in answer[2]["spans"][-1]["attributes"]


def test_trace_that_its_caller_does_not_record_is_not_exported(collector: Collector) -> None:
    with PortProcess(environment={"DSPEX_OTLP": collector.url}) as port:
        opts = {"lm": "embedded", "traceparent": CALLER[:-1] + "0"}
        assert len(port.operate("execute_module", "dspy.Predict", QA, WHY, opts)) == 2
        assert port.done("export_spans", opts["traceparent"], [CALL]) == 0
        port.done("execute_module", "dspy.Predict", QA, WHY, {"lm": "embedded"})
        port.close()
        port.process.wait()
    assert {span["trace_id"] == TRACE for span in collector.spans} == {False}


HIGH = "e" * 32
DROPPED, KEPT = f"00-{HIGH}-b7ad6b7169203331-01", f"00-{'0' * 31}1-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("sampler", "exported"),
    [
        ("", {"recorded", "low", "high"}),
        ("always_on", {"unrecorded", "recorded", "low", "high"}),
        ("always_off", set()),
        ("traceidratio", {"unrecorded", "recorded", "low"}),
        ("parentbased_traceidratio", {"recorded", "low"}),
        ("parentbased_always_off", {"recorded"}),
    ],
)
def test_sampler_of_the_standard_variables_decides_which_traces_are_exported(
    sampler: str, exported: set[str], collector: Collector
) -> None:
    calls: dict[str, dict[str, Any]] = {
        "unrecorded": {"traceparent": KEPT.replace("1-b", "2-b")[:-1] + "0"},
        "recorded": {"traceparent": KEPT.replace("1-b", "3-b")},
        "low": {"traceparent": KEPT, "begins_trace": True},
        "high": {"traceparent": DROPPED, "begins_trace": True},
    }
    environment = {"DSPEX_OTLP": collector.url, "OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    with PortProcess(environment=environment) as port:
        for name, opts in calls.items():
            port.done("execute_module", "dspy.Predict", QA, WHY, {"lm": "embedded", **opts})
            # The span of the caller follows the same decision.
            call = {**CALL, "parent": None if "begins_trace" in opts else "c7ad6b7169203331"}
            assert port.done("export_spans", opts["traceparent"], [call]) == (name in exported)
        port.close()
        port.process.wait()
    counts = Counter(span["trace_id"] for span in collector.spans)
    assert counts == {calls[name]["traceparent"].split("-")[1]: 4 for name in exported}


def test_application_code_sees_the_decision_of_the_sampler(collector: Collector, tmp_path: Path) -> None:
    (tmp_path / "application.py").write_text(APPLICATION)
    environment = {
        "DSPEX_OTLP": "on",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.5",
        "DSPEX_PROGRAM_MODULES": "application.Looks",
        "PYTHONPATH": python_path(tmp_path),
    }
    with PortProcess(environment=environment) as port:
        for traceparent in (DROPPED, KEPT):
            opts = {"lm": "embedded", "traceparent": traceparent, "begins_trace": True}
            port.done("execute_module", "application.Looks", None, WHY, opts)
        spans = collector.wait_for(5)
    assert HIGH not in {span["trace_id"] for span in spans}


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({"OTEL_SDK_DISABLED": "TRUE"}, 0),
        ({"OTEL_SDK_DISABLED": "false"}, 3),
        ({"OTEL_TRACES_EXPORTER": "none"}, 0),
        ({"OTEL_TRACES_EXPORTER": "console,otlp"}, 3),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=shop,deployment.environment.name=test"}, 3),
        ({"OTEL_TRACES_SAMPLER": "nonsense"}, 3),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, 3),
    ],
    ids=str,
)
def test_other_standard_variables_count_too(environment: dict[str, str], count: int, collector: Collector) -> None:
    environment = {"DSPEX_OTLP": "on", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **environment}
    with PortProcess(environment=environment) as port:
        port.done("execute_module", "dspy.Predict", QA, WHY, {"lm": "embedded"})
        port.close()
        port.process.wait()
    assert len(collector.spans) == count
    if "OTEL_RESOURCE_ATTRIBUTES" in environment:
        resource = collector.spans[0]["resource"]
        assert (resource["service.name"], resource["deployment.environment.name"]) == ("shop", "test")


def test_items_of_a_batch_are_exported_also_if_they_are_cancelled(
    collector: Collector, model_server: ModelServer
) -> None:
    inputs = [{"question": "a"}, {"question": "b"}]
    opts = {"lm": openai(model_server, "delay-60000"), "timeout": 2_000, "traceparent": CALLER}
    with PortProcess(environment={"DSPEX_OTLP": collector.url}) as port:
        port.done("execute_module", "dspy.Predict", QA, WHY, {"lm": "embedded"})
        collector.wait_for(3)
        answers = port.done("execute_batch", "dspy.Predict", QA, inputs, opts)
        spans = collector.wait_for(10)[3:]
    assert [status for status, _ in answers] == ["error", "error"]
    root = by_name(spans)["execute_batch"]
    items = [span for span in spans if span["name"].startswith("item")]
    assert [item["parent"] for item in items] == [root["id"]] * 2
    assert {span["status"] for span in spans if span is not root} == {"ERROR"}


def test_what_is_left_is_sent_when_the_port_is_closed(collector: Collector) -> None:
    with PortProcess(environment={"DSPEX_OTLP": collector.url}) as port:
        port.done("execute_module", "dspy.Predict", QA, WHY, {"lm": "embedded"})
        port.close()
        port.process.wait()
    assert len(collector.spans) == 3


def test_standard_variables_say_where_if_nothing_else_does(collector: Collector) -> None:
    standard = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=secret-of-the-collector",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_SERVICE_NAME": "shop",
    }
    with PortProcess(environment={"DSPEX_OTLP": "on", **standard}) as port:
        port.done("execute_module", "dspy.Predict", QA, WHY, {"lm": "embedded"})
        spans = collector.wait_for(3)
    assert spans[0]["resource"]["service.name"] == "shop"
    (headers,) = {headers["x-key"] for _, headers in collector.requests}
    assert headers == "secret-of-the-collector"


@pytest.mark.skipif(not HAS_PROC, reason="needs /proc")
def test_forked_workers_export_and_the_template_process_has_no_thread(collector: Collector) -> None:
    environment = {"DSPEX_OTLP": collector.url}
    with TemplateProcess(["--preload=dspy_bridge"], environment=environment) as template:
        with template.worker(["--worker=1"]) as first, template.worker(["--worker=2"]) as second:
            assert first.is_forked()
            assert second.is_forked()
            for worker in (first, second):
                worker.done("execute_module", "dspy.Predict", QA, WHY, {"lm": "embedded"})
            spans = collector.wait_for(6)
        assert len(list(Path(f"/proc/{template.pid}/task").iterdir())) == 1
    assert {span["resource"]["dspex.worker"] for span in spans} == {1, 2}
    assert len({span["id"] for span in spans}) == 6


def test_dead_collector_delays_no_call_and_is_one_line_of_log() -> None:
    with PortProcess(environment={"DSPEX_OTLP": f"http://127.0.0.1:{free_port()}"}) as port:
        for _ in range(20):
            port.done("execute_module", "dspy.Predict", QA, WHY, {"lm": "embedded"})
        slowest_s = 0.0
        with Busyness() as busyness:
            for _ in range(50):
                started_at = time.monotonic()
                port.done("execute_module", "dspy.Predict", QA, WHY, {"lm": "embedded"})
                slowest_s = max(slowest_s, time.monotonic() - started_at)
            began_at = time.monotonic()
            port.close()
            port.process.wait()
            closing_s = time.monotonic() - began_at
        # The lifeline ends a process that takes longer.
        assert closing_s < busyness.factor
        assert slowest_s < busyness.factor


def test_failing_collector_is_one_line_of_log_and_so_is_its_return(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    port = free_port()
    exporter = exporter_to(f"http://127.0.0.1:{port}/v1/traces")
    with caplog.at_level(logging.DEBUG, "erlport_bridge"), caplog.at_level(logging.WARNING, "opentelemetry"):
        for number in range(1, 3):
            exporter.put(finished(number))
            wait_for(lambda: not exporter._waiting)
        wait_for(lambda: caplog.messages)
        with Collector(port) as collector:
            for number in range(9, 12):
                exporter.put(finished(number))
                wait_for(lambda: not exporter._waiting)
            wait_for(lambda: len(caplog.messages) >= 2)
            collector.wait_for(1)
            exporter.stop()
    first, second = caplog.messages
    assert first.startswith("spans cannot be exported, and are dropped until they can: ")
    assert "refused" in first
    assert second.startswith("spans are exported again; ")


def test_spans_that_wait_are_bounded_in_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda _thread: None)
    exporter = exporter_to("http://127.0.0.1:1")
    for number in range(exporting.MAX_WAITING + 10):
        exporter.put(finished(number + 1))
    assert (len(exporter._waiting), exporter._dropped) == (exporting.MAX_WAITING, 10)
    exporter = exporter_to("http://127.0.0.1:1", has_texts=True)
    long = {"reply": ["x" * (exporting.MAX_CHARACTERS // 4)]}
    for number in range(6):
        exporter.put(finished(number + 1, attributes=long))
    assert (len(exporter._waiting), exporter._dropped) == (4, 2)
    batch, dropped = exporter._taken() or ([], 0)
    assert (len(batch), dropped, exporter._characters) == (4, 2, 0)


def test_status_of_the_collector_is_named(caplog: pytest.LogCaptureFixture, collector: Collector) -> None:
    collector.status = 401
    exporter = exporter_to(f"{collector.url}/v1/traces")
    exporter.put(finished())
    wait_for(lambda: caplog.messages)
    exporter.stop()
    assert "401" in caplog.messages[0]


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({}, None),
        ({"DSPEX_OTLP": "off"}, None),
        ({"DSPEX_OTLP": "on"}, exporting.Settings(None, False)),
        ({"DSPEX_OTLP": "http://c:4318/"}, exporting.Settings("http://c:4318/v1/traces", False)),
        (
            {"DSPEX_OTLP": "https://c/otlp/v1/traces", "DSPEX_OTLP_CONTENT": "full"},
            exporting.Settings("https://c/otlp/v1/traces", True),
        ),
        (
            {
                "DSPEX_OTLP": "on",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            exporting.Settings(None, False),
        ),
    ],
    ids=str,
)
def test_environment_says_where_spans_go(environment: dict[str, str], settings: exporting.Settings | None) -> None:
    assert exporting.read_settings(environment) == settings


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({"DSPEX_OTLP": "collector:4318"}, "DSPEX_OTLP"),
        ({"DSPEX_OTLP": "yes"}, "DSPEX_OTLP"),
        ({"DSPEX_OTLP": "on", "DSPEX_OTLP_CONTENT": "all"}, "DSPEX_OTLP_CONTENT, got 'all'"),
        ({"DSPEX_OTLP": "on", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL, got 'grpc'"),
        ({"DSPEX_OTLP": "on", "OTEL_TRACES_EXPORTER": "console"}, "OTEL_TRACES_EXPORTER, got 'console'"),
    ],
    ids=str,
)
def test_wrong_environment_is_refused(environment: dict[str, str], variable: str) -> None:
    with pytest.raises(OperationError, match=variable) as raised:
        exporting.read_settings(environment)
    assert raised.value.kind == "input"


def test_headers_for_the_collector_are_secrets() -> None:
    exporting.read_settings({"DSPEX_OTLP": "on", "OTEL_EXPORTER_OTLP_HEADERS": "a=first-secret,b=second-secret"})
    assert redact("first-secret second-secret") == "[redacted] [redacted]"
    exporting.read_settings({"DSPEX_OTLP": "on", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "a=Bearer%20third-secret"})
    assert redact("of third-secret") == "of [redacted]"


def test_missing_packages_are_an_error_at_the_start_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("")
    environment = {"DSPEX_OTLP": "on", "PYTHONPATH": python_path(tmp_path)}
    with PortProcess(environment=environment) as port:
        tag, _, reason = port.call("dspy_bridge", "ping", None)
    assert tag == "e"
    assert "-m pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http" in repr(reason)


def test_nothing_of_opentelemetry_is_loaded_without_export(port: PortProcess) -> None:
    port.done("execute_module", "dspy.Predict", QA, WHY, {"lm": "embedded"})
    code = "import sys, dspy_bridge; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


CALL = {
    "id": "b7ad6b7169203331",
    "parent": None,
    "kind": "call",
    "name": "execute_module",
    "start_us": 1_764_380_000_000_000,
    "duration_us": 900,
    "status": "error",
    "error": {"kind": "timeout", "message": "not in time"},
    "attributes": {"pool": "general", "metadata": {"tenant": "acme"}},
}


def test_span_of_the_caller_is_exported_for_it(collector: Collector) -> None:
    with PortProcess(environment={"DSPEX_OTLP": collector.url}) as port:
        assert port.done("export_spans", CALLER, [CALL]) == 1
        (span,) = collector.wait_for(1)
    assert (span["trace_id"], span["id"], span["parent"]) == (TRACE, CALL["id"], None)
    assert (span["start_us"], span["duration_us"]) == (CALL["start_us"], 900)
    assert span["attributes"]["error.type"] == "timeout"
    assert span["attributes"]["dspex.metadata"] == '{"tenant":"acme"}'


@pytest.mark.parametrize(
    ("traceparent", "spans", "message"),
    [
        ("00-1", [CALL], "header of W3C Trace Context at traceparent"),
        (CALLER, "no", "a list of at most 1000 spans"),
        (CALLER, [CALL, {**CALL, "id": "x"}], "16 hexadecimal digits at spans[1].id"),
        (CALLER, [{**CALL, "start_us": -1}], "microseconds at spans[0].start_us"),
        (CALLER, [{**CALL, "duration_us": 2**70}], "microseconds at spans[0].duration_us"),
        (CALLER, [{**CALL, "name": None}], "spans[0].name"),
    ],
    ids=str,
)
def test_wrong_span_of_the_caller_is_refused(
    shared_port: PortProcess, traceparent: str, spans: object, message: str
) -> None:
    details = shared_port.failed("export_spans", traceparent, spans)
    assert details["kind"] == "input"
    assert message in details["message"]


def test_span_of_the_caller_goes_nowhere_without_export(shared_port: PortProcess) -> None:
    assert shared_port.done("export_spans", CALLER, [CALL]) == 0


APPLICATION = textwrap.dedent("""
    import dspy
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    provider = TracerProvider()
    tracer = provider.get_tracer("application")

    class Looks(dspy.Module):
        '''question -> answer'''

        def __init__(self):
            super().__init__()
            self.ask = dspy.Predict("question -> answer")

        async def aforward(self, question: str) -> dspy.Prediction:
            if not provider._active_span_processor._span_processors:
                # A thread of the application, after the fork.
                provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
            with tracer.start_as_current_span("looks up"):
                return await self.ask.acall(question=question)
""")


@pytest.mark.parametrize("exports", [True, False])
def test_spans_of_application_code_hang_below_those_of_the_call(
    exports: bool, collector: Collector, tmp_path: Path
) -> None:
    (tmp_path / "application.py").write_text(APPLICATION)
    environment = {
        "DSPEX_OTLP": "on" if exports else "off",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "DSPEX_PROGRAM_MODULES": "application.Looks",
        "PYTHONPATH": python_path(tmp_path),
    }
    opts = {"lm": "embedded", "traceparent": CALLER}
    with PortProcess(environment=environment) as port:
        port.done("execute_module", "application.Looks", None, WHY, opts)
        spans = by_name(collector.wait_for(5 if exports else 1))
    own = spans["looks up"]
    assert own["trace_id"] == TRACE
    # Spans of the call that nobody exports are no parents.
    assert own["parent"] == (spans["application.Looks"]["id"] if exports else "b7ad6b7169203331")
