"""A caller's configuration becomes a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.models.configuration import from_option, language_model, with_settings
from erlport_bridge.programs.models.generation_settings import generation_setting
from erlport_bridge.programs.models.providers import PROVIDERS

HOST = "http://127.0.0.1:9"
CONFORMANCE = Path(__file__).parents[3] / "conformance" / "providers.tsv"
MEANT = [line.split("\t") for line in CONFORMANCE.read_text(encoding="utf-8").splitlines() if line[0] != "#"]


def error_of(provider: object, config: object) -> OperationError:
    with pytest.raises(OperationError) as caught:
        language_model(provider, config)
    return caught.value


def test_same_configuration_is_the_same_client() -> None:
    config = {"model": "m", "api_base": HOST, "api_key": "key"}
    first = language_model("openai", config)
    assert language_model("openai", config).lm is first.lm
    assert language_model("openai", config | {"api_key": "another"}).lm is not first.lm


def test_provider_and_model_may_be_one_text() -> None:
    model = from_option("ollama/llama3/latest")
    assert (model.provider, model.model) == ("ollama", "ollama/llama3/latest")
    assert from_option({"provider": "ollama", "model": "x", "base_url": HOST}).api_base == f"{HOST}/v1"


def test_settings_of_a_call_do_not_change_the_model() -> None:
    model = language_model("embedded", {"temperature": 0.5})
    assert with_settings(model.lm, {"temperature": 1.0}).kwargs["temperature"] == 1.0
    assert model.lm.kwargs["temperature"] == 0.5
    assert model.describe()["settings"] == {"temperature": 0.5}


def test_neither_repr_nor_description_shows_a_credential() -> None:
    config = {"model": "m", "api_base": "http://me:secret-word@host:1/v1?token=query-word", "api_key": "key-word"}
    model = language_model("anthropic", config)
    assert model.api_base == "http://host:1/v1"
    for word in ("secret-word", "query-word", "key-word"):
        assert word not in repr(model) + repr(model.describe())


@pytest.mark.parametrize("provider", [name for name, entry in PROVIDERS.items() if entry.key_variables])
def test_missing_key_names_the_variables(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    for variable in PROVIDERS[provider].key_variables:
        monkeypatch.delenv(variable, raising=False)
    error = error_of(provider, {"model": "m"})
    assert (error.kind, error.facts["path"]) == ("auth", "config.api_key")
    assert PROVIDERS[provider].key_variables[0] in error.message
    monkeypatch.setenv(PROVIDERS[provider].key_variables[-1], "key-of-the-environment")
    assert language_model(provider, {"model": "m"}).lm.kwargs["api_key"] == "key-of-the-environment"


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"model": ""}, "config.model"),
        ({"model": "m", "num_retries": 11}, "config.num_retries"),
        ({"model": "m", "num_retries": True}, "config.num_retries"),
        ({"model": "m", "model_type": "text"}, "config.model_type"),
        ({"model": "m", "api_base": "host"}, "config.api_base"),
        ({"model": "m", "api_base": "http://a", "base_url": "http://b"}, "config"),
        ({"model": "m", "api_base": "http://["}, "config.api_base"),
        ({"model": "m", "api_base": "http://host:port/"}, "config.api_base"),
        ({"model": "m", "api_base": "http://a..b/"}, "config.api_base"),
        ({"model": "m", "api_key": "line\nbreak"}, "config.api_key"),
        ({"model": "m", "api_key": 7}, "config.api_key"),
        (7, "config"),
    ],
)
def test_wrong_option_is_reported_with_its_path(config: Any, path: str) -> None:
    error = error_of("openai", {"api_base": HOST, **config} if isinstance(config, dict) else config)
    assert (error.kind, error.facts["path"]) == ("input", path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "hot"),
        ("temperature", True),
        ("temperature", 10**30),
        ("max_tokens", 0),
        ("n", 129),
        ("seed", 2**63),
        ("seed", 1.5),
        ("stop", []),
        ("stop", [1]),
        ("reasoning_effort", 1),
    ],
)
def test_wrong_setting_is_reported_with_its_path(name: str, value: object) -> None:
    with pytest.raises(OperationError) as caught:
        generation_setting(name, value)
    assert (caught.value.kind, caught.value.facts["path"]) == ("input", f"opts.{name}")


def test_setting_that_is_nil_is_left_to_the_model() -> None:
    assert generation_setting("temperature", None) is None
    assert language_model("embedded", {"temperature": None}).settings == ()


@pytest.mark.parametrize("provider", [name for name in PROVIDERS if name not in ("openai", "openai_compatible")])
def test_responses_need_a_provider_that_has_them(provider: str) -> None:
    config = {"model": "m", "api_base": HOST, "api_key": "key", "model_type": "responses"}
    error = error_of(provider, config)
    assert (error.kind, error.facts["path"]) == ("input", "config.model_type")
    assert "openai, openai_compatible" in error.message


def test_responses_take_no_headers() -> None:
    """DSPy's client has no responses for a declared provider, which is declared for chat completions."""
    config = {"model": "m", "api_base": HOST, "model_type": "responses", "headers": {"x-tenant": "a"}}
    error = error_of("openai_compatible", config)
    assert (error.kind, error.facts["path"]) == ("input", "config.model_type")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", value) for value in (-1, -0.001, 2.001, 3, 10**400, -(10**400), 1e300)),
        *(("top_p", value) for value in (-0.1, 1.001, 2.0, 10**400)),
        *((name, value) for name in ("presence_penalty", "frequency_penalty") for value in (-2.1, 2.1, 10**400)),
        *(("stop", value) for value in ("", ["a", ""], [])),
        ("reasoning_effort", ""),
        ("n", 0),
        ("max_tokens", 0),
    ],
)
@pytest.mark.parametrize("provider", ["embedded", "openai", "elixir", "lm_studio"])
def test_setting_out_of_its_bounds_is_refused_by_each_provider(name: str, value: object, provider: str) -> None:
    """DSPy refused some of them in each call, as internal errors; ``embedded`` took them with its configuration."""
    required = {"embedded": {}, "elixir": {"callback": "id"}}.get(provider, {"model": "m", "api_base": HOST})
    error = error_of(provider, {**required, name: value})
    assert (error.kind, error.facts["path"]) == ("input", f"config.{name}")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", (0, 0.0, 2)),
        ("top_p", (0, 1, 0.5)),
        ("presence_penalty", (-2, 2)),
        ("frequency_penalty", (-2, 2)),
    ],
)
def test_setting_at_its_bounds_is_taken(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        assert generation_setting(name, value) == value


@pytest.mark.parametrize(("name", "meant"), MEANT)
@pytest.mark.parametrize("as_map", [False, True])
def test_name_that_is_no_provider_is_told_which_may_be_meant(name: str, meant: str, as_map: bool) -> None:
    """``google`` and ``local`` had no hint, ``claude`` meant the model "anthropic/claude", and ``vllm`` "ollama"."""
    with pytest.raises(OperationError) as caught:
        from_option(["embedded", {"provider": name} if as_map else name])
    names = " or ".join(f'"{one}"' for one in meant.split(","))
    assert f'unknown provider "{name}" (did you mean {names}?)' in caught.value.message
    assert (caught.value.kind, caught.value.facts["path"]) == ("provider", "opts.lm[1].provider")


@pytest.mark.parametrize(("provider", "has_function"), [("elixir", True), (None, False)])
def test_a_caller_is_offered_what_a_caller_writes(provider: str | None, has_function: bool) -> None:
    """The function is written as `function`; the error offered `callback`, its name on the wire."""
    given = {"provider": provider, "callback": "1", "zzzz": 1}
    with pytest.raises(OperationError, match=r'unknown option "zzzz" at opts\.lm') as caught:
        from_option({name: value for name, value in given.items() if value})
    offered = set(caught.value.message.partition("known here: ")[2].split(", "))
    assert "callback" not in offered
    assert {"model", "num_retries", "fallbacks", "temperature"} <= offered
    assert ({"function", "timeout"} <= offered) is has_function


@pytest.mark.parametrize("name", ["sk-ant-0123456789", "gsk_0123456789", "AKIAIOSFODNN7EXAMPLE1234"])
def test_what_may_be_a_key_is_not_shown_as_a_provider(name: str) -> None:
    assert name not in error_of(name, {"model": "m"}).message


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("url", 'the address is api_base, such as "http://host/v1"'),
        ("key", "the key is api_key"),
        ("timeout", "timeout is an option of the call"),
    ],
)
def test_an_option_of_other_libraries_has_its_name_here(name: str, hint: str) -> None:
    message = error_of("openai", {"model": "m", name: "sk-1"}).message
    assert message.startswith(f'unknown option "{name}" at config; {hint}; known here: api_base, ')
    assert "sk-1" not in message
