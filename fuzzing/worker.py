"""Run one process of the fuzzer: atheris makes inputs until enough are checked.

Usage: ``python -m fuzzing.worker INPUTS SEED TIMEOUT FOLDER MODULE…``. The modules are the codecs, the reference first.
``FOLDER`` gets the corpus and ``figures.json``. libFuzzer writes the input of a failure there, also of a crash or hang.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import types
from dataclasses import asdict
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["erlport_bridge.term"]):
    from erlport_bridge.term import pure
    from fuzzing.checks import Checks

from fuzzing.mutation import Mutator
from fuzzing.seeds import MAX_INPUT_BYTES, TOKENS, seeds

# Far more than inputs of 4 KiB can need.
_MAX_RSS_MIB = 1024


def main(inputs: int, seed: int, timeout_s: int, folder: Path, codec_names: list[str]) -> None:
    """Check the given number of inputs, write the figures and end the process; libFuzzer ends it at a failure."""
    checks = Checks([importlib.import_module(name) for name in codec_names])
    _drop_line_tables()

    def check(data: bytes) -> None:
        checks.check(data)
        if checks.figures.inputs == inputs:
            (folder / "figures.json").write_text(json.dumps(asdict(checks.figures)))
            os._exit(0)  # a normal exit would let libFuzzer print its recommended dictionary for a minute

    first_inputs = seeds()
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, first_input in enumerate(first_inputs):
        (corpus / str(number)).write_bytes(first_input)
    tokens = folder / "tokens"
    tokens.write_text("".join(f'"{"".join(f"{chr(92)}x{byte:02x}" for byte in token)}"\n' for token in TOKENS))
    # Looked up for each input: atheris replaces `atheris.Mutate` when it starts.
    mutator = Mutator(seed, first_inputs, lambda data, max_size: atheris.Mutate(data, max_size))
    atheris.Setup(
        [
            sys.argv[0],
            f"-seed={seed}",
            f"-max_len={MAX_INPUT_BYTES}",
            f"-timeout={timeout_s}",
            f"-rss_limit_mb={_MAX_RSS_MIB}",
            f"-dict={tokens}",
            f"-artifact_prefix={folder}/",
            "-verbosity=0",
            str(corpus),
        ],
        check,
        custom_mutator=lambda data, max_size, _seed: mutator.changed(data, max_size),
    )
    atheris.Fuzz()


def _drop_line_tables() -> None:
    """Remove the line numbers from the instrumented functions.

    tracemalloc asks for the line of every allocation, and Python searches it from the start of the function. That takes
    most of a run's time, and nobody reads these lines.
    """
    package = pure.__name__.rpartition(".")[0]
    for name, module in list(sys.modules.items()):
        if name.startswith(package):
            for function in vars(module).values():
                if isinstance(function, types.FunctionType):
                    function.__code__ = function.__code__.replace(co_linetable=b"")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:])
