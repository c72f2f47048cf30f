"""What the environment of a port says about the way to a provider: proxies and certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dspy import lm15
from dspy._vendor.lm15.transports import ConnectError

from erlport_bridge.programs.models.exchange import Exchange
from tests.model_server import CERTIFICATE, ModelServer, openai
from tests.port_process import PortProcess
from tests.programs.models.test_provider_errors import QA

SECRET = "pr0xy-secret-word"  # noqa: S105 - made up
# A host that no name server knows: a request reaches it through a proxy only.
BEHIND_PROXY = {"provider": "openai", "model": "answer", "api_base": "http://nowhere.test/v1", "api_key": "key-012345"}
PUBLIC_REMEDY = (
    "; check the address at api_base if one is given, the network, and whether it needs a proxy (HTTPS_PROXY)"
)
UNUSABLE_PROXIES = {
    "socks5": f"socks5://bob:{SECRET}@127.0.0.1:1080",
    "socks5h": "socks5h://127.0.0.1:1080",
    "https": f"https://{SECRET}@127.0.0.1:1080",
    "no host": "http://",
    "no port": f"http://bob:{SECRET}@127.0.0.1:port",
    "no URL": "::::",
}


def failure(environment: dict[str, str], lm: dict[str, Any]) -> dict[str, Any]:
    """Return the details of a call of a port with this environment; the request may not be repeated."""
    with PortProcess(environment=environment) as port:
        details = port.failed("execute_module", *QA, {"lm": {"num_retries": 0, **lm}})
        models = [{"num_retries": 0, **lm}, "embedded"]
        if details["kind"] == "transport":
            assert port.done("execute_module", *QA, {"lm": models})["$meta"]["failed_models"][0]["kind"] == "transport"
    assert SECRET not in repr(details)
    return details


@pytest.mark.parametrize("variable", ["ALL_PROXY", "http_proxy"])
@pytest.mark.parametrize("proxy", UNUSABLE_PROXIES.values(), ids=UNUSABLE_PROXIES)
def test_proxy_that_cannot_be_used_is_named(variable: str, proxy: str) -> None:
    """It was an internal error, after which no fallback model was asked."""
    if variable == "ALL_PROXY" and proxy == "::::":
        variable = "all_proxy"
    details = failure({variable: proxy}, {**BEHIND_PROXY, "num_retries": 10})
    assert (details["kind"], details["retryable"], details["traceback"]) == ("transport", False, [])
    assert f"{variable} names a proxy that cannot be used" in details["message"]
    assert "NO_PROXY=nowhere.test" in details["message"]


def test_proxy_that_is_gone_is_named() -> None:
    details = failure({"http_proxy": f"http://bob:{SECRET}@127.0.0.1:9"}, BEHIND_PROXY)
    assert (details["kind"], details["retryable"]) == ("transport", True)
    assert (
        "the proxy http://127.0.0.1:9 that http_proxy names; NO_PROXY=nowhere.test goes around it" in details["message"]
    )


@pytest.mark.parametrize(
    ("name", "kind", "is_retryable"),
    [
        ("status-403", "auth", False),
        ("status-407", "transport", False),
        ("status-502", "server", True),
        ("status-504", "timeout", True),
        ("broken-page", "provider", False),
    ],
)
def test_proxy_that_answers_in_place_of_the_provider_is_named(
    model_server: ModelServer, name: str, kind: str, is_retryable: bool
) -> None:
    proxy = model_server.url.replace("://", f"://bob:{SECRET}@")
    details = failure({"http_proxy": proxy}, {**BEHIND_PROXY, "model": name})
    assert (details["kind"], details["retryable"]) == (kind, is_retryable)
    assert f"the proxy {model_server.url} that http_proxy names" in details["message"]


def test_proxy_that_opens_no_tunnel_is_named(model_server: ModelServer) -> None:
    lm = {**BEHIND_PROXY, "api_base": "https://nowhere.test/v1"}
    details = failure({"HTTPS_PROXY": model_server.url}, lm)
    assert (details["kind"], details["retryable"]) == ("transport", True)
    assert "refused CONNECT to nowhere.test:443" in details["message"]
    assert "HTTPS_PROXY names" in details["message"]


def test_proxy_is_not_named_where_it_is_not_why(model_server: ModelServer) -> None:
    around = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}
    assert "http_proxy" not in failure(around, openai(model_server, "status-502"))["message"]
    through = {"http_proxy": model_server.url}
    assert "http_proxy" not in failure(through, {**BEHIND_PROXY, "model": "status-400"})["message"]


def test_request_goes_through_a_proxy(model_server: ModelServer) -> None:
    with PortProcess(environment={"http_proxy": model_server.url}) as port:
        port.done("execute_module", *QA, {"lm": BEHIND_PROXY})
    assert model_server.requests[0].path == "http://nowhere.test/v1/chat/completions"


def test_certificates_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    with ModelServer(tls=True) as server:
        lm = openai(server, "answer")
        unknown = failure({}, lm)
        missing = failure({"SSL_CERT_FILE": "/no/such/file.pem"}, lm)
        useless = failure({"SSL_CERT_FILE": str(broken)}, lm)
        with PortProcess(environment={"SSL_CERT_FILE": str(CERTIFICATE)}) as port:
            port.done("execute_module", *QA, {"lm": lm})
    for details in (unknown, missing, useless):
        assert (details["kind"], details["retryable"], details["traceback"]) == ("transport", False, [])
    assert "SSL_CERT_FILE can name a file" in unknown["message"]
    assert "SSL_CERT_FILE names /no/such/file.pem, which does not exist" in missing["message"]
    assert f"SSL_CERT_FILE, {broken}" in useless["message"]


def test_server_without_tls_is_told_from_one_with_a_wrong_certificate(model_server: ModelServer) -> None:
    lm = openai(model_server, "answer", api_base=model_server.url.replace("http:", "https:"))
    details = failure({}, lm)
    assert (details["kind"], details["retryable"]) == ("transport", False)
    assert "its address may begin with http://" in details["message"]


@pytest.mark.parametrize(
    ("lm", "host"),
    [
        (
            {"provider": "openai", "model": "m", "api_key": "key-012345", "api_base": "http://127.0.0.1:9/v1"},
            "127.0.0.1:9",
        ),
        ({"provider": "ollama", "model": "m", "api_base": "http://127.0.0.1:9"}, "127.0.0.1:9"),
        (
            {"provider": "openai", "model": "m", "api_key": "key-012345", "api_base": "http://a.invalid/v1"},
            "a.invalid:80",
        ),
    ],
)
def test_server_that_cannot_be_reached_is_named_with_what_to_check(lm: dict[str, Any], host: str) -> None:
    """The message ended with the system's words."""
    details = failure({}, lm)
    assert (details["kind"], details["retryable"]) == ("transport", True)
    assert f"failed to connect to {host}: " in details["message"]
    assert details["message"].endswith("; check that its server runs, and the address at api_base")


def test_public_server_that_cannot_be_reached_is_not_told_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    error = Exchange(None, lm15.ProviderError).unreachable(ConnectError("failed to connect to api.openai.com:443: no"))
    assert str(error).endswith(PUBLIC_REMEDY)


def test_server_that_litellm_cannot_reach_is_named_with_what_to_check() -> None:
    """LiteLLM knows whether the address is the provider's own."""
    lm = {"provider": "mistral", "model": "m", "api_key": "key-012345", "api_base": "http://127.0.0.1:9/v1"}
    details = failure({}, lm)
    assert details["kind"] == "transport"
    assert details["message"].endswith(PUBLIC_REMEDY)
