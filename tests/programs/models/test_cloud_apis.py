"""Answers, streams and errors of the APIs of Cohere and Bedrock, which LiteLLM alone speaks.

Its import takes seconds, so all tests share a port.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.model_server.cloud_wires import CloudServer
from tests.port_process import PortProcess
from tests.programs.models.test_provider_errors import QA, streamed

APIS = ("cohere", "bedrock")
#: The status of an error -> the kind of the error, whether it is retryable.
ERRORS = {
    400: ("provider", False),
    401: ("auth", False),
    402: ("billing", False),
    403: ("auth", False),
    404: ("unsupported_model", False),
    408: ("timeout", True),
    429: ("rate_limit", True),
    500: ("server", True),
    503: ("server", True),
    504: ("timeout", True),
}


@pytest.fixture(scope="module")
def cloud() -> Iterator[CloudServer]:
    with CloudServer() as server:
        yield server


@pytest.fixture(scope="module")
def cloud_port() -> Iterator[PortProcess]:
    """Yield a port with a region and without credentials; nothing may look for those in the network."""
    environment = {
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ""),
    }
    with PortProcess(["--modules=dspy_bridge"], environment=environment) as port:
        yield port


def model(server: CloudServer, api: str, name: str) -> dict[str, Any]:
    common = {"provider": api, "api_key": "key-of-a-cloud-1234", "num_retries": 0}
    if api == "cohere":
        return {**common, "model": name, "api_base": f"{server.url}/v2/chat"}
    return {**common, "model": f"converse/anthropic.{name}", "api_base": server.url}


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def called(port: PortProcess, lm: Any) -> Any:
    return port.operate("execute_module", *QA, {"lm": lm})


@pytest.mark.parametrize("api", APIS)
def test_an_answer_comes_whole_and_in_pieces(cloud_port: PortProcess, cloud: CloudServer, api: str) -> None:
    """LiteLLM could not read a stream of Cohere's."""
    lm = model(cloud, api, "answer")
    for (status, answer), text in ((called(cloud_port, lm), None), streamed(cloud_port, lm)):
        assert status == "ok", answer
        assert answer["answer"] == "Lisbon"
        assert text in (None, "Lisbon")
        (usage,) = answer["$meta"]["usage"].values()
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (7, 5)
    paths = [path for path, _ in cloud.requests[-2:]]
    assert paths == (
        ["/v2/chat"] * 2 if api == "cohere" else [f"/model/anthropic.answer/converse{s}" for s in ("", "-stream")]
    )


@pytest.mark.parametrize("status", [429, 500, *(pytest.param(one, marks=pytest.mark.long) for one in ERRORS)])
@pytest.mark.parametrize("api", APIS)
def test_an_error_has_its_kind(cloud_port: PortProcess, cloud: CloudServer, api: str, status: int) -> None:
    """402 was of kind ``provider``, 500 of Bedrock had the status 503, and the time to wait was lost."""
    lm = model(cloud, api, f"status-{status}")
    for result in (called(cloud_port, lm), streamed(cloud_port, lm)[0]):
        assert result[0] == "error"
        details = result[1][1]
        assert (details["kind"], details["retryable"], details["status"]) == (*ERRORS[status], status)
        assert details.get("retry_after") == (7.0 if (api, status) == ("cohere", 429) else None)
        assert f"status {status}" in details["message"]


@pytest.mark.parametrize("api", APIS)
def test_a_page_is_no_answer(cloud_port: PortProcess, cloud: CloudServer, api: str) -> None:
    lm = model(cloud, api, "page")
    for result in (called(cloud_port, lm), streamed(cloud_port, lm)[0]):
        details = result[1][1]
        assert (details["kind"], details["retryable"], details["status"]) == ("provider", False, 200)
        assert "the reply (HTTP 200, text/html) cannot be read as an answer" in details["message"]


@pytest.mark.parametrize("api", APIS)
def test_a_stream_that_breaks_off_may_be_asked_for_again(cloud_port: PortProcess, cloud: CloudServer, api: str) -> None:
    """Of Bedrock it was of kind ``provider``, and not retryable."""
    (status, answer), _ = streamed(cloud_port, model(cloud, api, "cut"))
    assert status == "error"
    assert (answer[1]["kind"], answer[1]["retryable"]) == ("transport", True)
    assert "the stream (HTTP 200, " in answer[1]["message"]


@pytest.mark.parametrize(("api", "kind"), [("cohere", "server"), ("bedrock", "rate_limit")])
def test_an_error_within_a_stream_is_that_error(
    cloud_port: PortProcess, cloud: CloudServer, api: str, kind: str
) -> None:
    """Bedrock's exception was of kind ``server``, with the status 429."""
    (status, answer), _ = streamed(cloud_port, model(cloud, api, "late"))
    assert status == "error"
    assert (answer[1]["kind"], answer[1]["retryable"]) == (kind, True)
    assert "too many requests" in answer[1]["message"]


@pytest.mark.parametrize(
    ("lm", "kind"),
    [
        ({"provider": "sagemaker", "model": "my-endpoint"}, "auth"),
        pytest.param({"provider": "bedrock", "model": "converse/anthropic.x"}, "auth", marks=pytest.mark.long),
        ({"provider": "azure", "model": "gpt"}, "auth"),
        ({"provider": "vertex_ai", "model": "gemini-2.0-flash"}, "missing_dependency"),
    ],
)
def test_what_is_missing_before_a_request_is_no_error_of_the_server(
    cloud_port: PortProcess, model_server: ModelServer, lm: dict[str, Any], kind: str
) -> None:
    """A package that is not installed was an error of kind ``transport``, which was asked for again."""
    if kind == "missing_dependency" and _is_installed("google.auth"):
        pytest.skip("the package is installed here")
    status, answer = called(cloud_port, lm)
    assert (status, answer[1]["kind"], answer[1]["retryable"]) == ("error", kind, False), answer
    assert called(cloud_port, [lm, openai(model_server, "good")])[1]["answer"] == "answer to hi"
