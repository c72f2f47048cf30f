"""Run a real PostgreSQL for tests, on a Unix socket in a folder of its own, as Debian installs it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from tests.proc import children

_INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
#: Why there is none; ``None``: it is installed.
MISSING = (
    None if _INSTALLED or shutil.which("postgres") else "PostgreSQL is not installed; setup/postgresql installs it"
)


class Server:
    """One server with an empty database ``dspex``.

    Attributes:
        url: The address of the database, for a store.
    """

    def __init__(self) -> None:
        self._bin = _INSTALLED[-1].parent if _INSTALLED else Path(str(shutil.which("postgres"))).parent
        self._folder = Path(tempfile.mkdtemp(prefix="dspex-pg-"))
        # The server refuses to run as root.
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as_user:
            user = pwd.getpwnam("postgres")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        data = self._folder / "data"
        self._run("initdb", "-D", str(data), "-U", "dspex", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()
        self._run("createdb", "-h", str(self._folder), "-U", "dspex", "dspex")
        self.url = f"postgresql+psycopg://dspex@/dspex?host={self._folder}"

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""
        log = str(self._folder / "log")
        options = f"-c listen_addresses='' -c unix_socket_directories={self._folder} -c fsync=on"
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-l", log, "-o", options, "-w", "-t", "60", "start")

    def stop(self) -> None:
        """Stop the server at once, with all its connections."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "fast", "-w", "stop")

    def processes(self) -> list[int]:
        """Return the process ids of the server and of its connections."""
        server = int((self._folder / "data" / "postmaster.pid").read_text().split()[0])
        return [server, *children(server)]

    def empty(self) -> None:
        """Remove all tables."""
        drop = "DROP SCHEMA public CASCADE; CREATE SCHEMA public"
        self._run("psql", "-q", "-h", str(self._folder), "-U", "dspex", "-c", drop, "dspex")

    def _run(self, program: str, *arguments: str) -> None:
        for attempt in range(3):
            done = subprocess.run(
                [*self._as_user, str(self._bin / program), *arguments],
                cwd=self._folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE if program != "pg_ctl" else subprocess.DEVNULL,
                timeout=90,
                check=False,
            )
            if done.returncode == 0:
                return
            time.sleep(0.2 * (attempt + 1))
        raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr!r}")
