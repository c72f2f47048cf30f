"""Build a language model (``dspy.LM``) from a caller's configuration.

A configuration is a provider's name and a map of options. The services of :mod:`.providers` take
:data:`MODEL_OPTIONS`. The provider ``elixir`` (a model function in Elixir) takes fewer, and ``embedded`` needs none.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import ID_BYTES, MODEL_DEPTH, MODELS, NAME_BYTES, check_depth
from erlport_bridge.programs.models import api_keys, content_parts, elixir_model, providers, response_cache
from erlport_bridge.programs.models.addresses import public_address
from erlport_bridge.programs.models.bridge_lm import BridgeLM
from erlport_bridge.programs.models.generation_settings import GENERATION_SETTINGS, read_settings
from erlport_bridge.programs.models.providers import LITELLM_PROVIDERS, PROVIDERS, Provider
from erlport_bridge.programs.models.rate_limits import limit_of
from erlport_bridge.programs.options import BooleanOption, IntegerOption, TextOption, UnreadOption, Vocabulary
from erlport_bridge.programs.text import arguments, quoted, suggestion, text_of
from erlport_bridge.term import shown

EMBEDDED: Final = "embedded"
#: The provider of models that are Elixir functions.
ELIXIR: Final = "elixir"


_MAX_RETRIES: Final = 10
_DEFAULT_RETRIES: Final = 3
_MAX_LIMIT: Final = 1_000_000

_RETRIES: Final = IntegerOption(
    name="num_retries",
    minimum=0,
    maximum=_MAX_RETRIES,
    expected="",
    description="repetitions of a request that failed for a reason that may pass; 3, and 0 with a fallback model",
)
_FALLBACKS: Final = UnreadOption(
    name="fallbacks", type_text="list[lm]", description="fallback models, asked in this order when the model fails"
)
# The options of a model at a service, beside the generation settings.
_CLIENT_OPTIONS: Final = Vocabulary(
    TextOption(name="model", limit=NAME_BYTES, required=True, description="the model's name at its provider"),
    UnreadOption(name="api_key", type_text="str", description="the key; else the provider's environment variable"),
    UnreadOption(name="api_base", type_text="str", description="the address of the service; also base_url"),
    UnreadOption(name="headers", type_text="map", description="HTTP headers, for gateways"),
    _RETRIES,
    TextOption(name="model_type", limit=NAME_BYTES, default="chat", description='"chat" or "responses"'),
    BooleanOption(name="cache", default=False, description="answers are kept in memory, for equal requests"),
    _FALLBACKS,
    *(
        IntegerOption(name=name, minimum=1, maximum=_MAX_LIMIT, expected="", description=description)
        for name, description in (
            ("requests_per_minute", "most requests to the model in a minute"),
            ("max_concurrent_requests", "most requests to the model at the same time"),
        )
    ),
)
# The options of a model function in Elixir, beside the generation settings.
_ELIXIR_OPTIONS: Final = Vocabulary(
    TextOption(name="model", limit=NAME_BYTES, default="function", description="a name for the model"),
    TextOption(
        name="callback",
        is_internal=True,
        limit=ID_BYTES,
        required=True,
        description="the id under which the function can be called",
    ),
    _RETRIES,
    _FALLBACKS,
)
# What a caller of ``DSPex.Python`` writes in place of the id: the function itself, and how long it may take.
_FUNCTION_KEYS: Final = ("function", "timeout")
#: The options of ``configure_lm``.
MODEL_OPTIONS: Final = GENERATION_SETTINGS | _CLIENT_OPTIONS
# Names of options in other libraries, and on other services.
_HINTS: Final = {
    **dict.fromkeys(
        ("url", "base_uri", "api_url", "endpoint", "host"), 'the address is api_base, such as "http://host/v1"'
    ),
    **dict.fromkeys(("key", "token", "api_token", "secret"), "the key is api_key"),
    **dict.fromkeys(("timeout", "request_timeout"), "timeout is an option of the call"),
    **dict.fromkeys(("name", "lm", "model_name"), "the model's name is model"),
}

_KNOWN: Final = tuple(sorted([EMBEDDED, ELIXIR, *PROVIDERS, *LITELLM_PROVIDERS]))
_FORMS: Final = 'such as "openai/gpt-4o-mini", {:openai, model: "gpt-4o-mini"}, {:elixir, function}, or a list of these'
_PROVIDER_NAME: Final = re.compile("[A-Za-z][A-Za-z_]{0,19}[A-Za-z0-9]?")
_RESPONSES: Final = "responses"
# Providers of DSPy's own client that have OpenAI's responses.
_WITH_RESPONSES: Final = ("openai", providers.OPENAI_COMPATIBLE)


@dataclass(frozen=True)
class LanguageModel:
    """A configured model. ``repr`` shows no key.

    Attributes:
        engine: The client that sends requests: DSPy's own (``native``), ``litellm``, ``elixir`` or ``embedded``.
        fallbacks: The names of the fallback models, in the order in which they are asked.
        writes_in_pieces: Whether the engines of the model and its fallback models stream.
        configuration: The model as a caller writes it, with its key.
    """

    provider: str
    model: str
    lm: BridgeLM = field(repr=False)
    engine: str
    api_base: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    description: str = "a language model of this provider"
    fallbacks: tuple[str, ...] = ()
    writes_in_pieces: bool = True
    configuration: Any = field(default=None, repr=False, compare=False)

    def describe(self) -> dict[str, Any]:
        """Return the description of the model for callers, without ``lm``."""
        return {
            "provider": self.provider,
            "model": self.model,
            "engine": self.engine,
            "api_base": self.api_base,
            "settings": dict(self.settings),
            "description": self.description,
            "fallbacks": list(self.fallbacks),
        }

    def name_of(self, name: str) -> str:
        """Return the name that callers know for a name of DSPy's, of this model or of a fallback model."""
        if name == self.lm.model:
            return self.model
        known = zip(self.lm.fallbacks, self.fallbacks, strict=False)
        return next((shown for fallback, shown in known if fallback.model == name), name)

    def with_fallbacks(self, models: Sequence[LanguageModel]) -> LanguageModel:
        """Return this model with fallback models."""
        return replace(
            self,
            lm=self.lm.with_fallbacks([model.lm for model in models]),
            fallbacks=tuple(name for model in models for name in (model.model, *model.fallbacks)),
            writes_in_pieces=all(model.writes_in_pieces for model in (self, *models)),
            configuration=[model.configuration for model in (self, *models)],
        )


def language_model(
    provider: object,
    options: object,
    *,
    path: str = "config",
    provider_path: str = "provider",
    default_retries: int | None = None,
) -> LanguageModel:
    """Configure a model.

    Args:
        provider: ``embedded``, ``elixir``, a name of :data:`PROVIDERS` or :data:`LITELLM_PROVIDERS`, or
            ``"provider/model"``.
        options: A map of :data:`MODEL_OPTIONS`; ``api_base`` has the alias ``base_url``.
        path: The path of the options, for errors.
        provider_path: The path of the provider, for errors.
        default_retries: Default of ``num_retries``. Requests to a model with ``fallbacks`` are not retried by default.

    Raises:
        OperationError: Of kind ``provider`` (unknown provider), ``auth`` (no key) or ``input`` (an invalid option).
    """
    name, _, model = arguments.text(provider, provider_path, NAME_BYTES).partition("/")
    given = arguments.options(options, path)
    written = {**given, "provider": text_of(provider)}
    fallbacks = _fallbacks(given.pop("fallbacks", None), f"{path}.fallbacks")
    if fallbacks:
        default_retries = 0
    if name not in _KNOWN:
        raise _unknown_provider(name, provider_path)
    found = _model(name, model, given, default_retries, path)
    return replace(found.with_fallbacks(fallbacks) if fallbacks else found, configuration=written)


def from_option(value: object, path: str = "opts.lm", *, default_retries: int | None = None) -> LanguageModel:
    """Read the ``lm`` option of a call.

    Args:
        value: ``"provider/model"``, ``:embedded``, a map with ``provider`` and options, or a list of these: a model and
            its fallback models.
        path: The path of the option, for errors.
        default_retries: See :func:`language_model`.

    Raises:
        OperationError: See :func:`language_model`.
    """
    provider_path = f"{path}.provider"
    if isinstance(value, list):
        MODELS.check(len(value), path)
    check_depth(value, MODEL_DEPTH, path)
    if text_of(value):
        return language_model(value, {}, path=path, provider_path=provider_path, default_retries=default_retries)
    # A keyword list is one model.
    if isinstance(value, list) and value and not all(isinstance(item, tuple) for item in value):
        first = from_option(value[0], f"{path}[0]", default_retries=0 if len(value) > 1 else default_retries)
        rest = _fallbacks(value[1:], path, first_index=1)
        return first.with_fallbacks(rest) if rest else first
    if not isinstance(value, Mapping) and not arguments.is_keyword_list(value):
        message = f"expected a model at {path}, {_FORMS}, got {arguments.outline(value)}"
        raise OperationError("input", message, path=path)
    given = arguments.options(value, path)
    if given.get("provider") is None:
        raise _no_provider(given, path)
    provider = given.pop("provider")
    return language_model(provider, given, path=path, provider_path=provider_path, default_retries=default_retries)


def with_settings(lm: BridgeLM, settings: Mapping[str, Any]) -> BridgeLM:
    """Return a copy of ``lm`` with the generation settings of one call; copies share the connections."""
    return lm.copy(**settings) if settings else lm


def _fallbacks(value: object, path: str, *, first_index: int = 0) -> list[LanguageModel]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise OperationError("input", f"expected a list of models at {path}, got {shown(value)}", path=path)
    MODELS.check(len(value), path)
    last = len(value) - 1
    return [
        from_option(item, f"{path}[{index + first_index}]", default_retries=0 if index < last else None)
        for index, item in enumerate(value)
    ]


def _model(name: str, model: str, given: dict[str, Any], default_retries: int | None, path: str) -> LanguageModel:
    if name == ELIXIR:
        return _elixir(given, path)
    if given.get("base_url") is not None and given.get("api_base") is not None:
        message = f"expected api_base or base_url, which is another name for it, and not both at {path}"
        raise OperationError("input", message, path=path)
    if "base_url" in given:
        base_url = given.pop("base_url")
        given["api_base"] = base_url if given.get("api_base") is None else given["api_base"]
    arguments.only(given, MODEL_OPTIONS, "option", path, _HINTS)
    if model:
        given.setdefault("model", model)
    settings = read_settings(given, path)
    if name == EMBEDDED:
        return _embedded(settings)
    retries = _DEFAULT_RETRIES if default_retries is None else default_retries
    return _remote(name, given, settings, retries, path)


def _no_provider(given: Mapping[str, Any], path: str) -> OperationError:
    """Return the error about a map of options that names no provider."""
    offered = {"provider", *MODEL_OPTIONS, "base_url"}
    arguments.only(given, offered | _ELIXIR_OPTIONS.keys(), "option", path, _HINTS, offered)
    model = text_of(given.get("model"))
    names = [name.partition("/")[0] for name in providers.meant(model or "")]
    hint = _did_you_mean(names) if names else f", {_FORMS}"
    return OperationError("input", f"expected a provider at {path}.provider{hint}", path=f"{path}.provider")


def _unknown_provider(name: str, path: str) -> OperationError:
    meant = providers.meant(name)
    # Text that does not look like a name may be an API key in the wrong place, so it is not shown.
    is_name = meant or _PROVIDER_NAME.fullmatch(name)
    hint = _did_you_mean(meant) if meant else suggestion(name, _KNOWN)
    return OperationError(
        "provider",
        f"unknown provider{f' {quoted(name)}' if is_name else ''}{hint}; known providers: {', '.join(_KNOWN)}",
        path=path,
        provider=name if is_name else None,
    )


def _did_you_mean(names: Sequence[str]) -> str:
    return f" (did you mean {' or '.join(map(quoted, names))}?)"


def _embedded(settings: dict[str, Any]) -> LanguageModel:
    # Imported on first use, since the import takes 5 ms and only demos and tests need it.
    from erlport_bridge.programs.models.embedded import engine

    lm = engine.embedded_model()
    return LanguageModel(
        EMBEDDED,
        lm.model,
        with_settings(lm, settings),
        EMBEDDED,
        settings=tuple(settings.items()),
        description=engine.DESCRIPTION,
        writes_in_pieces=False,
    )


def _remote(
    name: str, given: dict[str, Any], settings: dict[str, Any], default_retries: int, path: str
) -> LanguageModel:
    if given.get("model") is None:
        form = f'such as "{name}/MODEL" or {{:{name}, model: "MODEL"}}'
        message = f'expected the name of a model of the provider "{name}" at {path}.model, {form}'
        raise OperationError("input", message, path=f"{path}.model")
    model = arguments.text(given["model"], f"{path}.model", NAME_BYTES)
    read = _CLIENT_OPTIONS.read(given, path)
    provider = PROVIDERS.get(name)
    api_base = providers.api_base(given.get("api_base"), provider, name, path)
    providers.check_user(api_base, given.get("api_key"), name, path)
    headers = providers.headers(given.get("headers"), name, path)
    model_type = _model_type(read.get("model_type", "chat"), name, provider, bool(headers), path)
    key_function = api_keys.key_function(given.get("api_key"), path, f"{name}/{model}")
    # The model of a key function has no key itself; a request gets it from the function.
    key = None if key_function else providers.api_key(given.get("api_key"), provider, name, api_base, path)
    client = _Client(name, model, provider, api_base, key, headers, model_type)
    rest = (
        read.get("num_retries", default_retries),
        read.get("cache", False),
        read.get("requests_per_minute"),
        read.get("max_concurrent_requests"),
    )
    lm = _cached_lm(client, *rest)
    if key_function:
        lm = lm.with_key_function(key_function, lambda key: _cached_lm(client._replace(api_key=key), *rest))
    return LanguageModel(
        name,
        f"{name}/{model}",
        with_settings(lm, settings),
        "native" if provider else "litellm",
        None if api_base is None else public_address(api_base),
        tuple(settings.items()),
    )


def _model_type(model_type: str, name: str, provider: Provider | None, has_headers: bool, path: str) -> str:
    if model_type not in ("chat", _RESPONSES):
        wrong = f'expected "chat" or "{_RESPONSES}" at {path}.model_type, got {quoted(model_type)}'
    elif model_type == _RESPONSES and provider is not None and name not in _WITH_RESPONSES:
        wrong = f"provider {quoted(name)} has no responses; those that have: {', '.join(_WITH_RESPONSES)}"
    elif model_type == _RESPONSES and provider is not None and has_headers:
        wrong = f"DSPy's client sends no headers with responses; leave out {path}.headers or {path}.model_type"
    else:
        return model_type
    raise OperationError("input", wrong, path=f"{path}.model_type")


def _elixir(given: dict[str, Any], path: str) -> LanguageModel:
    known = GENERATION_SETTINGS | _ELIXIR_OPTIONS
    arguments.only(given, known, "option", path, offered=[*known.offered, *_FUNCTION_KEYS])
    callback_id = arguments.text(given.get("callback"), f"{path}.callback", ID_BYTES)
    name = f"{ELIXIR}/{arguments.text(given.get('model', 'function'), f'{path}.model', NAME_BYTES)}"
    settings = read_settings(given, path)
    lm = elixir_model.elixir_model(callback_id, name, _ELIXIR_OPTIONS.read(given, path).get("num_retries", 0))
    return LanguageModel(
        ELIXIR,
        name,
        with_settings(lm, settings),
        ELIXIR,
        settings=tuple(settings.items()),
        description="a function of the Elixir side",
    )


class _Client(NamedTuple):
    """The identity of a model: provider, address and credentials. Rate limits and cached answers belong to it."""

    name: str
    model: str
    provider: Provider | None
    api_base: str | None
    api_key: str | None
    headers: tuple[tuple[str, str], ...]
    model_type: str


@functools.lru_cache(maxsize=64)
def _cached_lm(client: _Client, retries: int, is_cached: bool, per_minute: int | None, at_once: int | None) -> BridgeLM:
    """Build one model per configuration, so that calls which name the model in their options share its connections."""
    options = {"api_base": client.api_base, "api_key": client.api_key}
    prefix = client.provider.prefix if client.provider else client.name
    declared = None
    if client.provider and client.model_type == _RESPONSES:
        # Also for self-hosted servers: the prefix they have otherwise, DSPy's vLLM, has no responses.
        prefix = PROVIDERS["openai"].prefix
    if client.headers and client.provider:
        declared = providers.gateway(client.api_base or "", client.headers)
        prefix = declared.id
    elif client.headers:
        options["extra_headers"] = dict(client.headers)  # type: ignore[assignment]
    identity = (client.name, client.model, client.api_base, client.api_key, client.headers, client.model_type)
    return BridgeLM(
        f"{prefix}/{client.model}",
        shown_name=f"{client.name}/{client.model}",
        limit=limit_of(client, per_minute, at_once),
        partition=response_cache.partition_of(*identity) if is_cached else None,
        declared=declared,
        carried=_carried(client),
        # With "auto", a variable like OPENAI_BASE_URL in the environment would switch to LiteLLM silently.
        engine="lm15" if client.provider else "litellm",
        model_type=client.model_type,
        num_retries=retries,
        **{key: value for key, value in options.items() if value is not None},
    )


def _carried(client: _Client) -> frozenset[str]:
    if client.provider is None:
        return content_parts.LITELLM
    wires = {"anthropic": content_parts.ANTHROPIC, "gemini": content_parts.GEMINI}
    by_type = content_parts.RESPONSES if client.model_type == _RESPONSES else content_parts.CHAT
    return wires.get(client.name, by_type)
