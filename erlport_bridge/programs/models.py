"""Language models: which providers there are, and how a caller's configuration becomes a ``dspy.LM``.

A model is configured with a provider's name and a map of options (:data:`OPTIONS`). The providers that DSPy's own HTTP
client speaks are named in :data:`PROVIDERS`; those in :data:`LITELLM_PROVIDERS` are reached through LiteLLM, whose
import costs seconds and 120 MB at the first use. ``embedded`` needs nothing.

Keys come from the configuration or from the provider's environment variable. They are remembered for redaction and
stand in no description.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs import arguments, elixir_model, embedded
from erlport_bridge.programs.progress import ObservedLM
from erlport_bridge.programs.text import quoted, suggestion, text_of
from erlport_bridge.redaction import remember_secret
from erlport_bridge.term.inspecting import shown

# Off for good: DSPy's cache keys leave out the API key and the endpoint, so that two tenants would share answers.
dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)

EMBEDDED: Final = "embedded"
#: A function of the other side.
ELIXIR: Final = "elixir"


@dataclass(frozen=True)
class Provider:
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
    "openai_compatible": Provider("hosted_vllm", needs_api_base=True),
}

LITELLM_PROVIDERS: Final = frozenset(
    {
        *("azure", "bedrock", "cerebras", "cohere", "databricks", "fireworks_ai", "huggingface", "litellm_proxy"),
        *("lm_studio", "mistral", "nvidia_nim", "perplexity", "sagemaker", "sambanova", "together_ai", "vertex_ai"),
        "watsonx",
    }
)

#: Settings of a generation: accepted when a model is configured and in the options of a call.
GENERATION_SETTINGS: Final = frozenset(
    [
        "temperature",
        "max_tokens",
        "n",
        "top_p",
        "stop",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "reasoning_effort",
    ]
)
_CLIENT_OPTIONS: Final = frozenset(["model", "api_key", "api_base", "num_retries", "model_type"])
_ELIXIR_OPTIONS: Final = frozenset(["model", "callback", "num_retries"])
#: What ``configure_lm`` takes in its map of options.
OPTIONS: Final = GENERATION_SETTINGS | _CLIENT_OPTIONS

# DSPy refuses to send a request without a key, and servers of one's own have none. Sent to a named `api_base` when no
# key is given, so that the key in the environment never reaches a host it was not made for.
_NO_KEY: Final = "not-needed"
_MAX_RETRIES: Final = 10
_MIN_QUERY_SECRET_CHARACTERS: Final = 8
# OpenAI's limit. The embedded model would write any number of them, and could not be stopped.
_MAX_COMPLETIONS: Final = 128
# JSON's readers hold no larger integer, and Python refuses to write one of more than 4,300 digits.
_MAX_NUMBER: Final = 2**63 - 1


@dataclass(frozen=True)
class LanguageModel:
    """A configured model. ``repr`` shows no key.

    Attributes:
        writes_in_pieces: Its engine streams.
    """

    provider: str
    model: str
    lm: dspy.LM = field(repr=False)
    api_base: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    description: str = "a language model of this provider"
    writes_in_pieces: bool = True

    def describe(self) -> dict[str, Any]:
        """Give what a caller may know: ``provider``, ``model``, ``api_base``, ``settings``, ``description``."""
        return {
            "provider": self.provider,
            "model": self.model,
            "api_base": self.api_base,
            "settings": dict(self.settings),
            "description": self.description,
        }


def language_model(provider: object, options: object, *, path: str = "config") -> LanguageModel:
    """Configure a model.

    Args:
        provider: ``embedded``, a name of :data:`PROVIDERS` or :data:`LITELLM_PROVIDERS`, or ``"provider/model"``.
        options: A map of :data:`OPTIONS`; ``api_base`` has an alias ``base_url``.
        path: What the options are called, for errors.

    Raises:
        OperationError: Of kind ``provider`` (no such provider), ``auth`` (no key), ``input`` (an option).
    """
    name, _, model = arguments.text(provider, "provider").partition("/")
    given = arguments.options(options, path)
    if name == ELIXIR:
        return _elixir(given, path)
    if "base_url" in given:
        given.setdefault("api_base", given.pop("base_url"))
    arguments.only(given, OPTIONS, "option", path)
    if model:
        given.setdefault("model", model)
    settings = _settings(given, path)
    if name == EMBEDDED:
        return _embedded(settings)
    if name not in PROVIDERS and name not in LITELLM_PROVIDERS:
        known = sorted([EMBEDDED, ELIXIR, *PROVIDERS, *LITELLM_PROVIDERS])
        raise OperationError(
            "provider",
            f"unknown provider {quoted(name)}{suggestion(name, known)}; known providers: {', '.join(known)}",
            path="provider",
            provider=name,
        )
    return _remote(name, given, settings, path)


def from_option(value: object, path: str = "opts.lm") -> LanguageModel:
    """Read the ``lm`` option of a call: ``"provider/model"``, ``:embedded``, or a map with ``provider`` and options."""
    if isinstance(value, str):
        return language_model(value, {}, path=path)
    given = arguments.options(value, path)
    if "provider" not in given:
        raise OperationError("input", f"expected a provider at {path}.provider", path=f"{path}.provider")
    return language_model(given.pop("provider"), given, path=path)


def with_settings(lm: dspy.LM, settings: Mapping[str, Any]) -> dspy.LM:
    """Give a copy of ``lm`` with generation settings of one call; copies share the connections."""
    return lm.copy(**settings) if settings else lm


def generation_setting(name: str, value: object, path: str = "opts") -> Any:
    """Check one generation setting of a call."""
    return _setting(name, value, path)


def _embedded(settings: dict[str, Any]) -> LanguageModel:
    lm = with_settings(embedded.embedded_model(), settings)
    return LanguageModel(
        EMBEDDED, lm.model, lm, None, tuple(settings.items()), embedded.DESCRIPTION, writes_in_pieces=False
    )


def _remote(name: str, given: dict[str, Any], settings: dict[str, Any], path: str) -> LanguageModel:
    model = arguments.text(given.get("model"), f"{path}.model")
    provider = PROVIDERS.get(name)
    api_base = _api_base(given.get("api_base"), provider, name, path)
    api_key = _api_key(given.get("api_key"), provider, name, api_base, path)
    retries = _retries(given, 3, path)
    model_type = arguments.text(given.get("model_type", "chat"), f"{path}.model_type")
    if model_type not in ("chat", "responses"):
        raise OperationError(
            "input",
            f'expected "chat" or "responses" at {path}.model_type, got {quoted(model_type)}',
            path=f"{path}.model_type",
        )
    lm = _cached_lm(
        f"{provider.prefix if provider else name}/{model}",
        "lm15" if provider else "litellm",
        api_base,
        api_key,
        retries,
        model_type,
    )
    return LanguageModel(
        name, f"{name}/{model}", with_settings(lm, settings), _public_address(api_base), tuple(settings.items())
    )


def _elixir(given: dict[str, Any], path: str) -> LanguageModel:
    arguments.only(given, GENERATION_SETTINGS | _ELIXIR_OPTIONS, "option", path)
    callback_id = arguments.text(given.get("callback"), f"{path}.callback")
    name = f"{ELIXIR}/{arguments.text(given.get('model', 'function'), f'{path}.model')}"
    settings = _settings(given, path)
    lm = elixir_model.elixir_model(callback_id, name, _retries(given, 0, path))
    return LanguageModel(
        ELIXIR, name, with_settings(lm, settings), None, tuple(settings.items()), "a function of the Elixir side"
    )


def _settings(given: Mapping[str, Any], path: str) -> dict[str, Any]:
    settings = {name: _setting(name, given[name], path) for name in sorted(GENERATION_SETTINGS & given.keys())}
    return {name: value for name, value in settings.items() if value is not None}


def _retries(given: Mapping[str, Any], default: int, path: str) -> int:
    retries = given.get("num_retries", default)
    if type(retries) is not int or not 0 <= retries <= _MAX_RETRIES:
        raise OperationError(
            "input",
            f"expected 0 to {_MAX_RETRIES} at {path}.num_retries, got {shown(retries)}",
            path=f"{path}.num_retries",
        )
    return retries


@functools.lru_cache(maxsize=64)
def _cached_lm(
    model: str, engine: str, api_base: str | None, api_key: str | None, retries: int, model_type: str
) -> dspy.LM:
    """Build a model once for each configuration: calls that name it in their options share its connections."""
    client = {"api_base": api_base, "api_key": api_key}
    # `engine="lm15"`: with "auto", a variable like OPENAI_BASE_URL in the environment would switch to LiteLLM silently.
    return ObservedLM(
        model,
        engine=engine,
        model_type=model_type,
        cache=False,
        num_retries=retries,
        **{key: value for key, value in client.items() if value is not None},
    )


def _api_base(value: object, provider: Provider | None, name: str, path: str) -> str | None:
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
        if len(value_in_query) >= _MIN_QUERY_SECRET_CHARACTERS:
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


def _public_address(api_base: str | None) -> str | None:
    """Give an address without what may be secret in it: the user and the query."""
    if api_base is None:
        return None
    parts = urlsplit(api_base)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _api_key(value: object, provider: Provider | None, name: str, api_base: str | None, path: str) -> str | None:
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


def _setting(name: str, value: object, path: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = type(value) is int
    wrong: str | None = None
    if value is None:
        return None
    if isinstance(value, int) and abs(value) > _MAX_NUMBER:
        wrong = "a number of at most 63 bits"
    elif name == "n":
        wrong = None if whole and 0 < value <= _MAX_COMPLETIONS else f"1 to {_MAX_COMPLETIONS}"  # type: ignore[operator]
    elif name == "max_tokens":
        wrong = None if whole and value > 0 else "a positive integer"  # type: ignore[operator]
    elif name == "seed":
        wrong = None if whole else "an integer"
    elif name == "stop":
        if isinstance(value, str):
            return [str(value)]
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            return [str(item) for item in value]
        wrong = "a string or a list of strings"
    elif name == "reasoning_effort":
        if isinstance(value, str):
            return str(value)
        wrong = "a string"
    elif not number:
        wrong = "a number"
    if wrong is not None:
        raise OperationError("input", f"expected {wrong} at {path}.{name}, got {shown(value)}", path=f"{path}.{name}")
    return value
