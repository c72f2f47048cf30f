"""List the private names of DSPy that are used and not replaced, and the modules whose functions are quick."""

from __future__ import annotations

from typing import Final

from erlport_bridge.dspy_patches.patch import PrivateName

PRIVATE_NAMES: Final[tuple[PrivateName, ...]] = (
    PrivateName(
        name="_load",
        place="dspy.clients.model_metadata:_load",
        used_in=("dspy_patches/model_lookup.py",),
        why="the loaded metadata of models; its identity tells whether cached lookups belong to it",
    ),
    PrivateName(
        name="__dspy_field_type",
        place="dspy.signatures.signature:SignatureMeta._get_fields_with_type",
        used_in=("dspy_patches/signature_fields.py",),
        why="says in a field's json_schema_extra whether it is an input or an output",
    ),
    PrivateName(
        name="_vendor",
        place="dspy._vendor.lm15.serde:request_to_dict",
        used_in=(
            "dspy_patches/connections.py",
            "programs/models/elixir_model.py",
            "programs/models/exchange.py",
            "programs/models/litellm_engines.py",
            "programs/models/native_engines.py",
        ),
        why="the form in which a function of Elixir receives a request; what the client's connections send and raise",
    ),
    PrivateName(
        name="_deprecation",
        place="dspy.clients._deprecation:adapter_message_call",
        used_in=("dspy_patches/scopes.py",),
        why="the messages that DSPy's own adapter has written, of which it does not warn",
    ),
    PrivateName(
        name="_adapter_call",
        place="dspy.clients._deprecation:_adapter_call",
        used_in=("dspy_patches/scopes.py",),
        why="the model and the messages of the request that an adapter makes",
    ),
    PrivateName(
        name="_adapter_calls",
        place="dspy.clients.call_context:_adapter_calls",
        used_in=("dspy_patches/scopes.py",),
        why="the requests around the current one, which must not be made again once a part is streamed",
    ),
    PrivateName(
        name="_planning",
        place="dspy.clients.capabilities:_planning",
        used_in=("dspy_patches/scopes.py",),
        why="what the model of the current request can do, once that is looked up",
    ),
    PrivateName(
        name="_PlanningScope",
        place="dspy.clients.capabilities:_PlanningScope",
        used_in=("dspy_patches/scopes.py",),
        why="holds what the model of a request can do",
    ),
    PrivateName(
        name="_buffer",
        place="asyncio:StreamReader",
        used_in=("dspy_patches/connections.py",),
        why="what asyncio has read of a connection that no request has asked for",
    ),
    PrivateName(
        name="_http",
        place="dspy.clients._http:retry_after_seconds",
        used_in=("programs/models/litellm_engines.py",),
        why="reads the header retry-after as DSPy does",
    ),
    PrivateName(
        name="_delay",
        place="dspy.clients.execution:_delay",
        used_in=("programs/models/request_retries.py",),
        why="how long DSPy waits before it repeats a request",
    ),
    PrivateName(
        name="_target",
        place="dspy.clients.engines.lm15_engine:AsyncLM15Engine",
        used_in=("programs/models/native_engines.py",),
        why="the client that sends the requests of an engine",
    ),
    PrivateName(
        name="_providers",
        place="dspy:LM",
        used_in=("programs/models/bridge_lm.py",),
        why="declares a provider for one model; DSPy's registry would keep it for all, with its address and headers",
    ),
    PrivateName(
        name="_canonical",
        place="dspy.clients.execution:_canonical",
        used_in=("dspy_patches/large_requests.py",),
        why="makes the canonical request of a large prompt in a thread, before aexecute asks for it on the loop",
    ),
    PrivateName(
        name="_engine_spec",
        place="dspy:LM",
        used_in=("dspy_patches/large_requests.py",),
        why="says whether DSPy's own client sends the requests of a model",
    ),
    PrivateName(
        name="_call_preprocess",
        place="dspy:Adapter",
        used_in=("programs/models/answer_adapters.py",),
        why="the signature that a prompt shows; a large prompt is worded in a thread",
    ),
    PrivateName(
        name="_call_postprocess",
        place="dspy:Adapter",
        used_in=("programs/models/off_loop.py",),
        why="reads the answers of a model; a long answer is read in a thread",
    ),
    PrivateName(
        name="_engine_lock",
        place="dspy:LM",
        used_in=("programs/models/bridge_lm.py",),
        why="copies of a model share one lock, since they share their connections",
    ),
    PrivateName(
        name="_engine_store",
        place="dspy:LM",
        used_in=("programs/models/bridge_lm.py",),
        why="the connections of a model, which its copies share",
    ),
    PrivateName(
        name="_elements_to_value",
        place="dspy.adapters.xml_adapter:XMLAdapter",
        used_in=("programs/models/answer_adapters.py",),
        why="makes a list of the text null in an element whose type is a list or nil; overridden for that case",
    ),
    PrivateName(
        name="__dspy_sig__",
        place="dspy.primitives.facade:SIGNATURE_MARKER",
        used_in=("programs/sandbox/facade.py",),
        why="marks a signature with instructions that code in the sandbox wrote",
    ),
    PrivateName(
        name="__dspy_construct__",
        place="dspy.primitives.facade:CONSTRUCT_TOOL",
        used_in=("programs/sandbox/facade.py",),
        why="the tool by which code in the sandbox has a module built",
    ),
    PrivateName(
        name="_spawn_process",
        place="dspy:PythonInterpreter",
        used_in=("programs/sandbox/interpreter.py",),
        why="starts Deno with an environment of its own, and reads its output by lines of a bounded length",
    ),
    PrivateName(
        name="_health_check",
        place="dspy:PythonInterpreter",
        used_in=("programs/sandbox/interpreter.py",),
        why="the first request to a sandbox, after which it is ready",
    ),
    PrivateName(
        name="_get_deno_dir",
        place="dspy:PythonInterpreter",
        used_in=("programs/sandbox/interpreter.py",),
        why="the folder of Deno's cache, asked for without the port's environment",
    ),
    PrivateName(
        name="_read_response_line",
        place="dspy:PythonInterpreter",
        used_in=("programs/sandbox/interpreter.py",),
        why="one line of a sandbox's output, bounded in length",
    ),
    PrivateName(
        name="_parse_response_line",
        place="dspy:PythonInterpreter",
        used_in=("programs/sandbox/interpreter.py",),
        why="the message of a line, whose shape is checked",
    ),
    PrivateName(
        name="_raise_terminal_error",
        place="dspy:PythonInterpreter",
        used_in=("programs/sandbox/interpreter.py",),
        why="ends a sandbox; ours kills it first",
    ),
    PrivateName(
        name="_handle_tool_call",
        place="dspy:PythonInterpreter",
        used_in=("programs/sandbox/interpreter.py",),
        why="the answer to a call of a tool, bounded in size",
    ),
    PrivateName(
        name="_write_message",
        place="dspy:PythonInterpreter",
        used_in=("programs/sandbox/interpreter.py",),
        why="writes a message to a sandbox",
    ),
    PrivateName(
        name="_tools_registered",
        place="dspy:PythonInterpreter",
        used_in=("programs/sandbox/interpreter.py",),
        why="makes the interpreter register its tools again, in a sandbox that was started before its call",
    ),
    PrivateName(
        name="_interpreter_context",
        place="dspy:ProgramOfThought",
        used_in=("programs/modules/code_modules.py",),
        why="the interpreter of one run, which ends with it; in the loops of ProgramOfThought and CodeAct",
    ),
    PrivateName(
        name="_parse_code",
        place="dspy:ProgramOfThought",
        used_in=("programs/modules/code_modules.py",),
        why="the code in what a model wrote, or what is wrong with it; in the same loops",
    ),
    PrivateName(
        name="_execute_code",
        place="dspy:ProgramOfThought",
        used_in=("programs/modules/code_modules.py",),
        why="runs code, and returns its output or its error; in the same loops",
    ),
    PrivateName(
        name="_call_with_potential_trajectory_truncation",
        place="dspy:CodeAct",
        used_in=("programs/modules/code_modules.py",),
        why="asks for the outputs of CodeAct after its steps",
    ),
    PrivateName(
        name="_execute_iteration",
        place="dspy:RLM",
        used_in=("programs/modules/code_modules.py",),
        why="one step of RLM; one that cannot be read becomes an observation",
    ),
    PrivateName(
        name="_extract_fallback",
        place="dspy:RLM",
        used_in=("programs/modules/code_modules.py",),
        why="asks for the outputs of RLM when its steps have brought none",
    ),
    PrivateName(
        name="_send_request",
        place="dspy:PythonInterpreter",
        used_in=("programs/sandbox/interpreter.py",),
        why="a request to the program in the sandbox, and its reply",
    ),
    PrivateName(
        name="_format_trajectory",
        place="dspy:ReAct",
        used_in=("programs/modules/code_modules.py",),
        why="the text of a trajectory in a prompt, whose markers are its own",
    ),
    PrivateName(
        name="_forward_preprocess",
        place="dspy:Predict",
        used_in=("dspy_patches/predictor_calls.py",),
        why="what a predictor does before it calls its adapter",
    ),
    PrivateName(
        name="_forward_postprocess",
        place="dspy:Predict",
        used_in=("dspy_patches/predictor_calls.py",),
        why="what a predictor does after it calls its adapter",
    ),
    PrivateName(
        name="_set_lm_usage",
        place="dspy:Module",
        used_in=("programs/pipelines/module_spans.py",),
        why="gives a prediction the usage of its module, as Module.acall does",
    ),
    PrivateName(
        name="_store",
        place="dspy:Example",
        used_in=("programs/values/results.py",),
        why="the fields of an example or a prediction, also those whose names begin with dspy_",
    ),
    PrivateName(
        name="_completions",
        place="dspy:Prediction",
        used_in=("programs/execution/prediction_terms.py",),
        why="the completions of a prediction; None if it was not made from the answer of a model",
    ),
    PrivateName(
        name="_set_num_trials_from_num_candidates",
        place="dspy:MIPROv2",
        used_in=("optimizing/optimizers.py",),
        why="DSPy's own number of trials if the caller gives only the number of candidates",
    ),
)

#: Modules whose functions DSPy runs in threads although they never wait: they prepare a request, or look up what its
#: model can do. They return within 20 us, or with the result of a cache on the disk.
QUICK_MODULES: Final = ("dspy.clients.execution", "dspy.clients.capabilities")
