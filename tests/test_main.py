"""Start ``python -m erlport_bridge`` in a folder whose files have the names of the modules that it imports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import erlang
import pytest

from tests.port_process import PortProcess

ROOT = Path(__file__).parents[1]
# In every folder in which a module is searched for; an installed one would be found first.
PATHS = (ROOT, ROOT / "priv" / "python")


def interpreters() -> list[str]:
    """Return this interpreter, and the other ones of Python 3.10 to 3.14 on this machine."""
    found = [sys.executable]
    for minor in range(10, 15):
        places = sorted(Path.home().glob(f".pyenv/versions/*/bin/python3.{minor}"))
        path = shutil.which(f"python3.{minor}")
        if path and ".pyenv/shims" not in path:
            places.append(Path(path))
        found += [str(place) for place in places[:1]]
    return found


def environment_of(python: str, folder: Path) -> str:
    """Make a virtual environment with this repository and what the port needs without DSPy; return its Python."""
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    made = str(folder / "bin" / "python")
    code = "import sysconfig; print(sysconfig.get_path('purelib'), end='')"
    packages = Path(subprocess.run([made, "-c", code], check=True, capture_output=True, text=True).stdout)
    (packages / "repository.pth").write_text("".join(f"{path}\n" for path in PATHS))
    shutil.copy(erlang.__file__, packages)
    return made


@pytest.fixture(scope="module")
def imported_at_start() -> set[str]:
    """Return the modules that a port imports, and those for which Python itself searches."""
    code = "import sys, erlport_bridge.__main__, dspy_bridge; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    names = {name.partition(".")[0] for name in modules} | {"sitecustomize", "usercustomize", "runpy", "linecache"}
    assert names >= {"random", "json", "dspy", "erlport_bridge", "orjson"}
    return names


@pytest.fixture
def shadows(imported_at_start: set[str], tmp_path: Path) -> Path:
    """Return a folder with a file for each of these modules, which leaves a file when it is imported."""
    folder = tmp_path / "shadows"
    folder.mkdir()
    for name in imported_at_start:
        (folder / f"{name}.py").write_text(f"open({str(folder / name)!r} + '.imported', 'w').close()\n")
    return folder


def imported(folder: Path) -> list[str]:
    """Return the names of the files that were imported."""
    return sorted(path.stem for path in folder.glob("*.imported"))


@pytest.mark.parametrize("python", interpreters())
def test_isolated_port_imports_nothing_from_the_current_folder(
    python: str, shadows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [environment_of(python, tmp_path / "environment"), "-I", "-m", "erlport_bridge"]
    monkeypatch.chdir(shadows)
    # An empty entry means the current folder.
    with PortProcess(["--use_stdio"], command=command, environment={"PYTHONPATH": ":"}) as port:
        assert port.call("random", "randrange", 1)[2] == 0
        assert port.call("json", "dumps", [1])[2] == "[1]"
    assert imported(shadows) == []


def test_isolated_port_finds_what_python_path_names(tmp_path: Path) -> None:
    (tmp_path / "tools_here.py").write_text("def seven():\n    return 7\n")
    command = [environment_of(sys.executable, tmp_path / "environment"), "-I", "-m", "erlport_bridge"]
    with PortProcess(["--use_stdio"], command=command, environment={"PYTHONPATH": f":{tmp_path}"}) as port:
        assert port.call("tools_here", "seven")[2] == 7


def test_port_that_is_not_isolated_imports_nothing_from_the_current_folder_itself(
    shadows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Before its first line, Python itself may import modules from the current folder, in some versions.
    itself = {*sys.stdlib_module_names, "erlport_bridge"} - {"argparse", "contextlib", "signal", "json", "random"}
    for name in itself:
        (shadows / f"{name}.py").unlink(missing_ok=True)
    monkeypatch.chdir(shadows)
    path = os.pathsep.join(map(str, PATHS))
    with PortProcess(["--use_stdio", "--modules=dspy_bridge"], environment={"PYTHONPATH": path}) as port:
        assert "dspy.Predict" in port.done("list_modules")
    assert imported(shadows) == []


def test_port_needs_the_docstrings_that_dspy_shows_to_models() -> None:
    with PortProcess(environment={"PYTHONOPTIMIZE": "2"}) as port:
        assert port.process.wait() == 1
        assert "-OO removes docstrings, which DSPy shows to models" in port.stderr_text()


def test_copy_of_python_that_a_preloaded_module_has_forked_takes_no_calls(tmp_path: Path) -> None:
    """Copy once read calls of the port too, and lived on, without a model, after Python had been killed."""
    (tmp_path / "forks.py").write_text("import os\nos.fork()\n")
    with PortProcess(
        ["--preload=forks"], environment={"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    ) as port:
        assert {port.call("os", "getpid")[2] for _ in range(200)} == {port.process.pid}
        assert port.call("os", "wait")[0] == "r"
