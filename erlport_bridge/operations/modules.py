"""List, describe, check and run DSPy's modules: ``execute_module``, ``stream_module`` and others."""

from __future__ import annotations

from typing import Any, Final

from erlport_bridge.operations.calls import begin_module_call, module_run, run, stream_of
from erlport_bridge.operations.operation import operation
from erlport_bridge.programs import tools
from erlport_bridge.programs.execution import STREAM_OPTIONS, read_module_call
from erlport_bridge.programs.modules import catalogue
from erlport_bridge.programs.pipelines import pipeline
from erlport_bridge.programs.signatures import parse_signature
from erlport_bridge.term import sort_maps

# The signature for a check without one; recognized by its identity.
_ANY_SIGNATURE: Final = parse_signature("input -> output")


@operation
def list_modules() -> list[str]:
    """Answer the names of the modules that can be called."""
    return list(catalogue.MODULES)


@operation
def describe_module(name: object) -> dict[str, Any]:
    """Answer what a module does, its options, the fields that it adds, and the tools that it can be given by name."""
    entry = catalogue.find_entry(name)
    return {**entry.describe(), "tools": tools.available() if entry.takes_tools else {}}


@operation
def validate_module(name: object, signature: object = None, opts: object = None) -> dict[str, Any]:
    """Check a module, a signature and options as ``execute_module`` does, without calling a model."""
    sort_maps([name, signature, opts])
    request = read_module_call(name, signature, opts, otherwise=_ANY_SIGNATURE)
    request.begin()
    stage = request.stage
    answer: dict[str, Any] = {"module": stage.entry.name, "warnings": list(request.options.warnings)}
    if stage.spec is not _ANY_SIGNATURE:
        pipeline.built((stage,))
        answer["signature"] = stage.spec.text
    return answer


@operation
async def execute_module(module: object, signature: object, inputs: object, opts: object = None) -> dict[str, Any]:
    """Run a module once; answer the prediction."""
    request = await begin_module_call(module, signature, opts)
    return await run(await module_run(request, inputs), request)


@operation
async def stream_module(
    reply_to: object, ref: object, module: object, signature: object, inputs: object, opts: object = None
) -> dict[str, Any]:
    """Run a module once and stream its events; answer the prediction, as ``execute_module`` does.

    The process ``reply_to`` receives messages ``{:dspex_stream, ref, event}``, at most ``buffer`` (an option) more than
    ``stream_ack`` has acknowledged. ``docs/operations.md`` describes the events.
    """
    request = await begin_module_call(module, signature, opts, STREAM_OPTIONS)
    prepared = await module_run(request, inputs)
    with stream_of(request, reply_to, ref) as events:
        return await run(prepared, request, events)
