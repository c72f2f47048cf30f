"""The services that models are asked at: their addresses, keys and headers.

Those that DSPy's own HTTP client speaks to are named in :data:`PROVIDERS`; those in :data:`LITELLM_PROVIDERS` are
reached through LiteLLM, whose import costs seconds and 120 MB at the first use.

Keys come from the configuration or from the provider's environment variable. They are remembered for redaction and
stand in no description.
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

#: Any server of the OpenAI wire, such as a gateway.
OPENAI_COMPATIBLE: Final = "openai_compatible"


class Provider(NamedTuple):
    """A service that DSPy's own client speaks to.

    Attributes:
        prefix: The provider's name in a model name of DSPy.
        key_variables: Environment variables that may hold the key, the first that is set counts; none: needs no key.
        needs_api_base: There is no public endpoint; the caller names one.
        base_path: What an ``api_base`` without a path is completed with.
    """

    prefix: str
    key_variables: tuple[str, ...] = ()
    needs_api_base: bool = False
    base_path: str = ""


PROVIDERS: Final[Mapping[str, Provider]] = {
    "openai": Provider("openai", ("OPENAI_API_KEY",)),
    "anthropic": Provider("anthropic", ("ANTHROPIC_API_KEY",)),
    "gemini": Provider("gemini", ("GEMINI_API_KEY", "GOOGLE_API_KEY")),
    # DSPy speaks Ollama's OpenAI-compatible wire, which begins at /v1.
    "ollama": Provider("ollama", base_path="/v1"),
    "openrouter": Provider("openrouter", ("OPENROUTER_API_KEY",)),
    "groq": Provider("groq", ("GROQ_API_KEY",)),
    "deepseek": Provider("deepseek", ("DEEPSEEK_API_KEY",)),
    "xai": Provider("xai", ("XAI_API_KEY",)),
    "moonshot": Provider("moonshot", ("MOONSHOT_API_KEY",)),
    "hosted_vllm": Provider("hosted_vllm", needs_api_base=True, base_path="/v1"),
    # Any other server of the OpenAI wire. DSPy's vLLM dialect sends `max_tokens`, which all of them know.
    OPENAI_COMPATIBLE: Provider("hosted_vllm", needs_api_base=True),
}

LITELLM_PROVIDERS: Final = frozenset(
    {
        *("azure", "bedrock", "cerebras", "cohere", "databricks", "fireworks_ai", "huggingface", "litellm_proxy"),
        *("lm_studio", "mistral", "nvidia_nim", "perplexity", "sagemaker", "sambanova", "together_ai", "vertex_ai"),
        "watsonx",
    }
)

# DSPy refuses to send a request without a key, and servers of one's own have none. Sent to a named `api_base` when no
# key is given, so that the key in the environment never reaches a host it was not made for.
_NO_KEY: Final = "not-needed"
_MIN_SECRET_CHARACTERS: Final = 8
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# What the client sets itself.
_CLIENT_HEADERS: Final = frozenset(["authorization", "content-type", "content-length", "host", "x-api-key"])


def api_base(value: object, provider: Provider | None, name: str, path: str) -> str | None:
    """Read the address of a provider's server; ``None``: the public one.

    Raises:
        OperationError: Of kind ``input``.
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
    # Credentials may stand in an address too. A user without a password is a token; a short value is a setting.
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
    except ValueError:  # a bracket, a name or a port that is none
        return None
    return parts if usable else None


def public_address(api_base: str | None) -> str | None:
    """Give an address without what may be secret in it: the user and the query."""
    if api_base is None:
        return None
    parts = urlsplit(api_base)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def api_key(value: object, provider: Provider | None, name: str, api_base: str | None, path: str) -> str | None:
    """Read the key for a provider, or find it in the environment.

    Raises:
        OperationError: Of kind ``input``, or ``auth``: there is none.
    """
    if value is not None:
        key = text_of(value)
        if not key or not (key.isascii() and key.isprintable()):
            # Whatever came, it is not shown.
            message = f"expected a string of printable ASCII characters at {path}.api_key"
            raise OperationError("input", message, path=f"{path}.api_key")
        remember_secret(key)
        return key
    if provider is None:
        # LiteLLM's providers have ways of their own to find their credentials.
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


def headers(value: object, name: str, path: str) -> tuple[tuple[str, str], ...]:
    """Read further headers of each request, in the order of their names. Their values are no one's business.

    Raises:
        OperationError: Of kind ``input``: a header that cannot be sent, or that the client sends itself; or headers for
            a provider of DSPy's own client that takes none.
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
    """Declare a server of OpenAI's chat completions that gets these headers with each request."""
    access = lm15.AccessPolicy(provider="openai-compatible", base_url=address, headers=headers)
    compat = lm15.OpenAIChatCompat.preset("vllm")
    return lm15.RegisteredProvider(lm15.ProviderDefinition.chat(access, compat=compat))
