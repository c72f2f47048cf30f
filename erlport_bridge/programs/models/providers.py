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

from dspy import lm15

from erlport_bridge import dspy_patches
from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models.addresses import AddressError, address_of
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

# What callers may mean by the name of a company or of a product, or by a name of other libraries.
_OTHER_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "amazon": ("bedrock", "sagemaker"),
    "aws": ("bedrock", "sagemaker"),
    "azure_openai": ("azure",),
    "function": ("elixir",),
    "google": ("gemini", "vertex_ai"),
    "hf": ("huggingface",),
    "ibm": ("watsonx",),
    "llama_cpp": (OPENAI_COMPATIBLE,),
    "llamacpp": (OPENAI_COMPATIBLE,),
    "local": ("ollama", OPENAI_COMPATIBLE),
    "microsoft": ("azure",),
    "nvidia": ("nvidia_nim",),
    "vertex": ("vertex_ai",),
    "vllm": ("hosted_vllm",),
}
# How the names of a provider's models begin: for callers who leave out the provider.
_FAMILIES: Final[Mapping[str, str]] = {
    "gpt": "openai",
    "chatgpt": "openai",
    "o1": "openai",
    "o3": "openai",
    "o4": "openai",
    "claude": "anthropic",
    "gemini": "gemini",
    "deepseek": "deepseek",
    "grok": "xai",
    "kimi": "moonshot",
    "moonshot": "moonshot",
    "mistral": "mistral",
    "codestral": "mistral",
    "command": "cohere",
    "sonar": "perplexity",
    "llama": "ollama",
    "qwen": "ollama",
    "gemma": "ollama",
}
_MODEL_NAME: Final = re.compile(r"([a-z]+[0-9]?|[a-z][0-9])(?:[-.:0-9][a-zA-Z0-9.:_-]{0,63})?")

# Sent as the key to an `api_base` when the caller gives no key. DSPy refuses to send a request without a key, and
# self-hosted servers need none. The key in the environment must not reach a host for which it was not made.
_NO_KEY: Final = "not-needed"
# Providers whose key has a header of its own, so that a proxy in front of them can have a user.
_WITH_HEADER_OF_KEY: Final = frozenset({"anthropic", "gemini"})
_MIN_SECRET_CHARACTERS: Final = 8
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# Headers that the client sets itself.
_CLIENT_HEADERS: Final = frozenset(["authorization", "content-type", "content-length", "host", "x-api-key"])


def meant(name: str) -> tuple[str, ...]:
    """Return the providers that a name which is no provider may mean, or the model with its provider.

    >>> meant("google"), meant("claude"), meant("sk-0123")
    (('gemini', 'vertex_ai'), ('anthropic',), ())
    >>> meant("gpt-4o-mini"), meant("openai:gpt-4o")
    (('openai/gpt-4o-mini',), ('openai/gpt-4o',))
    """
    if others := _OTHER_NAMES.get(name.lower()):
        return others
    provider, is_pair, rest = name.partition(":")
    if is_pair and rest and (provider in PROVIDERS or provider in LITELLM_PROVIDERS):
        return (f"{provider}/{rest}",)
    found = _MODEL_NAME.fullmatch(name)
    family = found and (_FAMILIES.get(found[1]) or _FAMILIES.get(found[1].rstrip("0123456789")))
    if not family:
        return ()
    # A name of letters alone, such as ``claude``, is that of no model.
    return (family if name.isalpha() else f"{family}/{name}",)


def api_base(value: object, provider: Provider | None, name: str, path: str) -> str | None:
    """Read the address of a provider's server; return ``None`` for the public endpoint.

    Raises:
        OperationError: Of kind ``input``: the address is missing, is not an http or https URL, or has a user or a
            query, and the provider takes neither.
    """
    path = f"{path}.api_base"
    base = arguments.optional_text(value, path)
    if base is None:
        if provider is not None and provider.needs_api_base:
            raise OperationError(
                "input",
                f'provider {quoted(name)} needs the address of its server at {path}, such as "http://127.0.0.1:8000/v1"',
                path=path,
            )
        return None
    try:
        address = address_of(base, base_path=provider.base_path if provider else "")
    except AddressError as error:
        raise OperationError("input", f"expected {error} at {path}{error.got}", path=path) from None
    if not address.is_plain:
        if provider is None:
            message = f"provider {quoted(name)} takes no user and no query in the address at {path}"
            raise OperationError("input", message, path=path)
        dspy_patches.require("native_engines", "addresses with a user or a query")
    return address.url


def check_user(api_base: str | None, api_key: object, name: str, path: str) -> None:
    """Check that a request needs its header ``Authorization`` for one purpose.

    Raises:
        OperationError: Of kind ``input``: the address has a user, and there is a key too.
    """
    if api_base is None or api_key is None or name in _WITH_HEADER_OF_KEY:
        return
    if address_of(api_base).credentials is not None:
        message = (
            f"expected either a user in the address at {path}.api_base or {path}.api_key: both are sent in the header "
            "Authorization"
        )
        raise OperationError("input", message, path=f"{path}.api_key")


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
