"""Serve as a process of its own, until stdin is closed: ``python tests/model_server``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

# Run by the path of the folder, Python finds its files by no name of a package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.model_server import ModelServer


def main() -> None:
    """Write the URL, and add the scripted replies that are lines on stdin."""
    with ModelServer() as server:
        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()
        for line in sys.stdin:
            script = json.loads(line)
            server.script(script["name"], *script["replies"])
            sys.stdout.write("ok\n")
            sys.stdout.flush()


main()
