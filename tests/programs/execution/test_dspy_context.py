"""What the DSPy context of a request has from the whole process."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from tests.port_process import PortProcess
from tests.template_process import python_path

OBSERVING = textwrap.dedent("""
    import dspy
    from dspy.utils.callback import BaseCallback

    class Observer(BaseCallback):
        def on_module_start(self, call_id, instance, inputs):
            with open("{path}", "a") as file:
                file.write(type(instance).__name__ + " ")

    dspy.settings.configure(callbacks=[Observer()])
""")


def test_callbacks_that_the_application_configures_observe_each_call(tmp_path: Path) -> None:
    """The context of each request replaced them by none, so that ``mlflow.dspy.autolog()`` saw nothing."""
    path = tmp_path / "observed"
    (tmp_path / "observing.py").write_text(OBSERVING.format(path=path))
    with PortProcess(["--preload=observing"], environment={"PYTHONPATH": python_path(tmp_path)}) as port:
        opts: dict[str, Any] = {"lm": "embedded"}
        port.done("execute_module", "dspy.ChainOfThought", "question -> answer", {"question": "why"}, opts)
        assert path.read_text().split() == ["ChainOfThought", "Predict"]
        # With callbacks of its own.
        program = port.done("create_program", {"signature": "question -> answer"}, {})
        check = {"check": "length", "field": "answer", "minimum": 1}
        opts = {**opts, "optimizer": "dspy.BootstrapFewShot", "metric": check}
        port.done("compile_program", program["session_id"], program["id"], [{"question": "a"}], opts)
        assert path.read_text().split().count("Predict") > 1
