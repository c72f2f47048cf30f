"""A map has no order in Elixir: no order of its keys changes a prompt, a cached answer or a stored program.

From OTP 26 on a node makes the order anew at each start. Here the keys of every map of a call are shuffled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from erlport_bridge.programs.signatures import parse_signature
from erlport_bridge.term import Atom, OrderedMap, encode
from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess
from tests.term.test_ordering import seeded, shuffled

FIELDS = {
    "inputs": {
        "text": "str",
        "about": {"type": "str", "desc": "what it is about", "min_length": 1, "max_length": 99},
        "person": {"name": "str", "born": {"type": "int", "ge": 0, "le": 3000, "desc": "the year"}, "alive": "bool"},
        "more": "dict[str, Any]",
    },
    "outputs": {"verdict": "str", "answer": "str", "best": {"zip": "str", "city": "str"}},
    "instructions": "Say it.",
}
INPUTS = {
    "text": "t",
    "about": "a",
    "person": {"name": "n", "born": 1, "alive": True},
    "more": {"z": {"y": 1, "x": 2}, "a": [{"c": 1, "b": 2}], "m": 0},
}
DEMO = {**INPUTS, "verdict": "v", "answer": "a", "best": {"zip": "1", "city": "c"}}
MESSAGE = {"question": "q", "answer": "a"}
PARAMETERS = {
    "type": "object",
    "properties": {
        "size": {"type": "integer"},
        "article": {"type": "string"},
        "at": {"type": "object", "properties": {"y": {}, "x": {}}},
    },
    "required": ["article"],
}
TOOL = {"name": "stock", "description": "d", "parameters": PARAMETERS, "callback": "1"}
SPEC = {
    "modules": [
        {"name": "first", "module": "dspy.Predict", "signature": FIELDS},
        {
            "name": "second",
            "module": "dspy.Predict",
            "signature": {"inputs": {"verdict": "str", "city": "str"}, "outputs": {"b": "str", "a": "str"}},
            "inputs": {"verdict": "first.verdict", "city": "first.answer"},
        },
    ],
    "outputs": {"z": "second.b", "y": "first.best", "x": "second.a"},
}

# Name -> an operation and its arguments, from the configuration of a model.
CALLS: dict[str, Callable[[Any], list[Any]]] = {
    "a signature and inputs": lambda lm: ["execute_module", "dspy.Predict", FIELDS, INPUTS, {"lm": lm}],
    "demos": lambda lm: [
        "execute_module",
        "dspy.ChainOfThought",
        FIELDS,
        INPUTS,
        {"lm": lm, "demos": [{**DEMO, "reasoning": "r"}]},
    ],
    "json": lambda lm: ["execute_module", "dspy.Predict", FIELDS, INPUTS, {"lm": lm, "adapter": "json"}],
    "xml": lambda lm: ["execute_module", "dspy.Predict", FIELDS, INPUTS, {"lm": lm, "adapter": "xml", "demos": [DEMO]}],
    "settings": lambda lm: [
        "execute_module",
        "dspy.Predict",
        "a -> b",
        "x",
        {"lm": {**lm, "temperature": 0.5, "max_tokens": 9, "top_p": 0.5}, "stop": "x", "seed": 1},
    ],
    "tools": lambda lm: [
        "execute_module",
        "dspy.ReAct",
        "question -> answer",
        "x",
        {"lm": lm, "tools": [TOOL], "max_iters": 1},
    ],
    "tools as an input": lambda lm: [
        "execute_module",
        "dspy.Predict",
        "tools: list[dspy.Tool], q -> a",
        {"q": "x", "tools": [{key: TOOL[key] for key in ("name", "description", "parameters")}]},
        {"lm": lm},
    ],
    "a history": lambda lm: [
        "execute_module",
        "dspy.Predict",
        "history: dspy.History, question -> answer",
        {"question": "x", "history": [MESSAGE]},
        {"lm": lm},
    ],
    "a batch": lambda lm: ["execute_batch", "dspy.Predict", FIELDS, [INPUTS], {"lm": lm}],
    "a module with options": lambda lm: [
        "execute_module",
        {
            "module": "dspy.BestOfN",
            "N": 1,
            "reward": {"check": "contains", "field": "answer", "value": "x"},
            "of": {"module": "dspy.Predict", "signature": FIELDS},
        },
        None,
        INPUTS,
        {"lm": lm},
    ],
}


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    """Yield a provider that all cases share."""
    with ModelServer() as server:
        yield server


@pytest.fixture(scope="module")
def caching_port() -> Iterator[PortProcess]:
    """Yield a port that all cases share."""
    with PortProcess(["--modules=dspy_bridge"]) as port:
        yield port


@pytest.mark.parametrize("case", CALLS)
def test_prompts_do_not_depend_on_the_order_of_keys(case: str, server: ModelServer, caching_port: PortProcess) -> None:
    bodies = set()
    for seed in range(4):
        before = len(server.requests)
        operation, *arguments = shuffled(CALLS[case](openai(server, "gpt-4o-mini")), seeded(seed))
        caching_port.operate(operation, *arguments)
        assert len(server.requests) > before
        bodies.add(json.dumps([request.body for request in server.requests[before:]]))
    assert len(bodies) == 1


# The server answers no XML, and what cannot be read is not kept.
@pytest.mark.parametrize("case", sorted(CALLS.keys() - {"xml"}))
def test_cached_answers_do_not_depend_on_the_order_of_keys(
    case: str, server: ModelServer, caching_port: PortProcess
) -> None:
    counts = []
    for seed in range(4):
        before = len(server.requests)
        lm = openai(server, "gpt-4o-mini", cache=True, api_key=f"key of {case}")
        operation, *arguments = shuffled(readable(CALLS[case](lm)), seeded(seed))
        caching_port.operate(operation, *arguments)
        counts.append(len(server.requests) - before)
    assert counts[0] > 0
    assert counts[1:] == [0, 0, 0]


def test_stored_programs_do_not_depend_on_the_order_of_keys(server: ModelServer, caching_port: PortProcess) -> None:
    texts, prompts, described = set(), set(), set()
    for seed in range(4):
        source = seeded(seed)
        made = caching_port.done("create_program", shuffled({**SPEC, "lm": openai(server, "answer")}, source))
        before = len(server.requests)
        caching_port.operate("execute_program", None, made["id"], shuffled(INPUTS, source))
        prompts.add(json.dumps([request.body for request in server.requests[before:]]))
        described.add(made["signature"])
        examples = [shuffled({**INPUTS, "y": {"zip": "1", "city": "c"}, "x": "a"}, source)]
        learned = caching_port.done("compile_program", None, made["id"], examples, {"optimizer": "dspy.LabeledFewShot"})
        texts.add(
            json.dumps(
                json.loads(caching_port.done("dump_program", None, learned["id"]), object_pairs_hook=_without_times)
            )
        )
    assert (len(prompts), len(described), len(texts)) == (1, 1, 1)


def test_a_stored_program_keeps_its_orders_when_it_is_loaded(server: ModelServer, caching_port: PortProcess) -> None:
    """A map in sorted order, a keyword list, and an object of JSON whose order was chosen."""
    keywords = [(Atom("z"), Atom("string")), (Atom("a"), Atom("string"))]
    for source, wanted in [
        ({"inputs": {"z": "str", "a": "str"}, "outputs": ["b"]}, "a: str, z: str -> b: str"),
        ({"inputs": keywords, "outputs": ["b"]}, "z: str, a: str -> b: str"),
    ]:
        made = caching_port.done("create_program", {"signature": source})
        loaded = caching_port.done("load_program", caching_port.done("dump_program", None, made["id"]))
        assert (made["signature"], loaded["signature"]) == (wanted, wanted)
    text = json.dumps([{"signature": {"inputs": {"z": "str", "a": "str"}, "outputs": ["b"]}}])
    made = json.loads(caching_port.done("handle_json", "create_program", text))
    loaded = caching_port.done("load_program", caching_port.done("dump_program", None, made["id"]))
    assert (made["signature"], loaded["signature"]) == ("z: str, a: str -> b: str",) * 2


def test_results_of_functions_of_elixir_have_one_order(server: ModelServer) -> None:
    """What a tool answers is shown to the model."""
    prompts = set()
    for keys in (["b", "a"], ["a", "b"]):
        server.script(
            "steps",
            _step("stock", {}),
            _step("finish", {}),
            {"content": "[[ ## answer ## ]]\nx\n\n[[ ## completed ## ]]"},
        )
        with PortProcess(["--modules=dspy_bridge"]) as port:
            call_id = port.send_call(
                "dspy_bridge",
                "execute_module",
                [
                    "dspy.ReAct",
                    "q -> answer",
                    "x",
                    {
                        "lm": openai(server, "scripted:steps"),
                        "tools": [{"name": "stock", "description": "d", "callback": "1"}],
                        "max_iters": 2,
                    },
                ],
            )
            asked = port.receive()
            assert asked[0] == "C"
            port.send_message(encode((Atom("r"), asked[1], dict.fromkeys(keys, 1))))
            assert port.receive()[1] == call_id
        prompts.add(json.dumps(server.requests[-1].body))
        assert '\\"a\\": 1, \\"b\\": 1' in json.dumps(server.requests[-1].body)
    assert len(prompts) == 1


def test_signatures_are_sorted_where_python_calls_them() -> None:
    for seed in range(10):
        spec = parse_signature(shuffled(FIELDS, seeded(seed)))
        assert spec == parse_signature(FIELDS)
    ordered = OrderedMap(inputs=OrderedMap(z="str", a="str"), outputs=OrderedMap(b=OrderedMap(y="str", x="str")))
    assert parse_signature(ordered).text == "z: str, a: str -> b: {y: str, x: str}"


def readable(term: Any) -> Any:
    """Return a call without the output that the server's answers do not have the form of."""
    if isinstance(term, dict):
        return {key: readable(item) for key, item in term.items() if key != "best"}
    return [readable(item) for item in term] if isinstance(term, list) else term


def _step(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    fields = {"next_thought": "t", "next_tool_name": tool, "next_tool_args": json.dumps(arguments)}
    return {
        "content": "".join(f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in fields.items())
        + "[[ ## completed ## ]]"
    }


def _without_times(pairs: list[tuple[str, Any]]) -> Any:
    return [(key, value) for key, value in pairs if key != "duration_ms"]
