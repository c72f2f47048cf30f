"""The providers of language models, and the reading of addresses, API keys and headers.

DSPy's own HTTP client sends requests to the providers in :data:`PROVIDERS`. LiteLLM sends requests to those in
:data:`LITELLM_PROVIDERS`; its import costs seconds and 120 MB at the first use.

API keys come from the configuration or from the provider's environment variable. They are remembered for redaction, and
are in no description.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from dspy import lm15

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.text import arguments, quoted, text_of
from erlport_bridge.redaction import remember_secret

#: The provider name of any other server with OpenAI's API, such as a gateway.
OPENAI_COMPATIBLE: Final = "openai_compatible"


class Provider(NamedTuple):
    """A provider that DSPy's own client supports.

    Attributes:
        prefix: The provider's name in a model name of DSPy.
        key_variables: Environment variables for the API key, of which the first that is set counts; empty: no key.
        needs_api_base: Whether the caller must give an address, since there is no public endpoint.
        base_path: The path that is added to an ``api_base`` without a path.
    """

    prefix: str
    key_variables: tuple[str, ...] = ()
    needs_api_base: bool = False
    base_path: str = ""


PROVIDERS: Final[Mapping[str, Provider]] = {
    "openai": Provider("openai", ("OPENAI_API_KEY",)),
    "anthropic": Provider("anthropic", ("ANTHROPIC_API_KEY",)),
    "gemini": Provider("gemini", ("GEMINI_API_KEY", "GOOGLE_API_KEY")),
    # DSPy uses Ollama's OpenAI-compatible API, whose path is /v1.
    "ollama": Provider("ollama", base_path="/v1"),
    "openrouter": Provider("openrouter", ("OPENROUTER_API_KEY",)),
    "groq": Provider("groq", ("GROQ_API_KEY",)),
    "deepseek": Provider("deepseek", ("DEEPSEEK_API_KEY",)),
    "xai": Provider("xai", ("XAI_API_KEY",)),
    "moonshot": Provider("moonshot", ("MOONSHOT_API_KEY",)),
    "hosted_vllm": Provider("hosted_vllm", needs_api_base=True, base_path="/v1"),
    # Uses DSPy's vLLM dialect, since it sends `max_tokens`, which all such servers accept.
    OPENAI_COMPATIBLE: Provider("hosted_vllm", needs_api_base=True),
}

LITELLM_PROVIDERS: Final = frozenset(
    {
        *("azure", "bedrock", "cerebras", "cohere", "databricks", "fireworks_ai", "huggingface", "litellm_proxy"),
        *("lm_studio", "mistral", "nvidia_nim", "perplexity", "sagemaker", "sambanova", "together_ai", "vertex_ai"),
        "watsonx",
    }
)

# Sent as the key to an `api_base` when the caller gives no key. DSPy refuses to send a request without a key, and
# self-hosted servers need none. The key in the environment must not reach a host for which it was not made.
_NO_KEY: Final = "not-needed"
_MIN_SECRET_CHARACTERS: Final = 8
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# Headers that the client sets itself.
_CLIENT_HEADERS: Final = frozenset(["authorization", "content-type", "content-length", "host", "x-api-key"])


def api_base(value: object, provider: Provider | None, name: str, path: str) -> str | None:
    """Read the address of a provider's server; return ``None`` for the public endpoint.

    Raises:
        OperationError: Of kind ``input``: the address is missing or is not an http or https URL.
    """
    base = arguments.optional_text(value, f"{path}.api_base")
    if base is None:
        if provider is not None and provider.needs_api_base:
            raise OperationError(
                "input",
                f'provider {quoted(name)} needs the address of its server at {path}.api_base, such as "http://127.0.0.1:8000/v1"',
                path=f"{path}.api_base",
            )
        return None
    parts = _url_parts(base)
    if parts is None:
        raise OperationError("input", f"expected an http or https URL at {path}.api_base", path=f"{path}.api_base")
    # An address may contain credentials: a user without a password is a token, a long value of the query may be a key.
    remember_secret(unquote(parts.password or parts.username or ""))
    for _, value_in_query in parse_qsl(parts.query):
        if len(value_in_query) >= _MIN_SECRET_CHARACTERS:
            remember_secret(value_in_query)
    if provider is not None and parts.path in ("", "/"):
        base = base.rstrip("/") + provider.base_path
    return base


def _url_parts(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and (parts.hostname or "").encode("idna") and parts.port != 0
    except ValueError:  # an invalid bracket, host name or port
        return None
    return parts if usable else None


def public_address(api_base: str | None) -> str | None:
    """Return an address without the parts that may be secret: the user and the query."""
    if api_base is None:
        return None
    parts = urlsplit(api_base)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def api_key(value: object, provider: Provider | None, name: str, api_base: str | None, path: str) -> str | None:
    """Read the API key for a provider, or take it from the environment.

    Raises:
        OperationError: Of kind ``input``: the key is invalid. Of kind ``auth``: there is no key.
    """
    if value is not None:
        return usable_key(value, f"{path}.api_key")
    if provider is None:
        # LiteLLM finds the credentials of its providers itself.
        return None
    if api_base is not None or not provider.key_variables:
        return _NO_KEY
    for variable in provider.key_variables:
        if key := os.environ.get(variable):
            remember_secret(key)
            return key
    raise OperationError(
        "auth",
        f"no API key for provider {quoted(name)}; give {path}.api_key or set {' or '.join(provider.key_variables)} "
        f"in the environment of the port",
        path=f"{path}.api_key",
        provider=name,
    )


def usable_key(value: object, path: str) -> str:
    """Return an API key that can be sent, and remember it for redaction.

    Raises:
        OperationError: Of kind ``input``: the key is invalid.
    """
    key = text_of(value)
    if not key or not (key.isascii() and key.isprintable()):
        # The value is never shown, since it may be a key.
        raise OperationError("input", f"expected a string of printable ASCII characters at {path}", path=path)
    remember_secret(key)
    return key


def headers(value: object, name: str, path: str) -> tuple[tuple[str, str], ...]:
    """Read additional headers for each request, sorted by name; their values are remembered as secrets.

    Raises:
        OperationError: Of kind ``input``: a header is invalid, is one that the client sends itself, or the provider
            takes no headers.
    """
    path = f"{path}.headers"
    given = arguments.options(value, path)
    if given and name in PROVIDERS and name != OPENAI_COMPATIBLE:
        message = (
            f"provider {quoted(name)} takes no headers; a gateway with headers is the provider {OPENAI_COMPATIBLE}"
        )
        raise OperationError("input", message, path=path)
    found = []
    for header, content in sorted(given.items()):
        text = text_of(content)
        if not _HEADER_NAME.fullmatch(header) or header.lower() in _CLIENT_HEADERS:
            message = f"expected the name of a header beside {', '.join(sorted(_CLIENT_HEADERS))}, got {quoted(header)}"
            raise OperationError("input", f"{message} at {path}", path=path)
        if not text or not (text.isascii() and text.isprintable()):
            message = f"expected a string of printable ASCII characters at {path}.{header}"
            raise OperationError("input", message, path=f"{path}.{header}")
        if len(text) >= _MIN_SECRET_CHARACTERS:
            remember_secret(text)
        found.append((header, text))
    return tuple(found)


def gateway(address: str, headers: tuple[tuple[str, str], ...]) -> lm15.RegisteredProvider:
    """Return a provider for a server with OpenAI's chat completions, to which each request has these headers."""
    access = lm15.AccessPolicy(provider="openai-compatible", base_url=address, headers=headers)
    compat = lm15.OpenAIChatCompat.preset("vllm")
    return lm15.RegisteredProvider(lm15.ProviderDefinition.chat(access, compat=compat))
