"""Say why the runtime does not start, in lines that begin with "dspex-cause: " and "dspex-remedy: ".

Without such lines the runtime can be imported. `diagnosis.ex` runs this program. Its arguments are the interpreter's
path, the pool's name and the modules that the pool preloads. Any interpreter must be able to read it, also Python 2.
"""

import sys

PYTHON, POOL = sys.argv[1:3]
PRELOADED = sys.argv[3:]


def end(cause, remedy):
    """End with a cause and its remedy."""
    sys.stderr.write("\ndspex-cause: %s\ndspex-remedy: %s\n" % (cause, remedy))
    sys.stderr.flush()
    sys.exit(1)


if sys.version_info < (3, 10):
    end(
        "python 3.10 or newer is needed, this is " + sys.version.split()[0],
        "set the option :python of pool %s to a newer one" % POOL,
    )

import os

BEFORE = set(sys.modules)


def explain(error, preloaded):
    """End with the cause and the remedy of an error of an import."""
    loaded, path = dict(sys.modules), list(sys.path)
    forget_modules()
    import re
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    files = [frame.filename for frame in frames if os.path.isabs(frame.filename)]
    if isinstance(error, SyntaxError) and error.filename:
        files.append(error.filename)
    text = " ".join(str(error).split())
    cause = type(error).__name__ + (": " + text if text else "")
    for name, file, hidden in hiding(loaded, path, files):
        if name in sys.stdlib_module_names or file in files or re.search(r"\b%s\b" % re.escape(name), text):
            end(
                "%s; %s hides %s" % (cause, file, hidden),
                "rename it, or take its folder out of the option :python_path of pool %s and of PYTHONPATH" % POOL,
            )
    wanted, found = versions()
    if found and wanted and not fits(found, wanted) and not preloaded:
        end(
            "%s; dspy %s is installed, erlport_bridge needs dspy%s" % (cause, found, wanted),
            "install it with: " + install("'dspy%s'" % wanted),
        )
    bridge = install("/path/to/erlport_bridge")
    missing = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing in ("erlport_bridge", "dspy_bridge", "dspy", "erlang"):
        end(cause, "install it with: %s; or set the option :python of pool %s to a python that has it" % (bridge, POOL))
    if type(error).__name__ == "MissingPackageError":
        end(error.cause, error.remedy)
    if preloaded or type(error).__module__.startswith("erlport_bridge"):
        end(cause, "check the options :preload, :modules and :python_path of pool " + POOL)
    if files:
        cause += " (in %s)" % files[-1]
    if isinstance(error, Warning) and sys.warnoptions:
        end(cause, "unset PYTHONWARNINGS (%s), which makes an error of a warning" % ",".join(sys.warnoptions))
    if os.environ.get("PYTHONHOME"):
        end(cause, "unset PYTHONHOME (%s), or set it to the prefix of this python" % os.environ["PYTHONHOME"])
    end(cause, "install erlport_bridge anew with: " + bridge)


def forget_modules():
    """Forget what was imported, so that the imports of this program find Python's own modules and packages."""
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [folder for folder in sys.path if folder not in folders]
    for name in set(sys.modules) - BEFORE:
        del sys.modules[name]


def install(what):
    """Return the command that installs a package for this Python. An environment that uv has made has no pip."""
    import importlib.util

    if importlib.util.find_spec("pip") is None and not sys.flags.no_site:
        return "uv pip install --python %s %s" % (PYTHON, what)
    return "%s -m pip install %s" % (PYTHON, what)


def hiding(loaded, path, files):
    """Yield each module that hides another of its name: the name, its file, and the file that it hides.

    A module whose import has failed is not among the loaded ones, but its file is in the traceback.
    """
    from importlib.machinery import PathFinder

    known = {name: getattr(module, "__file__", None) for name, module in loaded.items() if "." not in name}
    for file in files:
        base = os.path.dirname(file) if os.path.basename(file) == "__init__.py" else os.path.splitext(file)[0]
        known.setdefault(os.path.basename(base), file)
    for name, file in sorted(known.items()):
        folder = os.path.dirname(file or "")
        if os.path.basename(file or "").startswith("__init__."):
            folder = os.path.dirname(folder)
        if folder in path:
            hidden = PathFinder.find_spec(name, path[path.index(folder) + 1 :])
            if hidden and hidden.origin and hidden.origin != file:
                yield name, file, hidden.origin


def versions():
    """Return what erlport_bridge says of the version of dspy that it needs, and the installed version, or ``None``."""
    import importlib.metadata
    import re

    wanted = found = None
    try:
        found = importlib.metadata.version("dspy")
        needed = importlib.metadata.requires("erlport_bridge") or []
        wanted = next((each[len("dspy") :] for each in needed if re.match(r"dspy[<>=]", each)), None)
    except importlib.metadata.PackageNotFoundError:
        pass
    return wanted, found


def fits(found, wanted):
    """Return whether a version is within bounds such as ``>=3.4,<3.5``."""
    import re

    def numbers(version):
        return [int(digits) for digits in re.findall(r"\d+", version)[:3]]

    bounds = re.findall(r"(>=|<)([\d.]+)", wanted)
    return all((numbers(found) >= numbers(limit)) == (bound == ">=") for bound, limit in bounds)


try:
    from erlport_bridge.__main__ import flags_problem
except BaseException as error:
    explain(error, preloaded=False)
if flags_problem():
    end(*flags_problem())
try:
    from erlport_bridge.port import lifeline

    # What is imported now may take for ever, and must not outlive the BEAM, which holds the other end of descriptor 0.
    lifeline.wait_until_detached(lifeline.start(0))
except OSError as error:
    explain(error, preloaded=False)
try:
    for name in ("dspy_bridge", "dspy"):
        __import__(name)
except BaseException as error:
    explain(error, preloaded=False)
try:
    for name in PRELOADED:
        __import__(name)
except BaseException as error:
    explain(error, preloaded=True)
