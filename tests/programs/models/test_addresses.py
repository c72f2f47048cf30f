"""Addresses of servers: what is asked for, with which user and query, and which addresses are refused."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models import language_model
from erlport_bridge.programs.models.addresses import address_of, public_address
from tests.model_server import ModelServer
from tests.port_process import PortProcess
from tests.programs.models.test_provider_errors import QA, streamed

# Each address without its scheme, host and port -> the path that is asked for.
PATHS = {
    "/v1": "/v1/chat/completions",
    "/v1/": "/v1/chat/completions",
    "": "/chat/completions",
    "/": "/chat/completions",
    "/a/b%20c/v1": "/a/b%20c/v1/chat/completions",
    "/v1?token=K-0123456789": "/v1/chat/completions?token=K-0123456789",
    "/v1/?api-version=1&x=%26": "/v1/chat/completions?api-version=1&x=%26",
    "?token=K-0123456789": "/chat/completions?token=K-0123456789",
}
USERS = {
    "bob:secret-0@": "bob:secret-0",
    "bob:p%40ss%2Fw%23rd-1@": "bob:p@ss/w#rd-1",
    "b%C3%B6b:gr%C3%BCn-2345@": "böb:grün-2345",
    "token-without-password@": "token-without-password:",
    ":password-alone@": ":password-alone",
}
REFUSED = {
    "host/v1": "an http or https URL",
    "host:8000/v1": "an http or https URL",
    "//host/v1": "an http or https URL",
    "ftp://host/v1": "an http or https URL",
    "socks5://host/v1": "an http or https URL",
    "http://": "an http or https URL",
    "http:///v1": "an http or https URL",
    "http://bob:secret-word@/v1": "an http or https URL",
    "http://host:0/v1": "an http or https URL",
    "http://host:99999/v1": "an http or https URL",
    "http://host:eighty/v1": "an http or https URL",
    "http://[::1/v1": "an http or https URL",
    "http://bob:secret-word/rest@host/v1": "an http or https URL",
    "http://bob:secret-word#rest@host/v1": "an http or https URL",
    "http://host/v1#secret-word": "an address without a fragment",
    "http://host/v1#": "an address without a fragment",
    " http://host/v1": "printable ASCII characters without spaces",
    "http://host/v1 ": "printable ASCII characters without spaces",
    "http://host/v1\n": "printable ASCII characters without spaces",
    "http://host/v1\r\nX-Secret-Word: 1": "printable ASCII characters without spaces",
    "http://host/a b": "printable ASCII characters without spaces",
    "http://host/grün": "printable ASCII characters without spaces",
    "http://host/v1/chat/completions": "the address that comes before /chat/completions",
}


def chat(url: str, **options: Any) -> dict[str, Any]:
    return {"provider": "openai_compatible", "model": "answer", "api_base": url, "num_retries": 0, **options}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scheme", ["http://", "HTTP://"])
def test_path_and_query_are_joined(shared_port: PortProcess, model_server: ModelServer, path: str, scheme: str) -> None:
    """A query was taken for a part of the path: `/v1?token=K/chat/completions`."""
    lm = chat(scheme + model_server.url.partition("://")[2] + path)
    shared_port.done("execute_module", *QA, {"lm": lm})
    assert streamed(shared_port, lm)[0][0] == "ok"
    assert [request.path for request in model_server.requests] == [PATHS[path]] * 2


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        ({"provider": "openai", "model_type": "responses"}, "/v1/responses?a=b"),
        ({"provider": "anthropic"}, "/v1/messages?a=b"),
        ({"provider": "gemini"}, "/v1/models/answer:streamGenerateContent?alt=sse&a=b"),
        ({"provider": "ollama"}, "/v1/chat/completions?a=b"),
        ({"provider": "openai_compatible", "headers": {"x-team": "blue"}}, "/v1/chat/completions?a=b"),
    ],
)
def test_query_is_joined_for_each_provider(
    shared_port: PortProcess, model_server: ModelServer, provider: dict[str, Any], path: str
) -> None:
    assert streamed(shared_port, chat(f"{model_server.url}/v1?a=b", **provider))[0][0] == "ok"
    assert model_server.requests[0].path == path


def test_base_path_of_a_provider_stays_with_a_query(shared_port: PortProcess, model_server: ModelServer) -> None:
    shared_port.done("execute_module", *QA, {"lm": chat(f"{model_server.url}?a=b", provider="ollama")})
    assert model_server.requests[0].path == "/v1/chat/completions?a=b"


@pytest.mark.parametrize("user", USERS)
def test_user_is_sent_as_basic_authentication(shared_port: PortProcess, model_server: ModelServer, user: str) -> None:
    """The user and the password were a part of the host that the name server was asked for."""
    lm = chat(model_server.url.replace("://", f"://{user}") + "/v1")
    answers = [
        shared_port.done("execute_module", *QA, {"lm": lm}),
        shared_port.done("configure_lm", lm.pop("provider"), lm),
    ]
    header = model_server.requests[0].headers["authorization"]
    assert base64.b64decode(header.removeprefix("Basic ")).decode() == USERS[user]
    secret = user.rstrip("@").rpartition(":")[2]
    assert secret not in repr(answers)
    shared_port.done("configure_lm", "embedded", {})


def test_user_of_a_proxy_before_a_provider_is_sent_beside_its_key(
    shared_port: PortProcess, model_server: ModelServer
) -> None:
    url = model_server.url.replace("://", "://bob:secret-9876@") + "/v1"
    shared_port.done("execute_module", *QA, {"lm": chat(url, provider="anthropic", api_key="sk-ant-0123456789")})
    headers = model_server.requests[0].headers
    assert headers["authorization"].startswith("Basic ")
    assert headers["x-api-key"] == "sk-ant-0123456789"


def test_user_and_key_for_one_header_are_refused(shared_port: PortProcess) -> None:
    lm = chat("http://bob:secret-9876@127.0.0.1:1/v1", api_key="sk-0123456789")
    details = shared_port.failed("execute_module", *QA, {"lm": lm})
    assert (details["kind"], details["path"]) == ("input", "opts.lm.api_key")
    assert "secret-9876" not in repr(details)


def test_password_is_in_no_error(shared_port: PortProcess, model_server: ModelServer) -> None:
    lm = chat("http://bob:p%40ss-9876@127.0.0.1:1/v1?token=K-9876543210")
    shown = repr(shared_port.failed("execute_module", *QA, {"lm": lm}))
    assert "127.0.0.1:1" in shown
    for secret in ("p%40ss-9876", "p@ss-9876", "K-9876543210"):
        assert secret not in shown


@pytest.mark.parametrize("address", REFUSED)
def test_address_that_cannot_be_asked_is_refused(address: str) -> None:
    with pytest.raises(OperationError) as caught:
        language_model("openai_compatible", {"model": "m", "api_base": address})
    assert (caught.value.kind, caught.value.facts["path"]) == ("input", "config.api_base")
    assert f"expected {REFUSED[address]}" in caught.value.message
    assert "secret-word" not in caught.value.message.lower()


@pytest.mark.parametrize(
    ("address", "got"),
    [
        ("http//127.0.0.1:9/v1", '"http//127.0.0.1:9/v1" that does not begin with http:// or https://'),
        ("http:/host/v1", "an address that does not begin with http:// or https://"),
        ("localhost:11434", '"localhost:11434" that does not begin with http:// or https://'),
        ("//host/v1", '"//host/v1" that does not begin with http:// or https://'),
        ("ftp://host/v1", '"ftp://host/v1" whose scheme is neither http nor https'),
        ("http:///v1", '"http:///v1" without a host'),
        ("http://a..b/v1", '"http://a..b/v1" whose host is invalid'),
        ("http://[::1/v1", "an address whose host is invalid"),
        ("http://host:99999/v1", '"http://host:99999/v1" whose port is not within 1 to 65535'),
        ("http://host:0", '"http://host:0" whose port is not within 1 to 65535'),
        ("http://bob:99999@host:99999/v1", "an address whose port is not within 1 to 65535"),
        ("https://bob:secret-word", "an address whose port is not a number"),
        ("localhost:1/v1?key=secret-word", "an address that does not begin with http:// or https://"),
        ("sk-secret-word.0123/45678", "an address that does not begin with http:// or https://"),
        ("bob:secret-word@host:80", "an address that does not begin with http:// or https://"),
    ],
)
def test_wrong_part_of_an_address_is_named_and_shown_without_secrets(address: str, got: str) -> None:
    """The error said what an address is, and neither what came nor what was wrong with it."""
    with pytest.raises(OperationError) as caught:
        language_model("openai_compatible", {"model": "m", "api_base": address})
    assert caught.value.message.endswith(f" at config.api_base, got {got}")
    assert "secret-word" not in caught.value.message


@pytest.mark.parametrize("address", ["http://me:word@host/v1", "http://host/v1?key=word"])
def test_litellm_takes_neither_user_nor_query(address: str) -> None:
    with pytest.raises(OperationError) as caught:
        language_model("lm_studio", {"model": "m", "api_base": address})
    assert (caught.value.kind, caught.value.facts["path"]) == ("input", "config.api_base")
    assert "word" not in caught.value.message


def test_one_server_has_one_address() -> None:
    spellings = ["http://host:8000/v1", "HTTP://host:8000/v1/", "http://HOST:8000/v1"]
    assert len({address_of(url) for url in spellings}) == 1
    assert address_of("http://[::1]:8000/v1").plain == "http://[::1]:8000/v1"
    assert address_of("http://host:/v1").plain == "http://host/v1"
    assert address_of("https://u:p@[2001:DB8::1]/x?q=1") == (
        "https://u:p@[2001:db8::1]/x?q=1",
        "https://[2001:db8::1]/x",
        "q=1",
        "Basic dTpw",
    )
    assert public_address("https://u:p@[2001:db8::1]/x?q=1#f") == "https://[2001:db8::1]/x"
