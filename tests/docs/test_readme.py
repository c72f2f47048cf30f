"""What the README says of installing, of optimizers, and of ErlPort.

Its other blocks of Elixir are run by ``mix_stub/test/readme_test.exs``. ErlPort itself is not installed here: its block
is run over real pipes, with the flags and the bytes of ErlPort's Erlang half.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from erlport_bridge.optimizing import optimizers
from erlport_bridge.port.frames import FrameReader, SkippedFrame
from erlport_bridge.term import Atom, decode

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Where the README says that the paths of the block begin.
FOLDER = ROOT / "mix_stub"
# What ErlPort 0.11 adds to the command; its default is `use_stdio`.
ERLPORT_FLAGS = ["-u", "-m", "erlport.cli", "--packet=4", "--use_stdio", "--compressed=0", "--buffer_size=65536"]

_WORD = re.compile(r'\s*("[^"]*"|:\w+|\w+:|\d+|%\{|=>|[\[\]},])')


def erlport_section() -> str:
    return README.partition("\n## ErlPort\n")[2].partition("\n## ")[0]


def erlport_block() -> str:
    (block,) = re.findall(r"^```elixir erlport\n(.*?)^```$", erlport_section(), flags=re.DOTALL | re.MULTILINE)
    return str(block)


def read_arguments(source: str) -> list[Any]:
    """Read a list of Elixir's literals: texts, atoms, integers, lists, and maps."""
    assert re.fullmatch(rf"(?:{_WORD.pattern})*\s*", source)
    words = iter(_WORD.findall(source))
    arguments = _value(next(words), words)
    assert isinstance(arguments, list)
    assert not list(words)
    return arguments


def _value(word: str, words: Iterator[str]) -> Any:
    if word == "[":
        return [_value(item, words) for item in _items(words, "]")]
    if word == "%{":
        return dict(_pair(item, words) for item in _items(words, "}"))
    if word.startswith('"'):
        return word[1:-1]
    return Atom(word[1:]) if word.startswith(":") else int(word)


def _items(words: Iterator[str], end: str) -> Iterator[str]:
    """Yield the first word of each item up to ``end``; whoever takes it reads the rest of the item."""
    for word in words:
        if word == end:
            return
        if word != ",":
            yield word


def _pair(word: str, words: Iterator[str]) -> tuple[Any, Any]:
    if word.endswith(":"):
        return Atom(word[:-1]), _value(next(words), words)
    key = _value(word, words)
    assert next(words) == "=>"
    return key, _value(next(words), words)


def encoded(term: Any) -> bytes:
    """Encode a term as ErlPort's Erlang half does: with ``minor_version`` 1, atoms in Latin-1."""
    if isinstance(term, Atom):
        return b"d" + len(term).to_bytes(2, "big") + term.encode("latin-1")
    if isinstance(term, int):
        return b"a" + bytes([term])
    if isinstance(term, str):
        return b"m" + len(term.encode()).to_bytes(4, "big") + term.encode()
    if isinstance(term, list):
        return b"l" + len(term).to_bytes(4, "big") + b"".join(map(encoded, term)) + b"j" if term else b"j"
    if isinstance(term, tuple):
        return b"h" + bytes([len(term)]) + b"".join(map(encoded, term))
    items = [encoded(part) for pair in term.items() for part in pair]
    return b"t" + len(term).to_bytes(4, "big") + b"".join(items)


class ErlPortPython:
    """A Python process that ErlPort's Erlang half would have started, on its standard input and output."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            [*command, *ERLPORT_FLAGS],
            cwd=FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._frames = FrameReader(4)

    def __enter__(self) -> ErlPortPython:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.process.kill()
        self.process.communicate()

    def call(self, call_id: int, module: str, function: str, arguments: list[Any]) -> Any:
        """Send ``{'C', Id, Module, Function, Args}`` and return the message that comes back."""
        message = b"\x83" + encoded((Atom("C"), call_id, Atom(module), Atom(function), arguments))
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(len(message).to_bytes(4, "big") + message)
        self.process.stdin.flush()
        while (frame := self._frames.take()) is None:
            size = self.process.stdout.readinto1(self._frames.room())  # type: ignore[attr-defined]
            assert size, self.process.communicate()[1].decode()
            self._frames.received(size)
        assert not isinstance(frame, SkippedFrame)
        return decode(frame)


def expanded_python() -> str:
    """Return what the variable ``python`` of the block is: ``Path.expand`` of a path."""
    path: str
    (path,) = re.findall(r'^python = Path\.expand\("([^"]+)"\)$', erlport_block(), flags=re.MULTILINE)
    return os.path.abspath(FOLDER / path)


def found_by_erlang(command: str) -> bool:
    """Return whether ErlPort would find a command: it looks for a relative path in the folders of ``PATH``."""
    looks = f'halt(case os:find_executable("{command}") of false -> 1; _ -> 0 end).'
    erl = shutil.which("erl")
    assert erl is not None
    return subprocess.run([erl, "-noshell", "-eval", looks], cwd=FOLDER, check=False).returncode == 0


def test_elixir_literals_are_read() -> None:
    read = read_arguments('["a, b", :c, %{d: [1, %{}], "e f" => :g}, []]')
    assert read == ["a, b", Atom("c"), {Atom("d"): [1, {}], "e f": Atom("g")}, []]


def test_erlport_block_runs_in_the_folder_that_the_readme_names() -> None:
    assert f"`{FOLDER.name}/`" in erlport_section()
    (option,) = re.findall(r':python\.start_link\(python: ~c"([^"]+)"\)', erlport_block())
    command = option.replace("#{python}", expanded_python()).split()
    assert found_by_erlang(command[0])
    # ErlPort asks the first word for its version before it starts anything.
    version = subprocess.run([command[0], "-V"], cwd=FOLDER, capture_output=True, text=True, check=True).stdout
    assert re.match(r"Python \d+\.\d+\.\d+", version)
    calls = re.findall(r"^(.+) = :python\.call\(py, :(\w+), :(\w+), (\[.*\])\)$", erlport_block(), flags=re.MULTILINE)
    assert len(calls) == erlport_block().count(":python.call(") >= 2
    with ErlPortPython(command) as python:
        for call_id, (pattern, module, function, arguments) in enumerate(calls, start=1):
            tag, answered_id, (status, result) = python.call(call_id, module, function, read_arguments(arguments))
            assert (tag, answered_id, status) == ("r", call_id, "ok")
            for field in re.findall(r'"(\w+)" => _', pattern):
                assert isinstance(result[field], str)


def test_paths_of_erlports_own_python_half_exist() -> None:
    (interpreter, path) = re.findall(r'`python: ~c"([^"]+)", python_path: ~c"([^"]+)"`', erlport_section())[0]
    assert found_by_erlang(interpreter.replace("#{python}", expanded_python()))
    assert (FOLDER / path / "dspy_bridge.py").is_file()


@pytest.mark.parametrize("name", ["sandbox", "optimizers"])
def test_extras_of_the_installation_exist(name: str) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = project.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    assert re.search(rf"^{name} = \[", extras, flags=re.MULTILINE)
    assert re.search(rf'pip install "\.\[.*\b{name}\b', README) or f'".[sandbox,{name}]"' in README


def test_number_of_optimizers_is_right() -> None:
    words = {10: "Ten", 11: "Eleven", 12: "Twelve", 13: "Thirteen"}
    assert f"{words[len(optimizers.ENTRIES)]} of DSPy's optimizers" in README
