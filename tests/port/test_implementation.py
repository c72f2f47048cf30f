"""Test that the compiled part of the port is used where possible, and that the port works without it."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from erlport_bridge.term import Atom
from tests.port_process import PortProcess

SHOW = "from erlport_bridge.port.implementation import native; print(native is not None)"
MISSING = "import sys; sys.modules['erlport_bridge.port.native'] = None\n"


def run(code: str, codec: str = "") -> str:
    environment = {**os.environ, "ERLPORT_BRIDGE_CODEC": codec}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return ended.stdout + ended.stderr


def test_compiled_part_is_built_and_used_where_there_is_a_compiler() -> None:
    if not shutil.which("cc") or not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("no C compiler, or no headers of Python")
    assert run(SHOW) == "True\n"


def test_compiled_part_is_not_used_with_the_pure_codec() -> None:
    assert run(SHOW, "pure") == "False\n"


def test_port_works_without_the_compiled_part(tmp_path: Path) -> None:
    # Python imports this module at its start.
    (tmp_path / "sitecustomize.py").write_text(MISSING)
    with PortProcess(environment={"PYTHONPATH": str(tmp_path)}) as port:
        assert port.call("builtins", "eval", f"exec({SHOW!r}) or native is None")[2] is True
        for _ in range(10):
            assert port.call("dspy_bridge", "stream_ack", "no such stream", 1)[2] == (Atom("ok"), False)
