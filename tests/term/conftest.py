"""Provide the fixtures of the term tests: both codecs, the rows of ``conformance/``, and a real BEAM."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from erlport_bridge.term import pure, set_elixir_version

_HERE = Path(__file__).parent
_CONFORMANCE = _HERE.parents[1] / "conformance"


class Row(NamedTuple):
    """A row of a file of terms."""

    name: str
    otp_release: str
    form: str
    source: str
    encoded: bytes


class RefusedRow(NamedTuple):
    """A row of the file of terms that Python refuses."""

    name: str
    kind: str
    beam: str
    source: str
    encoded: bytes


@pytest.fixture(scope="session")
def compiled() -> ModuleType:
    """Return the compiled codec, or skip the test if the package was built without a compiler."""
    try:
        from erlport_bridge.term import native
    except ImportError as error:
        pytest.skip(f"no compiled codec: {error}")
    return native


@pytest.fixture(scope="session", params=["pure", "compiled"])
def codec(request: pytest.FixtureRequest) -> ModuleType:
    """Return one of the two codecs, each in turn: a module with ``decode`` and ``encode``."""
    if request.param == "pure":
        return pure
    module: ModuleType = request.getfixturevalue("compiled")
    return module


@pytest.fixture(scope="session")
def rows() -> Callable[[str], list[Row]]:
    """Return a function that maps the name of a file in ``conformance/`` to its rows."""

    def read(file_name: str) -> list[Row]:
        return [
            Row(name, release, form, source, bytes.fromhex(text))
            for name, release, form, source, text in _fields(file_name)
        ]

    return read


@pytest.fixture(scope="session")
def refused_rows() -> list[RefusedRow]:
    """Return the rows of ``conformance/refused.tsv``."""
    return [
        RefusedRow(name, kind, beam, source, bytes.fromhex(text))
        for name, kind, beam, source, text in _fields("refused.tsv")
    ]


def _fields(file_name: str) -> list[list[str]]:
    lines = (_CONFORMANCE / file_name).read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


@pytest.fixture(scope="session")
def ask_beam() -> Iterator[Callable[[str], str]]:
    """Yield a function that sends one line to a running BEAM and returns the answered line; see ``beam.exs``."""
    command = ["elixir", str(_HERE / "beam.exs")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as beam:
        assert beam.stdin is not None
        assert beam.stdout is not None
        requests, answers = beam.stdin, beam.stdout

        def ask(line: str) -> str:
            requests.write(line + "\n")
            requests.flush()
            return answers.readline().strip()

        yield ask
        requests.close()


@pytest.fixture
def elixir_1_14() -> Iterator[None]:
    """Encode structs for Elixir 1.14, which wrote ``terms-elixir.tsv``."""
    set_elixir_version("1.14.0")
    yield
    set_elixir_version("1.18.0")


@pytest.fixture
def elixir_of_the_beam(ask_beam: Callable[[str], str]) -> Iterator[None]:
    """Encode structs for the version of Elixir that ``ask_beam`` runs."""
    set_elixir_version(ask_beam("version"))
    yield
    set_elixir_version("1.18.0")
