"""A setting is that of DSPy's context, else that of the process, else the default."""

from __future__ import annotations

from typing import Any

import dspy

from erlport_bridge.dspy_patches.installing import seam

looked_up_by_dspy = seam.originals["settings_lookup"]["dspy.dsp.utils.settings:Settings.get"]


def test_a_setting_is_looked_up_in_the_context_and_then_in_the_process() -> None:
    names = ["callbacks", "lm", "own", "missing", "lock", "_missing"]

    def both(default: Any) -> list[Any]:
        found = [dspy.settings.get(name, default) for name in names]
        assert found == [looked_up_by_dspy(dspy.settings, name, default) for name in names]
        return found

    assert both("otherwise")[2:4] == ["otherwise", "otherwise"]
    with dspy.context(own=None, callbacks=["x"]):
        assert both("otherwise")[:4] == [["x"], dspy.settings.lm, None, "otherwise"]
    assert both(None)[2] is None
