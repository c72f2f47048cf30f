"""Fixtures of the term tests: the rows of ``conformance/`` and a real BEAM."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from erlport_bridge.term import set_elixir_version

_CONFORMANCE = Path(__file__).parents[2] / "conformance"

# For each line of hex: the same term, encoded anew by this BEAM; for two on a line: whether they are the same term.
_BEAM_LOOP = """
  strict = fn a, b -> a === b end
  Enum.each(IO.stream(:stdio, :line), fn line ->
    case Enum.map(String.split(line), &:erlang.binary_to_term(Base.decode16!(&1, case: :lower))) do
      [term] -> IO.puts(Base.encode16(:erlang.term_to_binary(term, minor_version: 2), case: :lower))
      [left, right] -> IO.puts(strict.(left, right))
    end
  end)
"""


class Row(NamedTuple):
    """One line of a file of terms."""

    name: str
    otp_release: str
    form: str
    source: str
    encoded: bytes


@pytest.fixture(scope="session")
def rows() -> Callable[[str], list[Row]]:
    """Give a function: name of a file in ``conformance/`` -> its rows."""

    def read(file_name: str) -> list[Row]:
        lines = (_CONFORMANCE / file_name).read_text(encoding="utf-8").splitlines()
        fields = [line.split("\t") for line in lines if not line.startswith("#")]
        return [Row(name, release, form, source, bytes.fromhex(text)) for name, release, form, source, text in fields]

    return read


@pytest.fixture(scope="session")
def ask_beam() -> Iterator[Callable[[str], str]]:
    """Give a function that sends one line to a running BEAM and gives the line it answers."""
    command = ["elixir", "-e", _BEAM_LOOP]
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
    """Write structs as Elixir 1.14 has them, which is the one that wrote ``terms-elixir.tsv``."""
    set_elixir_version("1.14.0")
    yield
    set_elixir_version("1.18.0")
