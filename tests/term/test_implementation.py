"""Test which of the two codecs is in use, and how a missing compiled codec is reported."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

MISSING = "import sys; sys.modules['erlport_bridge.term.native'] = None; "
SHOW = "import erlport_bridge.term as term; print(term.IMPLEMENTATION, term.FALLBACK_REASON)"


def run(code: str, codec: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "ERLPORT_BRIDGE_CODEC"}
    if codec is not None:
        environment["ERLPORT_BRIDGE_CODEC"] = codec
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def test_compiled_codec_is_built_and_used_where_there_is_a_compiler() -> None:
    """Without this test, a failed build would go unnoticed: the package works all the same."""
    if not shutil.which("cc") or not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("no C compiler, or no headers of Python")
    assert run(SHOW).stdout == "compiled None\n"


def test_missing_compiled_codec_is_replaced_and_the_remedy_reported() -> None:
    name, _, reason = run(MISSING + SHOW).stdout.partition(" ")
    assert name == "pure"
    assert "the compiled codec is missing" in reason
    assert "install a C compiler and Python's headers, and then erlport_bridge again" in reason


def test_port_reports_at_its_start_that_the_compiled_codec_is_missing() -> None:
    serve = "import os; r, w = os.pipe(); os.close(w); os.dup2(r, 0); os.dup2(os.pipe()[1], 1); "
    serve += "from erlport_bridge.__main__ import main; main(['--use_stdio'])"
    ended = run(MISSING + serve)
    assert ended.stderr.startswith("erlport_bridge: terms take about 15 times as long: the compiled codec is missing")
    assert ended.returncode == 0
    assert run(serve, "pure").stderr == ""


def test_codec_can_be_chosen() -> None:
    assert run(SHOW, "pure").stdout == "pure None\n"
    assert run(SHOW, "").stdout == run(SHOW).stdout


@pytest.mark.parametrize(
    ("code", "codec", "error"),
    [
        (MISSING + SHOW, "compiled", "ERLPORT_BRIDGE_CODEC is compiled, but the compiled codec is missing"),
        (SHOW, "fast", 'expected "compiled" or "pure" in ERLPORT_BRIDGE_CODEC, got "fast"'),
    ],
)
def test_unavailable_codec_is_an_error(code: str, codec: str, error: str) -> None:
    ended = run(code, codec)
    assert ended.returncode == 1
    assert error in ended.stderr
