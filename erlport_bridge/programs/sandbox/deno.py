"""Run Deno with an environment of its own: a list of what it needs, and no key of a provider."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sysconfig
from typing import Final

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.text import quoted

#: What helps when Deno is missing. With musl (Alpine) there is no wheel of it.
REMEDY: Final = (
    "install it with `apk add deno`"
    if "musl" in str(sysconfig.get_config_var("SOABI"))
    else 'install it with `pip install "erlport_bridge[sandbox]"`'
)

# Where programs, libraries, caches and temporary files are, and the language of messages.
_NEEDED: Final = frozenset(
    {"PATH", "HOME", "DENO_DIR", "XDG_CACHE_HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE"}
    | {"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"}
)
# What a download from the registry needs beside that.
_FOR_DOWNLOADS: Final = frozenset(
    {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "NPM_CONFIG_REGISTRY"}
    | {"DENO_CERT", "DENO_TLS_CA_STORE", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "SSL_CERT_DIR"}
)
_SET: Final = {"DENO_NO_PACKAGE_JSON": "1", "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
_INFO_TIMEOUT_S: Final = 10

#: Options that keep files of the current folder, and the network, out of a run.
SEALED: Final = ("--quiet", "--cached-only", "--no-config", "--no-lock", "--node-modules-dir=false")


def environment(*, downloads: bool = False) -> dict[str, str]:
    """Return the environment of a Deno process.

    Args:
        downloads: Whether it fetches packages. A sandbox does not: a proxy's address may have a password.
    """
    names = _NEEDED | _FOR_DOWNLOADS if downloads else _NEEDED
    return {name: value for name, value in os.environ.items() if name.upper() in names} | _SET


def run(command: list[str], timeout_s: float, *, downloads: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command of Deno to its end.

    Raises:
        OperationError: Of kind ``missing_dependency``: it cannot be run, or does not end in time.
    """
    try:
        return subprocess.run(  # noqa: S603 - a fixed command
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout_s,
            check=False,
            env=environment(downloads=downloads),
        )
    except subprocess.TimeoutExpired:
        problem = f"{command[0]} {command[1]} gave no answer within {timeout_s} s"
        raise OperationError("missing_dependency", f"the sandbox needs Deno 2, but {problem}") from None
    except OSError as error:
        problem = f"{quoted(command[0])} cannot be run ({error.strerror})"
        raise OperationError("missing_dependency", f"the sandbox needs Deno 2, but {problem}; {REMEDY}") from None


def in_one_line(stderr: str) -> str:
    """Return what Deno wrote as one line: its first line says what failed, those after it why."""
    return "; ".join(line.strip() for line in stderr.splitlines() if line.strip())[:500] or "no reason given"


_folders: Final[dict[str, str]] = {}
_programs: Final[dict[str, str]] = {}


def cache_folder(executable: str) -> str | None:
    """Return the folder of Deno's cache, ``None`` if Deno does not tell it.

    Links in its path are resolved: Deno checks the right to read a file behind a link by the file's own path.
    """
    if "DENO_DIR" in os.environ:
        return os.path.realpath(os.environ["DENO_DIR"])
    if executable not in _folders:
        try:
            told = json.loads(run([executable, "info", "--json"], _INFO_TIMEOUT_S).stdout)
            _folders[executable] = os.path.realpath(told["denoDir"])
        except (OperationError, ValueError, LookupError, TypeError):
            return None
    return _folders[executable]


def program(executable: str) -> str:
    """Return the program behind a script such as npm's: a sandbox whose script is killed would live on."""
    if executable not in _programs:
        found = shutil.which(executable)
        if found is None:
            return executable
        with open(found, "rb") as file:
            is_script = file.read(2) == b"#!"
        told = ""
        if is_script:
            with contextlib.suppress(OperationError):
                told = run([executable, "eval", "console.log(Deno.execPath())"], _INFO_TIMEOUT_S).stdout.strip()
        _programs[executable] = told if os.path.isfile(told) else executable
    return _programs[executable]
