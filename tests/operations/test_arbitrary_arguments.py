"""An operation answers any arguments, with a result or with what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erlport_bridge.errors import KINDS, EncodeError
from erlport_bridge.term import Atom, ImproperList, decode, encode
from tests.port_process import PortProcess

# A function, a pid and a bitstring: `&String.upcase/1`, `<0.1.0>` and `<<1::1>>`.
OPAQUE = [
    decode(b"\x83q" + b"w\x0dElixir.String" + b"w\x06upcase" + b"a\x01"),
    decode(b"\x83Xw\x0dnonode@nohost" + bytes([0, 0, 0, 1]) + bytes(8)),
    decode(b"\x83M\x00\x00\x00\x01\x01\x80"),
]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**63, -(2**63)]),
    # More than a float can hold, and more than Python converts to decimal.
    st.sampled_from([400, 5_000]).map(lambda digits: 10**digits),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.text(max_size=10).map(Atom),
    st.sampled_from(OPAQUE),
    st.sampled_from(["a/b", "::", "http://[", "-> a", "a ->", "\x00", "x" * 1_000, b"\xff", "{", "[[", "١"]),
)


def can_be_sent(keyed: dict[Any, Any]) -> bool:
    """Return whether all keys differ in Erlang, where for example ``None`` equals the atom of its name."""
    try:
        encode(dict.fromkeys(keyed))
    except EncodeError:
        return False
    return True


TERMS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(SCALARS.filter(lambda key: not isinstance(key, int | float)), inner, max_size=3).filter(
            can_be_sent
        ),
        inner.map(lambda term: ImproperList([1], term) if not isinstance(term, list) else term),
    ),
    max_leaves=6,
)

SETTINGS = [
    *("temperature", "max_tokens", "top_p", "n", "seed", "stop", "reasoning_effort", "presence_penalty"),
    *("frequency_penalty",),
]


def options(*names: str) -> st.SearchStrategy[Any]:
    """Return a strategy for maps of options with any values, and for values that are not maps."""
    return st.one_of(TERMS, st.dictionaries(st.sampled_from(names), TERMS, max_size=3))


NAMES = st.sampled_from(
    [
        *("dspy.Predict", "dspy.ChainOfThought", "dspy.ReAct", "dspy.MultiChainComparison", "dspy.BestOfN"),
        *("dspy.Refine", "dspy.ReActV2", "dspy.Retrieve", "dspy.KNN", "dspy.Parallel"),
    ]
)
OWN_OPTIONS = options(
    *("module", "signature", "instructions", "options", "tools", "of", "reward", "N", "n", "threshold", "fail_count"),
    *("max_iters", "k", "retriever", "embedder", "vectors", "passages", "trainset", "rationale_field", "M"),
)
REWARDS = st.one_of(TERMS, options("check", "field", "value", "input", "minimum", "maximum", "callback", "description"))
MODULES = st.recursive(
    st.one_of(NAMES, TERMS),
    lambda inner: st.one_of(
        OWN_OPTIONS,
        st.fixed_dictionaries({"module": NAMES, "reward": REWARDS, "of": inner, "N": st.just(1)}),
        st.fixed_dictionaries({"module": NAMES, "options": st.fixed_dictionaries({"of": inner, "reward": REWARDS})}),
    ),
    max_leaves=3,
)
TEXT_SIGNATURES = st.sampled_from(
    ["question -> answer", "a: list[int], b: Any -> c: float", "d: dict[str, int] -> e: Optional[bool]", "h -> i, j"]
)
SIGNATURES = st.one_of(TEXT_SIGNATURES, TERMS, options("inputs", "outputs", "instructions"))
INPUTS = st.one_of(st.just("text"), TERMS, options(*["question", "answer", "a", "b", "d", "h", "completions"]))
LM = st.one_of(
    TERMS,
    st.just("embedded"),
    st.dictionaries(st.sampled_from(["model", "api_key", "api_base", "num_retries", *SETTINGS]), TERMS, max_size=3).map(
        lambda config: {"provider": "openai", "model": "m", "api_base": "http://127.0.0.1:9", "num_retries": 0} | config
    ),
)
CALL = st.one_of(
    options(
        "timeout",
        "session_id",
        "request_id",
        "adapter",
        "demos",
        "tools",
        "max_iters",
        "allow_urls",
        "embedder",
        "vector",
        "conversation",
        *SETTINGS,
    ),
    st.fixed_dictionaries({"lm": LM}),
    st.fixed_dictionaries({"demos": st.lists(options("question", "answer"), max_size=2)}),
)
STAGE = st.one_of(MODULES, options("module", "signature", "instructions", "options", "tools", "name", "inputs"))
SPEC = st.one_of(
    SIGNATURES,
    options("signature", "instructions", "modules", "outputs", "history", "lm", "config"),
    st.fixed_dictionaries(
        {
            "signature": SIGNATURES,
            "modules": st.lists(STAGE, max_size=3),
            "outputs": st.one_of(st.none(), st.lists(TERMS, max_size=2), options("answer")),
            "config": options(*SETTINGS),
        }
    ),
)

OPTIMIZERS = st.sampled_from(
    ["dspy.LabeledFewShot", "dspy.BootstrapFewShot", "dspy.COPRO", "dspy.MIPROv2", "dspy.GEPA"]
)
COMPILE = st.one_of(
    CALL,
    st.fixed_dictionaries(
        {"optimizer": st.one_of(OPTIMIZERS, TERMS)},
        optional=dict.fromkeys(
            [
                *("metric", "valset", "num_threads", "max_errors", "version"),
                *("k", "breadth", "auto", "max_metric_calls", "teacher_lm"),
            ],
            TERMS,
        ),
    ),
)
EXAMPLES = st.one_of(st.lists(INPUTS, max_size=3), TERMS)

ARGUMENTS = {
    "ping": [TERMS],
    "configure_lm": [st.one_of(st.just("openai"), TERMS), options("model", "api_key", "api_base", *SETTINGS), TERMS],
    "list_modules": [],
    "describe_module": [MODULES],
    "validate_module": [MODULES, SIGNATURES, CALL],
    "execute_module": [MODULES, SIGNATURES, INPUTS, CALL],
    "stream_module": [TERMS, TERMS, MODULES, SIGNATURES, INPUTS, CALL],
    "stream_program": [TERMS, TERMS, TERMS, TERMS, INPUTS, CALL],
    "stream_ack": [TERMS, TERMS],
    "execute_batch": [MODULES, SIGNATURES, st.one_of(st.lists(INPUTS, max_size=3), TERMS), CALL],
    "execute_program_batch": [TERMS, TERMS, st.one_of(st.lists(INPUTS, max_size=3), TERMS), CALL],
    "stream_program_batch": [TERMS, TERMS, TERMS, TERMS, st.one_of(st.lists(INPUTS, max_size=3), TERMS), CALL],
    "stream_batch": [TERMS, TERMS, MODULES, SIGNATURES, st.one_of(st.lists(INPUTS, max_size=3), TERMS), CALL],
    "evaluate_program": [
        *(TERMS, TERMS, st.one_of(st.lists(INPUTS, max_size=3), TERMS)),
        st.one_of(CALL, st.fixed_dictionaries({"metric": REWARDS, "failure_score": TERMS})),
    ],
    "stream_evaluate": [
        *(TERMS, TERMS, TERMS, TERMS, st.one_of(st.lists(INPUTS, max_size=3), TERMS)),
        st.one_of(CALL, st.fixed_dictionaries({"metric": REWARDS, "failure_score": TERMS})),
    ],
    "model_piece": [TERMS, TERMS],
    "open_session": [TERMS, options("max_cost", "max_tokens_total")],
    "running_calls": [options("n")],
    "history": [options("n", "request_id", "session_id")],
    "provide_programs": [TERMS],
    # This port has no store.
    "export_spans": [TERMS, TERMS],
    "export_store": [TERMS],
    "import_store": [TERMS],
    "create_program": [SPEC, options("session_id")],
    "execute_program": [TERMS, TERMS, INPUTS, CALL],
    "list_programs": [TERMS],
    "describe_program": [TERMS, TERMS, options("version")],
    "list_optimizers": [],
    "describe_optimizer": [st.one_of(OPTIMIZERS, TERMS)],
    "compile_program": [TERMS, TERMS, EXAMPLES, COMPILE],
    "stream_compile": [TERMS, TERMS, TERMS, TERMS, EXAMPLES, COMPILE],
    "dump_program": [TERMS, TERMS, options("version", "session_id")],
    "load_program": [TERMS, options("lm", "session_id", "allow_urls")],
    "delete_program": [TERMS, TERMS],
    "list_conversations": [TERMS, TERMS],
    "conversation": [TERMS, TERMS, TERMS],
    "seed_conversation": [TERMS, TERMS, TERMS, st.one_of(st.lists(INPUTS, max_size=3), TERMS)],
    "cut_conversation": [TERMS, TERMS, TERMS, TERMS],
    "delete_conversation": [TERMS, TERMS, TERMS],
    "list_sessions": [],
    "session_info": [TERMS],
    "close_session": [TERMS],
    "cancel": [TERMS],
    "metrics": [],
    "reset_metrics": [],
    "handle": [st.one_of(st.just("ping"), st.just("handle"), TERMS), st.one_of(TERMS, options("payload"))],
    "handle_json": [st.one_of(st.just("ping"), TERMS), st.one_of(TERMS, st.just("[" * 100_000))],
}


@pytest.fixture(scope="module")
def port() -> Iterator[PortProcess]:
    """Yield a port whose default model is the embedded model."""
    with PortProcess(["--modules=dspy_bridge"]) as started:
        started.done("configure_lm", "embedded", {}, {"session_id": "mine"})
        started.done("configure_lm", "embedded", {})
        yield started


@pytest.mark.parametrize("operation", ARGUMENTS)
def test_any_arguments_are_answered_with_a_result_or_a_kind_of_error(port: PortProcess, operation: str) -> None:
    assert operation in ARGUMENTS
    strategies = ARGUMENTS[operation]

    @settings(max_examples=40, database=None, suppress_health_check=list(HealthCheck))
    @given(st.tuples(*strategies), st.integers(0, len(strategies)), st.booleans())
    def answers(arguments: tuple[Any, ...], count: int, fewer: bool) -> None:
        given_arguments = arguments[:count] if fewer else arguments
        status, result = port.operate(operation, *given_arguments)
        if operation == "handle_json" or status == "ok":
            assert status in ("ok", "error")
            return
        exception, details = result
        assert (status, exception) == ("error", "python_exception")
        assert details["kind"] in KINDS.keys() - {"internal"}, details
        assert details["message"]

    answers()


def test_every_operation_is_tried(port: PortProcess) -> None:
    message = port.call("dspy_bridge", "no_such_operation")[2][2]
    assert sorted(ARGUMENTS) == message.split("it has ")[1].split(", ")
