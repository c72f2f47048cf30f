"""Programs learn from examples, are stored, and are loaded again, over a real port."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import dspy
import pytest
from dspy import lm15

from erlport_bridge.errors import OperationError
from erlport_bridge.optimizing.optimizers import ENTRIES, find_entry
from tests.model_server import ModelServer
from tests.port_process import PortProcess
from tests.proc import children

TEXT = "Lisbon is the capital of Portugal. Paris is the capital of France. Rome is the capital of Italy."
CITIES = {"Portugal": "Lisbon", "France": "Paris", "Italy": "Rome"}
EXAMPLES = [
    {"text": TEXT, "question": f"What is the capital of {country}?", "answer": city} for country, city in CITIES.items()
]
METRIC = {"check": "contains", "field": "answer", "input": "answer"}
# Options that make each compilation short.
SMALL: dict[str, dict[str, Any]] = {
    "dspy.BootstrapFewShotWithRandomSearch": {"num_candidate_programs": 2},
    "dspy.BootstrapFewShotWithOptuna": {"num_candidate_programs": 2, "max_bootstrapped_demos": 1},
    "dspy.COPRO": {"breadth": 2, "depth": 2},
    "dspy.MIPROv2": {"num_candidates": 2, "num_trials": 2},
    "dspy.SIMBA": {"bsize": 4, "num_candidates": 2, "max_steps": 2},
    "dspy.GEPA": {"max_metric_calls": 20},
    "dspy.InferRules": {"num_candidates": 2},
}


@pytest.fixture(scope="module")
def compiler() -> Iterator[PortProcess]:
    with PortProcess(["--preload=dspy_bridge", "--log-to-elixir"]) as port:
        port.done("configure_lm", "embedded", {})
        yield port


def program_of(port: PortProcess, **spec: Any) -> str:
    made = port.done("create_program", {"signature": "text, question -> answer", **spec})
    return str(made["id"])


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if not entry.at_each_call])
@pytest.mark.parametrize("module", ["dspy.ChainOfThought", pytest.param("dspy.ReAct", marks=pytest.mark.long)])
def test_every_optimizer_compiles_a_program_and_prints_nothing(compiler: PortProcess, name: str, module: str) -> None:
    program = program_of(compiler, modules=[module])
    options = {"optimizer": name, "metric": METRIC, "timeout": 120_000, **SMALL.get(name, {})}
    # The next message is the answer: nothing was printed or logged before it.
    version = compiler.done("compile_program", None, program, EXAMPLES * 4, options)
    assert (version["id"], version["version"]) == (program, 2)
    compiled = version["compiled"]
    assert (compiled["optimizer"], compiled["failures"]) == (name, 0)
    assert (compiled["metric_calls"] > 0) is (name not in ("dspy.LabeledFewShot", "dspy.Ensemble"))
    inputs = {"text": TEXT, "question": "What is the capital of Portugal?"}
    prediction = compiler.done("execute_program", None, program, inputs)
    assert "Lisbon" in prediction["answer"]
    text = compiler.done("dump_program", None, program)
    again = compiler.done("load_program", text)
    assert compiler.done("dump_program", None, again["id"]) == text
    compiler.done("close_session", version["session_id"])
    compiler.done("close_session", again["session_id"])


class Engine:
    """The engine that DSPy requires; the program of the test calls the port instead."""

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Return a completion."""
        text = f"[[ ## answer ## ]]\n{len(request.messages)}\n\n[[ ## completed ## ]]"
        return lm15.Response(
            id=None,
            model=request.model,
            finish_reason="stop",
            message=lm15.Message.assistant([lm15.TextPart(text)]),
            usage=lm15.Usage(input_tokens=1, output_tokens=1, total_tokens=2),
        )


def test_compilation_starts_no_process(compiler: PortProcess) -> None:
    """With Python 3.14 the lock of a progress bar started one, which outlived the port and then wrote a warning."""
    program = program_of(compiler)
    options = {"optimizer": "dspy.BootstrapFewShotWithRandomSearch", "metric": METRIC, "num_candidate_programs": 2}
    compiler.done("compile_program", None, program, EXAMPLES * 4, options)
    assert children(compiler.process.pid) == []


def test_demos_are_those_that_dspy_finds_in_python(compiler: PortProcess) -> None:
    """The same optimizer runs in this process, with a program whose answers come from the port."""
    options = {"optimizer": "dspy.BootstrapFewShot", "metric": METRIC, "max_bootstrapped_demos": 2}
    program = program_of(compiler)
    compiler.done("compile_program", None, program, EXAMPLES, options)
    stored = json.loads(compiler.done("dump_program", None, program))["learned"]["modules[0]"]

    def ask(text: str, question: str) -> str:
        inputs = {"text": text, "question": question}
        return str(compiler.done("execute_program", None, program, inputs, {"version": 1})["answer"])

    class AsThere(dspy.Predict):  # type: ignore[misc]
        def forward(self, **inputs: Any) -> dspy.Prediction:
            answered = {"answer": ask(**inputs)}
            dspy.settings.trace.append((self, inputs, answered))
            return dspy.Prediction(**answered)

    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
        return example.answer in prediction.answer

    examples = [dspy.Example(**example).with_inputs("text", "question") for example in EXAMPLES]
    with dspy.context(lm=dspy.LM("engine/x", engine=Engine(), cache=False)):
        compiled = dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=2).compile(
            AsThere("text, question -> answer"), trainset=examples
        )
    expected = [{key: demo[key] for key in ("text", "question", "answer")} for demo in compiled.demos]
    assert stored == {"instructions": compiled.signature.instructions, "demos": expected}


def test_versions_vote(compiler: PortProcess, model_server: ModelServer) -> None:
    program = compiler.done("create_program", "question -> answer")["id"]
    examples = [{"question": f"question {number}", "answer": "shown"} for number in range(2)]
    for k in (1, 2):
        labeled = {"optimizer": "dspy.LabeledFewShot", "k": k, "sample": False, "version": 1}
        compiler.done("compile_program", None, program, examples, labeled)
    voting = compiler.done("compile_program", None, program, [], {"optimizer": "dspy.Ensemble"})
    assert voting["version"] == 4
    assert set(voting["compiled"]["demos"].items()) == {
        *(("members[0].modules[0]", 0), ("members[1].modules[0]", 1), ("members[2].modules[0]", 2))
    }
    again = compiler.done("load_program", compiler.done("dump_program", None, program))
    for asked in (program, again["id"]):
        begun = len(model_server.requests)
        script = f"votes-{asked}"
        replies = [{"fields": {"answer": answer}} for answer in ("The one.", "other", "one")]
        model_server.script(script, *replies)
        lm = {
            "provider": "openai",
            "model": f"scripted:{script}",
            "api_base": f"{model_server.url}/v1",
            "num_retries": 0,
        }
        prediction = compiler.done("execute_program", None, asked, "which?", {"lm": lm})
        assert prediction["answer"] in ("The one.", "one")
        assert len(model_server.requests) == begun + 3
        assert len(prediction["$meta"]["usage"]) == 1
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"versions": [1, 7]}, "which are 1, 2, 3, 4; got 7"),
        ({"versions": [4]}, "do not vote themselves"),
        ({"versions": [1, 1]}, "each once"),
        ({"versions": []}, "a list of 1 to 100 integers"),
        ({"versions": ["1"]}, "at opts.versions[0]"),
    ]
    for options, part in wrong:
        details = compiler.failed("compile_program", None, program, [], {"optimizer": "dspy.Ensemble", **options})
        assert part in details["message"]
    details = compiler.failed("compile_program", None, program, examples, {"optimizer": "dspy.LabeledFewShot"})
    assert details["path"] == "opts.version"


def test_four_programs_are_compiled_at_a_time(compiler: PortProcess, model_server: ModelServer) -> None:
    program = compiler.done("create_program", "question -> answer")["id"]
    lm = {"provider": "openai", "model": "delay-60000", "api_base": f"{model_server.url}/v1", "num_retries": 0}
    options = {"optimizer": "dspy.BootstrapFewShot", "lm": lm, "request_id": "compiles"}
    begun = len(model_server.requests)
    arguments = [None, program, [{"question": "q", "answer": "a"}], options]
    ids = [compiler.send_call("dspy_bridge", "compile_program", arguments) for _ in range(4)]
    model_server.wait_for_requests(begun + 4)
    assert compiler.failed("compile_program", *arguments)["kind"] == "overloaded"
    compiler.send_call("dspy_bridge", "cancel", ["compiles"])
    answers = [compiler.receive() for _ in range(5)]
    assert {answer[1] for answer in answers} > set(ids)
    # Cancelled compilations no longer count.
    compiler.done("compile_program", None, program, arguments[2], {"optimizer": "dspy.LabeledFewShot"})


def test_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        OperationError, match=r"dspy.MIPROv2 needs optuna and numpy; install erlport_bridge\[optimizers\]"
    ):
        ENTRIES["dspy.MIPROv2"].check_packages()
    assert ENTRIES["dspy.MIPROv2"].describe()["available"] is False
    ENTRIES["dspy.COPRO"].check_packages()


def test_fields_of_other_types_are_exact_after_storing_and_loading(compiler: PortProcess) -> None:
    signature = "day: date, sum: Decimal, tags: list[str], at: time -> kind: Literal['a', 'b'], when: datetime"
    when = datetime.datetime(2026, 11, 27, 1, 2, 3, tzinfo=datetime.timezone.utc)
    example = {
        "day": datetime.date(2026, 2, 3),
        "sum": Decimal("1.10"),
        "tags": ["x", "y"],
        "at": datetime.time(1, 2),
        "kind": "b",
        "when": when,
    }
    program = program_of(compiler, signature=signature)
    options = {"optimizer": "dspy.LabeledFewShot", "k": 1}
    compiler.done("compile_program", None, program, [example], options)
    text = compiler.done("dump_program", None, program)
    (demo,) = json.loads(text)["learned"]["modules[0]"]["demos"]
    assert (demo["day"], demo["sum"], demo["when"]) == ("2026-02-03", "1.10", "2026-11-27T01:02:03+00:00")
    again = compiler.done("load_program", text)
    assert compiler.done("dump_program", None, again["id"]) == text


def test_versions_are_bounded_as_programs_are() -> None:
    with PortProcess(environment={"DSPEX_MAX_PROGRAMS": "2"}) as port:
        port.done("configure_lm", "embedded", {})
        program = program_of(port)
        options = {"optimizer": "dspy.LabeledFewShot"}
        port.done("compile_program", None, program, EXAMPLES, options)
        details = port.failed("compile_program", None, program, EXAMPLES, options)
        assert details["kind"] == "overloaded"
        assert "2 programs and versions" in details["message"]
        # Deleting a program deletes all its versions.
        port.done("delete_program", None, program)
        assert port.failed("execute_program", None, program, {}, {"version": 1})["kind"] == "program_not_found"
        session = port.done("list_sessions")[0]["id"]
        for _ in range(2):
            port.done("create_program", "question -> answer", {"session_id": session})


def stored(**changes: Any) -> str:
    spec = {"signature": "question -> answer", "modules": ["dspy.Predict"]}
    whole = {
        "format": "dspex.program",
        "format_version": 1,
        "dspy": "3.4.1",
        "spec": spec,
        "learned": {},
        "compiled": None,
    }
    return json.dumps({**whole, **changes})


def learned(**changes: Any) -> str:
    return stored(learned={"modules[0]": {"instructions": "Do it.", "demos": [], **changes}})


def spec(**changes: Any) -> str:
    return stored(spec={"signature": "question -> answer", "modules": ["dspy.Predict"], **changes})


NO_TEXTS: list[Any] = [
    *(stored(learned={f"members[{number}].modules[0]": {}}) for number in ("9" * 5_000, 100, -1, "x")),
    *(
        None,
        1,
        b"\xff",
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"a": NaN}',
        "\x80\x04\x95.",
        "cos\nsystem\n(S'id'\ntR.",
    ),
    *(
        stored(format="other"),
        stored(format_version=2),
        stored(format_version=None),
        stored(pickle="gASV"),
        stored(spec=1),
    ),
    *(stored(spec=None), stored(compiled=3), spec(lm={"provider": "openai", "api_base": "http://127.0.0.1:1"})),
    *(spec(lm=None), spec(api_key="x"), spec(modules=[]), spec(modules="dspy.Predict"), spec(modules=["os.system"])),
    *(spec(modules=["trap.Trap"]), spec(modules=[{"module": "dspy.Predict", "signature": "a: __import__('os') -> b"}])),
    *(
        spec(signature="q: os.PathLike -> a"),
        spec(history="yes"),
        spec(config={"api_base": "http://x"}),
        spec(config=[1]),
    ),
    *(
        spec(modules=[{"module": "dspy.ReAct", "tools": ["os.system"]}]),
        spec(outputs={"answer": "none.x"}),
        spec(signature=7),
    ),
    *(
        stored(learned=[]),
        stored(learned=3),
        stored(learned={"modules[1]": {}}),
        stored(learned={"forward": {"instructions": "x"}}),
    ),
    *(
        stored(learned={"__class__": {}}),
        learned(instructions=""),
        learned(instructions=None),
        learned(instructions=["x"]),
    ),
    *(learned(demos={}), learned(demos=[1]), learned(demos=[{"other": 1}]), learned(demos=[{"question": 1}])),
    *(learned(demos=[{"question": {"$type": "Image", "url": "/etc/passwd"}}]), learned(demos=[{}] * 1_001)),
    *(learned(forward="x"), learned(lm={"model": "x"}), learned(signature="x"), learned(instructions="x" * 1_000_001)),
    *(
        stored(learned={"modules[0]": {"demos": []}}),
        stored(learned={"modules[0]": 1}),
        stored(learned={"modules[0].x": {}}),
    ),
]


@pytest.mark.parametrize("text", NO_TEXTS, ids=lambda text: repr(text)[:60])
def test_text_that_is_no_stored_program_is_refused(compiler: PortProcess, text: Any) -> None:
    sessions = len(compiler.done("list_sessions"))
    if isinstance(text, str) and '"learned": []' in text:
        # An empty keyword list is an empty map.
        compiler.done("close_session", compiler.done("load_program", text)["session_id"])
        return
    details = compiler.failed("load_program", text)
    assert details["kind"] in ("store", "input", "signature", "module_not_found", "tool"), details
    assert len(compiler.done("list_sessions")) == sessions


def test_value_that_json_lacks_is_named(compiler: PortProcess) -> None:
    program = program_of(compiler, signature="x: Any -> answer")
    options = {"optimizer": "dspy.LabeledFewShot"}
    for value, part in ((range(3), "cannot store"), ({1: 2}, "JSON has only text there")):
        compiler.done("compile_program", None, program, [{"x": value, "answer": "a"}], options)
        details = compiler.failed("dump_program", None, program)
        assert details["kind"] == "encode"
        assert part in details["message"]
        assert 'learned"]["modules[0]"]["demos"][0]["x"]' in details["message"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("MIPRO", "dspy.MIPROv2"), ("dspy.MIPRO", "dspy.MIPROv2"), ("bootstrap", "dspy.BootstrapFewShot")],
)
def test_an_unknown_optimizer_is_told_what_may_be_meant(name: str, meant: str) -> None:
    """Without `dspy.` there was no suggestion."""
    with pytest.raises(OperationError, match=f'did you mean "{meant}"'):
        find_entry(name, "name")
