"""Test that no key of a language model leaves the port: not in results, not in errors, not in the log."""

from __future__ import annotations

from typing import Any

import pytest

from tests.model_server import ModelServer
from tests.port_process import PortProcess

QA = "question -> answer"
KEY = "sk-a-very-secret-key"
SHORT_KEY = "k3y77"
IN_THE_URL = "hunter2pass"
QUERY_KEY = "sk-in-the-query"


def assert_no_secret(found: object) -> None:
    for secret in (KEY, SHORT_KEY, IN_THE_URL, QUERY_KEY):
        assert secret not in repr(found)


def test_no_answer_and_no_log_has_a_key(model_server: ModelServer) -> None:
    base = model_server.url.replace("://", f"://user:{IN_THE_URL}@") + f"/v1?key={QUERY_KEY}"
    said = f"bad key {KEY}, {SHORT_KEY}, {IN_THE_URL}, {QUERY_KEY}"

    def lm(model: str, key: str, **more: Any) -> dict[str, Any]:
        return {"provider": "openai", "model": model, "api_base": f"{model_server.url}/v1", "api_key": key, **more}

    with PortProcess() as port:
        config = {"model": "answer", "api_base": base, "api_key": KEY}
        # Its key has a header of its own, beside the user of the address.
        description = port.done("configure_lm", "anthropic", config)
        assert description["api_base"] == f"{model_server.url}/v1"
        port.done("configure_lm", "anthropic", config, {"session_id": "mine"})
        port.done("execute_module", "dspy.Predict", QA, "x", {"lm": lm("answer", SHORT_KEY)})
        port.done("create_program", {"signature": QA, "lm": lm("answer", KEY)}, {"session_id": "mine"})
        for operation in ("ping", "list_sessions", "list_programs", "metrics"):
            assert_no_secret(port.done(operation))
        assert_no_secret(port.done("session_info", "mine"))
        model_server.script("says", {"status": 401, "code": said})
        details = port.failed(
            "execute_module", "dspy.Predict", QA, "x", {"lm": lm("scripted:says", SHORT_KEY, num_retries=0)}
        )
        assert "[redacted]" in details["message"]
        assert_no_secret(details)
        model_server.script("writes", {"content": said}, {"content": said})
        unreadable = {"lm": lm("scripted:writes", KEY)}
        assert_no_secret(port.failed("execute_module", "dspy.Predict", QA, "x", unreadable))
        code = f"raise ValueError({said!r})"
        model_server.script("raises", {"fields": {"reasoning": "-", "generated_code": code}})
        options = {"lm": lm("scripted:raises", KEY), "max_iters": 1}
        assert_no_secret(port.failed("execute_module", "dspy.ProgramOfThought", QA, "x", options))
        port.call("logging", "error", said)
        port.close()
        log = port.stderr_text()
    assert "[redacted]" in log
    assert_no_secret(log)


@pytest.mark.parametrize(
    ("provider", "config"),
    [
        ("openai", {"model": "m", "api_key": [KEY]}),
        ("openai", {"model": "m", "api_key": {"key": KEY}}),
        ("openai", {"model": "m", "api_key": f"{KEY}\n"}),
        ("openai", [["api_key", KEY]]),
        ("openai", KEY),
        ("openai", [("api_key", KEY, 1)]),
        ("openai", {"model": "m", "api_base": f"ftp://user:{IN_THE_URL}@host/"}),
        ("openai", {"model": "m", "api_base": f"http://[user:{IN_THE_URL}@host/"}),
        ("openai", {"model": "m", "api_base": f"http://user:{IN_THE_URL}@host..com/"}),
        ("openai", {"model": "m", "api_base": f"http://user:{IN_THE_URL}@host:99999/"}),
    ],
)
def test_wrong_configuration_is_told_without_what_came(provider: str, config: Any) -> None:
    with PortProcess() as port:
        details = port.failed("configure_lm", provider, config)
        in_a_call = [
            port.failed("execute_module", "dspy.Predict", QA, "x", opts)
            for opts in ({"lm": [config]}, [["lm", config]])
        ]
    assert details["kind"] == "input"
    assert_no_secret([details, in_a_call])
