# The project's commands; CONTRIBUTING.md describes them. `make demo` and `make test` install what they need on Debian or
# Ubuntu: a virtual environment in .venv, Elixir and Erlang/OTP from the system's packages, and the sandbox's files.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SANDBOX := $(VENV)/.sandbox

# With any other encoding Elixir warns, and prints the text of models wrongly. macOS has no C.UTF-8.
export LC_ALL := $(if $(filter Darwin,$(shell uname -s)),en_US.UTF-8,C.UTF-8)

.PHONY: demo test lint test-python test-elixir test-store long bench fuzz chaos chaos-store cluster compat matrix format setup clean

demo: setup
	cd mix_stub && mix dspex.demo

test: lint test-python test-elixir

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd mix_stub && mix format --check-formatted
	cd mix_stub && MIX_ENV=test mix compile --warnings-as-errors

# The tests wait for processes more than they compute: two at a time take little more than half of the time.
test-python: setup
	@setup/postgresql
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

test-elixir: setup
	@setup/chromium
	cd mix_stub && mix test

# What must be the same with a store as without one.
WITH_STORE := $(addprefix tests/operations/,test_conversations.py test_programs.py test_sessions_in_use.py test_stage_models.py) tests/test_secrets.py tests/programs/models/test_budgets.py
test-store: setup
	TEST_WITH_STORE=1 $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile $(WITH_STORE)

# Further cases of what other tests have too, which take minutes.
long: setup
	$(BIN)/python -m pytest -m long --numprocesses=2 --dist=loadfile
	cd mix_stub && mix test --only long

bench: setup
	$(BIN)/python -m benchmarks

fuzz: setup
	$(BIN)/python -m fuzzing

# Kills, stops and floods processes, 200 times; CHAOS_SEED repeats a run.
chaos: setup
	cd mix_stub && CHAOS_ROUNDS=$${CHAOS_ROUNDS:-200} mix test test/chaos --include long

# Kills workers that write to a store, 500 times, and pauses them 100 times, with each database; then checks the history.
chaos-store: setup
	CHAOS_ROUNDS=$${CHAOS_ROUNDS:-500} $(BIN)/python -m pytest -m long -s tests/store/test_kills.py

# Three nodes with one PostgreSQL under load, of which one is killed and one cut off; it ends with its figures.
cluster: setup
	@setup/postgresql
	cd mix_stub && mix test test/cluster --include cluster

# Which patches and private names of `erlport_bridge/dspy_patches` fit: `make compat DSPY="3.5.0"`.
DSPY ?= 3.4.1
compat:
	@setup/compat "$(PYTHON)" $(DSPY)

# Linters, pytest and ExUnit on other systems and Pythons: `make matrix CELLS="trixie sid"`.
CELLS ?=
matrix:
	@setup/matrix $(CELLS)

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
