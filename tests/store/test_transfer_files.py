"""Paths that no export can be written to, or read from, are refused at once, with a remedy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from erlport_bridge.errors import OperationError
from erlport_bridge.store import transfer_files

KINDS = ["named pipe", "socket", "directory", "device"]


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yield a path of each kind that is no regular file."""
    made = {kind: str(tmp_path / kind) for kind in KINDS}
    os.mkfifo(made["named pipe"])
    (tmp_path / "directory").mkdir()
    made["device"] = os.devnull
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(made["socket"])
        yield made


def refused(opened: object) -> str:
    """Return the message of the error of kind ``input`` at the path, with which a file is not opened."""
    with pytest.raises(OperationError) as caught, opened:  # type: ignore[attr-defined]
        pytest.fail("it was opened")
    assert (caught.value.kind, caught.value.facts["path"]) == ("input", "path")
    return caught.value.message


@pytest.mark.parametrize("kind", KINDS)
def test_import_reads_regular_files_only(paths: dict[str, str], kind: str) -> None:
    message = refused(transfer_files.existing(paths[kind]))
    assert f"expected a file that export_store has written at path, got the {kind} {paths[kind]!r}; " in message
    assert message.endswith("name a file in it" if kind == "directory" else "to a regular file and name that")


@pytest.mark.parametrize("kind", KINDS)
def test_export_writes_over_nothing(paths: dict[str, str], kind: str) -> None:
    message = refused(transfer_files.new(paths[kind]))
    assert f"the {kind} {paths[kind]!r} exists already; name a" in message


def test_export_follows_no_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    assert "the symbolic link" in refused(transfer_files.new(str(tmp_path / "link")))
    assert "check its name and its folder" in refused(transfer_files.existing(str(tmp_path / "link")))


def test_folder_that_is_missing_or_a_file_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for open_file, what in ((transfer_files.new, "written"), (transfer_files.existing, "read")):
        message = refused(open_file(f"{tmp_path}/no/store.jsonl"))
        assert f"cannot be {what}: No such file or directory; check its name and its folder" in message
        message = refused(open_file(f"{tmp_path}/file/store.jsonl"))
        assert f"cannot be {what}: Not a directory; check its folder, part of which is a file" in message


def test_file_that_may_not_be_read_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "store.jsonl"
    path.write_text("")
    path.chmod(0)
    tmp_path.chmod(0o755)
    code = "from erlport_bridge.store import transfer_files\nimport os, sys\n"
    # Root may read all files.
    code += "os.geteuid() or os.setresuid(65534, 65534, 65534)\nwith transfer_files.existing(sys.argv[1]): pass"
    folders = [folder for folder in tmp_path.parents if folder.stat().st_mode & 0o005 == 0]
    for folder in folders:
        folder.chmod(folder.stat().st_mode | 0o005)
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60, check=False)
    assert "cannot be read: Permission denied; give the user of this Python the right to it and to its" in done.stderr


def test_named_pipe_does_not_hold_up_the_command(paths: dict[str, str], tmp_path: Path) -> None:
    """It was opened, which waits for somebody who writes to it."""
    command = [sys.executable, "-m", "erlport_bridge.store", "import", paths["named pipe"]]
    command += ["--store", f"sqlite:///{tmp_path}/dspex.db"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "got the named pipe" in done.stderr
