"""The file descriptors of a port at its start."""

from __future__ import annotations

import resource
import subprocess
import sys
from subprocess import PIPE

import pytest

from erlport_bridge.term import Atom, decode, encode

PORT = f"exec {sys.executable} -m erlport_bridge --packet=4 --use_stdio"


@pytest.mark.parametrize("limit", [40, 64, 65, 100])
def test_too_low_a_limit_of_files_is_named(limit: int) -> None:
    """With 64 it was "[Errno 22] Invalid argument"."""
    ended = subprocess.run(["/bin/sh", "-c", f"ulimit -n {limit}; {PORT}"], stdin=PIPE, capture_output=True, text=True)
    assert ended.returncode == 1
    assert f"this process may open {limit} files, and needs 128; raise the limit with `ulimit -n`" in ended.stderr


def test_limit_that_can_be_raised_is_raised() -> None:
    call = encode((Atom("C"), 1, Atom("resource"), Atom("getrlimit"), [int(resource.RLIMIT_NOFILE)]))
    ended = subprocess.run(
        ["/bin/sh", "-c", f"ulimit -S -n 64; {PORT}"],
        input=len(call).to_bytes(4, "big") + call,
        capture_output=True,
        check=True,
    )
    answer = decode(ended.stdout[4:])
    assert isinstance(answer, tuple)
    assert answer[2][0] == 128
