"""Test bulk imports, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

_PROGRAM = """
import gc, json
before = gc.get_threshold()
import dspy_bridge
print(json.dumps([gc.get_freeze_count(), gc.isenabled(), gc.get_threshold() == before]))
"""
_FAILING = """
import gc
from erlport_bridge.port.importing import bulk_import
before = gc.get_threshold(), gc.get_freeze_count()
try:
    with bulk_import():
        import no_such_module
except ImportError:
    assert (gc.get_threshold(), gc.get_freeze_count()) == before
    print("as before")
"""


def _run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def test_garbage_collector_never_visits_imported_objects_and_runs_again_afterwards() -> None:
    frozen, is_enabled, has_its_thresholds = json.loads(_run(_PROGRAM))
    assert frozen > 50_000
    assert is_enabled
    assert has_its_thresholds


def test_failed_import_leaves_the_garbage_collector_as_it_was() -> None:
    assert _run(_FAILING) == "as before"
