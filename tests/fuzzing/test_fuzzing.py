"""Test that the fuzzer finds faults of broken codecs, and that a short run finds none in the real codecs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from datetime import date, time, timezone
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from erlport_bridge.errors import DecodeError
from erlport_bridge.term import (
    Atom,
    FrozenList,
    ImproperList,
    OtpErlangBinary,
    PreciseTime,
    decode,
    encode,
    pure,
)
from fuzzing.checks import ALLOWED_BESIDE, CheckFailedError, Checks
from fuzzing.comparison import same_term
from fuzzing.mutation import Mutator
from fuzzing.seeds import MAX_INPUT_BYTES, seeds

ROOT = Path(__file__).parents[2]
SHORT_RUN = 3_000

# Codecs with one fault each, as modules that a separate process can import.
BROKEN_CODECS = {
    "raises": "def decode(data, **options):\n    raise RecursionError('too deep for me')\n",
    "crashes": "import ctypes\ndef decode(data, **options):\n    return ctypes.string_at(0)\n",
    "hangs": "def decode(data, **options):\n    while data[-1:] == b'j':\n        pass\n    return reference(data)\n",
    "disagrees": "def decode(data, **options):\n    return {0: False}.get(data[-1], reference(data, **options))\n",
}

needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python and platform"
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuzzing", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@needs_atheris
def test_short_run_finds_nothing_and_ends_with_its_figures() -> None:
    done = run(str(SHORT_RUN), "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = re.fullmatch(r"([\d,]+) inputs, ([\d,]+) accepted, ([\d,]+) refused, .*", done.stdout.splitlines()[-1])
    assert figures
    inputs, accepted, refused = (int(figure.replace(",", "")) for figure in figures.groups())
    assert inputs == SHORT_RUN == accepted + refused
    assert accepted > SHORT_RUN / 50
    assert refused > SHORT_RUN / 10


@needs_atheris
@pytest.mark.long
@pytest.mark.parametrize("name", BROKEN_CODECS)
def test_run_prints_the_input_that_a_codec_fails_at(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = f"from erlport_bridge.term.pure import decode as reference, encode\n{BROKEN_CODECS[name]}"
    (tmp_path / "broken_codec.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run("5000", "--seed", "7", "--processes", "1", "--timeout", "2", "--codec", "broken_codec")
    assert done.returncode == 1
    kind = "timeout" if name == "hangs" else "crash"
    assert re.search(rf"^{kind} with the input [0-9a-f]*$", done.stdout, re.MULTILINE), done.stdout
    assert "seed 7" in done.stdout.splitlines()[-1]


def decoding(decode: Any) -> Any:
    return SimpleNamespace(decode=decode, encode=encode)


def other_term(data: Any, **options: int) -> Any:
    return float(pure.decode(data, **options))


def other_offset(data: Any, **options: int) -> Any:
    try:
        return pure.decode(data, **options)
    except DecodeError as error:
        raise DecodeError(error.reason, error.offset + 1) from None


def out_of_memory(data: Any, **options: int) -> Any:
    raise MemoryError


def greedy(data: Any, **options: int) -> Any:
    return bytes(ALLOWED_BESIDE + 17 * len(data)) and pure.decode(data, **options)


@pytest.mark.parametrize(
    ("decode", "data", "failure"),
    [
        (other_term, b"\x83a\x01", CheckFailedError),
        (other_offset, b"\x83\xc8", CheckFailedError),
        (greedy, b"\x83a\x01", CheckFailedError),
        (out_of_memory, b"\x83a\x01", MemoryError),
    ],
)
def test_wrong_decoder_is_found(decode: Any, data: bytes, failure: type[BaseException]) -> None:
    Checks([pure, pure]).check(data)
    with pytest.raises(failure):
        Checks([pure, decoding(decode)]).check(data)


def other_bytes(term: Any, **options: int) -> bytes:
    return bytes(encode(term, **options)) + b"\x00"


def lossy(term: Any, **options: int) -> bytes:
    return bytes(encode(list(term) if type(term) is tuple else term, **options))


def test_wrong_encoder_is_found() -> None:
    with pytest.raises(CheckFailedError, match="different bytes"):
        Checks([pure, SimpleNamespace(decode=decode, encode=other_bytes)]).check(b"\x83a\x01")
    with pytest.raises(CheckFailedError, match="comes back"):
        Checks([SimpleNamespace(decode=decode, encode=lossy)]).check(b"\x83h\x01a\x01")


def test_figures_count_what_was_accepted_and_allocated() -> None:
    checks = Checks([pure])
    checks.check(b"\x83l\x00\x00\x08\x00" + b"j" * 2049)
    checks.check(b"\x83")
    assert (checks.figures.inputs, checks.figures.accepted) == (2, 1)
    # Each empty list takes 56 bytes, and 8 bytes in its parent; CPython's lists have some spare places.
    assert 60 < checks.figures.highest_ratio < 80
    assert 0.1 < checks.figures.highest_share < 0.2


@pytest.mark.parametrize("seed", range(0, 1000, 50))
def test_seeds_pass_every_check(seed: int) -> None:
    all_seeds = seeds()
    assert len(all_seeds) > 500
    checks = Checks([pure])
    for data in all_seeds[seed : seed + 50]:
        checks.check(data)


def test_mutator_gives_the_same_inputs_for_the_same_seed_and_some_are_terms() -> None:
    def inputs() -> list[bytes]:
        mutator = Mutator(3, seeds(), lambda data, max_size: data[: max_size - 1] + b"a")
        return [mutator.changed(data, MAX_INPUT_BYTES) for data in seeds() for _ in range(4)]

    made = inputs()
    assert made == inputs()
    assert max(map(len, made)) <= MAX_INPUT_BYTES
    assert len(set(made)) > len(made) / 2
    checks = Checks([pure])
    for data in made[::10]:
        checks.check(data)
    assert 0.1 < checks.figures.accepted / checks.figures.inputs < 0.9


DIFFERENT = [
    (1, True),
    (1, 1.0),
    (0.0, -0.0),
    ("a", Atom("a")),
    ("a", b"a"),
    ([1], (1,)),
    ([1], FrozenList([1])),
    ([1], [1, 2]),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({1: "a"}, {1.0: "a"}),
    ({1}, {True}),
    ({1}, {1, 2}),
    ({1}, {2}),
    (ImproperList([1], 2), ImproperList([1, 1], 2)),
    (range(0), range(1, 1)),
    (Decimal("1.0"), Decimal("1.00")),
    (time(1, 2), PreciseTime(1, 2)),
    (time(1, 2), time(1, 2, tzinfo=timezone.utc)),
    (date(2024, 1, 1), date(2024, 1, 2)),
    (OtpErlangBinary(b"\x80", 1), OtpErlangBinary(b"\x80", 2)),
    ([[("a", {"b": [1]})]], [[("a", {"b": [True]})]]),
]


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
def test_terms_that_differ_in_type_or_value_are_not_the_same(left: Any, right: Any) -> None:
    assert not same_term(left, right)
    assert not same_term(right, left)
    assert same_term(left, left)


def test_terms_read_twice_are_the_same() -> None:
    for data in seeds():
        try:
            term = decode(data)
        except DecodeError:
            continue
        assert same_term(term, decode(data)), data.hex()


def test_precision_of_a_time_tells_two_times_apart() -> None:
    one, other = PreciseTime(1, 2), PreciseTime(1, 2)
    one.precision, other.precision = 3, 2
    assert not same_term(one, other)
