# The project's commands; CONTRIBUTING.md describes them. `make demo` and `make test` install what they need on Debian or
# Ubuntu: a virtual environment in .venv, Elixir and Erlang/OTP from the system's packages, and the sandbox's files.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SANDBOX := $(VENV)/.sandbox

# With any other encoding Elixir warns, and prints the text of models wrongly.
export LC_ALL := C.UTF-8

.PHONY: demo test lint test-python test-elixir bench fuzz chaos compat format setup clean

demo: setup
	cd mix_stub && mix dspex.demo

test: lint test-python test-elixir

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd mix_stub && mix format --check-formatted
	cd mix_stub && MIX_ENV=test mix compile --warnings-as-errors

test-python: setup
	$(BIN)/python -m pytest

test-elixir: setup
	cd mix_stub && mix test

bench: setup
	$(BIN)/python -m benchmarks

fuzz: setup
	$(BIN)/python -m fuzzing

# Kills, stops and floods processes, 200 times; CHAOS_SEED repeats a run.
chaos: setup
	cd mix_stub && CHAOS_ROUNDS=$${CHAOS_ROUNDS:-200} mix test test/chaos

# Which patches and private names of `erlport_bridge/dspy_patches/table.py` fit: `make compat DSPY="3.5.0"`.
DSPY ?= 3.4.0 3.4.1
compat:
	@setup/compat "$(PYTHON)" $(DSPY)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	cd mix_stub && mix format

setup: $(INSTALLED) $(SANDBOX)
	@setup/elixir

$(INSTALLED): pyproject.toml setup/python setup/compiler $(wildcard erlport_bridge/*/*.pyx erlport_bridge/*/*.pxi)
	@setup/python "$(PYTHON)" $(VENV)
	@touch $@

# Fetched once into Deno's cache; the sandbox needs no network afterwards.
$(SANDBOX): $(INSTALLED)
	$(BIN)/python -m erlport_bridge.programs.sandbox
	@touch $@

clean:
	rm -rf $(VENV) .venv-compat-* build dist *.egg-info mix_stub/_build erlport_bridge/term/native.c erlport_bridge/port/native.c erlport_bridge/*/*.so
