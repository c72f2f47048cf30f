"""Run benchmarks and print Markdown: ``python -m benchmarks [PART ...]``; without a part, all of ``make bench``."""

import subprocess
import sys
from importlib import import_module

from benchmarks import machine

_SHOWN = ("codec", "scaling", "port", "elixir", "placement", "requests", "lateness", "template", "workers", "store")
_PARTS = (*_SHOWN, "shapes")


def main(names: list[str]) -> None:
    """Run the named parts one after the other.

    Each part runs in a process of its own, because leftovers would slow the next part: DSPy's many live objects, which
    ``port`` imports, and the memory of ``scaling``.
    """
    unknown = set(names) - set(_PARTS)
    if unknown:
        raise SystemExit(f"unknown part {min(unknown)!r}; known are {', '.join(_PARTS)}")
    if len(names) == 1:
        for line in import_module(f"benchmarks.{names[0]}").lines():
            print(line, flush=True)
        return
    print(machine.description(), flush=True)
    for name in names or _SHOWN:
        subprocess.run([sys.executable, "-m", "benchmarks", name], check=True)
        print(flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
