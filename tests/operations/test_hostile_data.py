"""Hostile signatures, options and tools are refused; an audit hook proves that nothing they name is touched.

Each payload names a module, a file, an address or a variable that contains one secret word. Python reports imports,
files, connections, processes and compiled or executed code to its audit hook. No report may contain that word.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess

WORD = "canarytrap"
SECRET = "hunter2-of-the-host"  # noqa: S105 - the secret that must not be read
WATCH = f"""
import sys

_seen = []
_watched = ("import", "open", "socket.", "subprocess.", "os.", "exec", "compile", "ctypes.", "shutil.", "urllib.")

def _hook(event, args):
    if event.startswith(_watched) and {WORD!r} in repr(args):
        _seen.append(event + " " + repr(args)[:200])

sys.addaudithook(_hook)

def seen():
    return list(_seen)

def prove():
    "Shows that the hook sees: the premise of all tests here."
    try:
        __import__("{WORD}_premise")
    except ImportError:
        pass
    found = list(_seen)
    _seen.clear()
    return found
"""
PAYLOADS = [
    *(f"{WORD}.Trap", f"{WORD}", f"dspy.{WORD}", f"__import__('{WORD}')", f"__import__('os').system('{WORD}')"),
    *(f"open('/srv/{WORD}')", f"/srv/{WORD}", f"file:///srv/{WORD}", f"../../{WORD}", f"http://127.0.0.1:1/{WORD}"),
    *(f"eval('{WORD}')", f"exec('import {WORD}')", f"lambda: {WORD}", f"{{{WORD}}}", f"${{{WORD}}}", f"%({WORD})s"),
    *(f"list[{WORD}.X]", f"dict[str, {WORD}.X]", f"Literal[{WORD}]", f"Optional[{WORD}.X]", f"{WORD}.X | None"),
    *(f"str; import {WORD}", f"str\n{WORD}", f"str, x: {WORD}", f"(str := {WORD})", f"pydantic.create_model('{WORD}')"),
    *(
        f"os.environ['{WORD.upper()}']",
        f"self.{WORD}",
        f"__class__.{WORD}",
        f"!!python/object:{WORD}.X",
        f"c{WORD}\nX\n.",
    ),
    *(f"<<CUSTOM-TYPE-START-IDENTIFIER>>{WORD}<<CUSTOM-TYPE-END-IDENTIFIER>>", f"[[ ## {WORD} ## ]]", f"\x00{WORD}"),
]
SIGNATURES: list[Any] = [
    *(f"question -> answer: {payload}" for payload in PAYLOADS),
    *(f"question: {payload} -> answer" for payload in PAYLOADS),
    *(f"{payload} -> answer" for payload in PAYLOADS),
    *({"inputs": {"question": payload}, "outputs": ["answer"]} for payload in PAYLOADS),
    *({"inputs": [{"name": "q", "type": payload}], "outputs": [payload]} for payload in PAYLOADS),
]
OPTIONS: list[dict[str, Any]] = [
    *(
        {name: payload}
        for name in ("max_iters", "adapter", "lm", "tools", "timeout", "demos")
        for payload in PAYLOADS[:12]
    ),
    *({"adapter": {"name": payload}} for payload in PAYLOADS[:6]),
    *({"adapter": {"name": "two_step", "extraction_model": payload}} for payload in PAYLOADS[:6]),
    *({"tools": [payload]} for payload in PAYLOADS),
    *({"demos": [{payload: payload}]} for payload in PAYLOADS[:6]),
    *({"lm": {"provider": payload, "model": "x"}} for payload in PAYLOADS[:12]),
    *({"lm": {"provider": "openai", "model": "x", payload: payload}} for payload in PAYLOADS[:6]),
]
TOOLS: list[dict[str, Any]] = [
    *({"name": payload, "description": "d", "callback": "1", "args": {}} for payload in PAYLOADS[:16]),
    *({"name": "t", "description": "d", "callback": payload, "args": payload} for payload in PAYLOADS[:6]),
    *({"name": "t", "description": "d", "callback": "1", "args": {"a": payload}} for payload in PAYLOADS[:16]),
    *(
        {"name": "t", "description": "d", "callback": "1", "args": {"a": {"type": payload}}}
        for payload in PAYLOADS[:16]
    ),
    *({"name": "t", "description": "d", "callback": "1", "args": {"a": {"$ref": payload}}} for payload in PAYLOADS[:6]),
    *({"name": "t", "description": "d", "func": payload} for payload in PAYLOADS[:6]),
]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortProcess]:
    folder = tmp_path_factory.mktemp("watch")
    (folder / "watch.py").write_text(WATCH)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": path, WORD.upper(): SECRET}
    with PortProcess(["--modules=dspy_bridge,watch", "--preload=watch,dspy_bridge"], environment=environment) as port:
        assert port.call("watch", "prove")[2]
        port.done("configure_lm", "embedded", {})
        # This call loads what is imported at the first use, before the audit hook watches.
        port.done("execute_module", "dspy.ReAct", "question -> answer", "x")
        yield port


def assert_harmless(port: PortProcess, status: str, result: Any) -> None:
    if status == "error":
        details = result[1]
        assert details["kind"] in ("signature", "input", "module_not_found", "tool", "provider"), details
        assert details["message"]
    assert SECRET not in repr(result)
    assert port.call("watch", "seen")[2] == []


def test_there_are_as_many_as_promised() -> None:
    assert len(SIGNATURES) + len(OPTIONS) + len(TOOLS) >= 200


@pytest.mark.parametrize("number", range(len(SIGNATURES)))
def test_signature(watched: PortProcess, number: int) -> None:
    status, result = watched.operate("validate_module", "dspy.Predict", SIGNATURES[number])
    assert_harmless(watched, status, result)


@pytest.mark.parametrize("number", range(len(OPTIONS)))
def test_options(watched: PortProcess, model_server: ModelServer, number: int) -> None:
    options = {"lm": openai(model_server, "answer"), **OPTIONS[number]}
    status, result = watched.operate("execute_module", "dspy.ReAct", "question -> answer", "x", options)
    assert status == "error"
    assert_harmless(watched, status, result)
    assert model_server.requests == []


@pytest.mark.parametrize("number", range(len(TOOLS)))
def test_tool(watched: PortProcess, model_server: ModelServer, number: int) -> None:
    options = {"tools": [TOOLS[number]]}
    status, result = watched.operate("validate_module", "dspy.ReAct", "question -> answer", options)
    assert_harmless(watched, status, result)
    assert model_server.requests == []
