"""Writes ``docs/dspy.md``: every public class of the installed DSPy, and how Elixir reaches it.

``python docs/dspy_table.py`` writes the file; a test compares it. What the catalogue of modules, the types of fields
and the errors say is read from them; the rest is said here, and a class that nobody has said anything of is an error.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import dspy

from erlport_bridge import errors
from erlport_bridge.optimizing import optimizers as optimizers
from erlport_bridge.programs.models import adapters
from erlport_bridge.programs.modules import catalogue
from erlport_bridge.programs.signatures import type_parser

PAGE: Final = Path(__file__).parent / "dspy.md"

_HEAD: Final = """# DSPy's classes from Elixir

Every public class of DSPy 3.4, and how it is reached. Written by `python docs/dspy_table.py`.

| class | from Elixir |
| --- | --- |
"""

_RESULT: Final = "part of a result: a map"
_INNER: Final = "DSPy's own machinery; nothing to call"
_FINETUNES: Final = "not: it trains a model's weights"

#: What neither the catalogue nor the types of fields nor the errors say.
_SAID: Final[Mapping[str, str]] = {
    "Adapter": "the option `adapter` of a call chooses one",
    "TwoStepAdapter": '`adapter: %{name: "two_step", extraction_model: …}`',
    "BaseLM": "`{:elixir, function}`: a model of one's own is a function (`DSPex.Python.ModelFunction`)",
    "LM": "`configure_lm`, the option `lm`, the `model` of a pool",
    "Module": "the pool's option `modules:` offers the application's own",
    "BaseModule": "see `Module`",
    "Signature": "text, a map, or Elixir's own terms, see [operations.md](operations.md)",
    "SignatureMeta": "see `Signature`",
    "OldField": "not: DSPy keeps it for old code",
    "OldInputField": "not: DSPy keeps it for old code",
    "OldOutputField": "not: DSPy keeps it for old code",
    "Example": "a map: of `inputs`, of `demos`",
    "Prediction": "`DSPex.Prediction`",
    "Completions": "`prediction.completions`",
    "Type": "the types of fields, see [operations.md](operations.md)",
    "Tool": "the option `tools`, see `DSPex.Python.Tool`; the type `dspy.Tool` of a field, see `DSPex.Value.tool/3`",
    "ToolCallResults": _RESULT,
    "CodeInterpreter": "the sandbox that each call brings",
    "PythonInterpreter": "the sandbox of `dspy.ProgramOfThought`, `dspy.CodeAct`, `dspy.RLM` and `dspy.Flex`",
    "LocalInterpreter": "not: it is no sandbox, code would run with the rights of the port",
    "FinalOutput": _INNER,
    "SandboxSerializable": _INNER,
    "Embedder": "a function of Elixir, for `dspy.KNN` and `dspy.Retrieve`",
    "Embeddings": "`dspy.Retrieve` with vectors",
    "EmbeddingsWithScores": "`dspy.Retrieve` with vectors",
    "ColBERTv2": "a function of Elixir, for `dspy.Retrieve`",
    "Evaluate": "`evaluate_program`",
    "Provider": _FINETUNES,
    "TrainingJob": _FINETUNES,
    "BootstrapFinetune": _FINETUNES,
    "BetterTogether": _FINETUNES,
    "BootstrapRS": "another name of `BootstrapFewShotWithRandomSearch`",
    "AvatarOptimizer": "not: it is for `dspy.Avatar`, which DSPy does not offer any more",
}


def page() -> str:
    """Give the text of the page.

    Raises:
        LookupError: DSPy has a class that is not known here.
    """
    rows = [f"| `dspy.{name}` | {_reached(name, cls)} |" for name, cls in sorted(public_classes().items())]
    return _HEAD + "\n".join(rows) + "\n"


def public_classes() -> dict[str, type]:
    """Give the classes that ``import dspy`` offers, by name."""
    return {name: cls for name, cls in vars(dspy).items() if inspect.isclass(cls) and not name.startswith("_")}


def _reached(name: str, cls: type) -> str:
    if name in _SAID:
        return _SAID[name]
    full_name = f"dspy.{name}"
    if full_name in catalogue.ENTRIES:
        return _module(full_name)
    if full_name in optimizers.ENTRIES:
        return _optimizer(full_name)
    if full_name in type_parser.KNOWN_TYPES:
        return f"the type `{full_name}` of a field"
    for option, adapter in adapters.ADAPTERS.items():
        if cls is adapter.__bases__[-1]:  # ours derives from it
            return f'`adapter: "{option}"`'
    if issubclass(cls, Exception):
        return f"an error of kind `{errors.kind_of(cls.__new__(cls))}`"
    raise LookupError(f"nothing is said of {full_name}")


def _optimizer(full_name: str) -> str:
    packages = optimizers.ENTRIES[full_name].packages
    needs = f"; needs {' and '.join(packages)}" if packages else ""
    return f'`compile_program`, `optimizer: "{full_name}"`{needs}'


def _module(full_name: str) -> str:
    entry = catalogue.ENTRIES[full_name]
    how = f'`execute_module("{full_name}", …)`' if entry.operation == "execute_module" else f"`{entry.operation}`"
    marks = [
        "experimental" if entry.experimental else "",
        "runs code in a sandbox" if entry.needs_sandbox else "",
        "takes tools" if entry.takes_tools else "",
        f"deprecated: {entry.deprecated}" if entry.deprecated else "",
    ]
    return "; ".join([how, *filter(None, marks)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} has {len(public_classes())} classes\n")
