"""List all names of DSPy that are replaced: what an upgrade of DSPy has to look at, beside :mod:`.private_names`.

``make compat DSPY=3.5.0`` prints which of them fit another version. If a fingerprint has changed, read what DSPy does
now; if the patch is still right, add the new fingerprint to the accepted ones.
"""

from __future__ import annotations

from typing import Final

import dspy

from erlport_bridge.dspy_patches import content_markers, scopes, value_checks
from erlport_bridge.dspy_patches.callback_dispatch import chosen_once, quick_inspect
from erlport_bridge.dspy_patches.connections import last_head_async, last_head_sync, unread_is_stale
from erlport_bridge.dspy_patches.decision_outputs import looked_for_once
from erlport_bridge.dspy_patches.earlier_turns import held_fields_only
from erlport_bridge.dspy_patches.encodable_texts import of_messages
from erlport_bridge.dspy_patches.large_requests import building_aside, kept_canonical
from erlport_bridge.dspy_patches.model_lookup import model_info
from erlport_bridge.dspy_patches.optimizer_threads import carrying_context
from erlport_bridge.dspy_patches.patch import PROVIDED, Patch
from erlport_bridge.dspy_patches.predictor_calls import without_stream
from erlport_bridge.dspy_patches.reply_limit import bounded_async, bounded_sync, large_events
from erlport_bridge.dspy_patches.set_order import with_sorted_sets
from erlport_bridge.dspy_patches.settings_lookup import setting
from erlport_bridge.dspy_patches.signature_fields import fields_of_type
from erlport_bridge.dspy_patches.single_completion import of_one
from erlport_bridge.dspy_patches.strict_schemas import needs_json_mode, response_format
from erlport_bridge.dspy_patches.system_message import kept
from erlport_bridge.dspy_patches.text_answers import output_of, usage_of
from erlport_bridge.dspy_patches.text_requests import of_text
from erlport_bridge.dspy_patches.type_adapters import type_adapter
from erlport_bridge.dspy_patches.type_schema import type_schema

_PARSE_VALUE: Final = ("deab72e8f8f6",)
_SERIALIZE: Final = ("70ccb3b2f3f5",)
_MODEL_INFO: Final = ("824a524b1bda",)
_VALUES: Final = "dspy._vendor.lm15.types"

PATCHES: Final[tuple[Patch, ...]] = (
    Patch(
        name="type_adapters",
        why="DSPy builds a pydantic.TypeAdapter for each value that it writes or reads: 40 to 90 us each.",
        since="3.4.0",
        until="DSPy caches its type adapters",
        without="values are written and read slower",
        targets={"dspy.adapters.utils:TypeAdapter": lambda _: type_adapter},
        expects={
            "dspy.adapters.utils:TypeAdapter": ("class pydantic.type_adapter.TypeAdapter",),
            # Calls a type adapter, as serialize_for_json does, which `set_order` replaces.
            "dspy.adapters.utils:parse_value": _PARSE_VALUE,
        },
    ),
    Patch(
        name="set_order",
        why="DSPy writes a set in Python's order, which is another one in each process: prompts and cache keys differ.",
        since="3.4.0",
        until="DSPy sorts the elements of sets",
        without="the elements of a set have another order in the prompts of each process",
        targets={
            "dspy.adapters.utils:serialize_for_json": with_sorted_sets,
            "dspy.adapters.base:serialize_for_json": with_sorted_sets,
            "dspy.adapters.json_adapter:serialize_for_json": with_sorted_sets,
            "dspy.adapters.xml_adapter:serialize_for_json": with_sorted_sets,
            "dspy.primitives.repl_types:serialize_for_json": with_sorted_sets,
        },
        expects={
            "dspy.adapters.utils:serialize_for_json": _SERIALIZE,
            "dspy.adapters.base:serialize_for_json": _SERIALIZE,
            "dspy.adapters.json_adapter:serialize_for_json": _SERIALIZE,
            "dspy.adapters.xml_adapter:serialize_for_json": _SERIALIZE,
            "dspy.primitives.repl_types:serialize_for_json": _SERIALIZE,
        },
    ),
    Patch(
        name="signature_fields",
        why="Each request looks through the fields of its signature 20 times, by Pydantic's slow model_fields.",
        since="3.4.0",
        until="DSPy caches the fields by type, or reads __pydantic_fields__",
        without="requests are prepared slower",
        targets={
            "dspy.signatures.signature:SignatureMeta.input_fields": lambda _: fields_of_type("input"),
            "dspy.signatures.signature:SignatureMeta.output_fields": lambda _: fields_of_type("output"),
        },
        expects={
            "dspy.signatures.signature:SignatureMeta.input_fields": ("d7dcb186143f",),
            "dspy.signatures.signature:SignatureMeta.output_fields": ("0ab5b68c5be3",),
            "dspy.signatures.signature:SignatureMeta._get_fields_with_type": ("06ca0180707f",),
        },
    ),
    Patch(
        name="system_message",
        why="DSPy words the system message of a signature again for each request: a seventh of its work.",
        since="3.4.0",
        until="DSPy caches the system message of a signature",
        without="requests are prepared slower",
        targets={"dspy.adapters.base:Adapter.format_system_message": kept},
        expects={
            "dspy.adapters.base:Adapter.format_system_message": ("3c9124250904",),
            # These depend on the signature alone, of which the docstring and json_schema_extra can change.
            "dspy.adapters.chat_adapter:ChatAdapter.format_field_description": ("67e8b6d4c307",),
            "dspy.adapters.chat_adapter:ChatAdapter.format_field_structure": ("0105747904c8",),
            "dspy.adapters.chat_adapter:ChatAdapter.format_task_description": ("544683a93621",),
            "dspy.adapters.json_adapter:JSONAdapter.format_field_description": ("67e8b6d4c307",),
            "dspy.adapters.json_adapter:JSONAdapter.format_field_structure": ("d66ddd7cfaf2",),
            "dspy.adapters.json_adapter:JSONAdapter.format_task_description": ("544683a93621",),
            "dspy.adapters.xml_adapter:XMLAdapter.format_field_description": ("67e8b6d4c307",),
            "dspy.adapters.xml_adapter:XMLAdapter.format_field_structure": ("e7cbd1244857",),
            "dspy.adapters.xml_adapter:XMLAdapter.format_task_description": ("544683a93621",),
            "dspy.adapters.utils:get_field_description_string": ("1116dd8e2ed0",),
            "dspy.adapters.utils:translate_field_type": ("0947b4184499",),
        },
    ),
    Patch(
        name="decision_outputs",
        why="DSPy looks through the types of a signature's outputs for decisions again in each request.",
        since="3.4.1",
        until="DSPy caches whether a signature has decisions",
        without="requests are prepared slower",
        targets={"dspy.predict.predict:resolve_adapter": looked_for_once},
        expects={
            "dspy.predict.predict:resolve_adapter": ("78cf0362f43d",),
            "dspy.adapters.decision_state:DecisionState.__init__": ("149f50d22b8b",),
        },
    ),
    Patch(
        name="type_schema",
        why="DSPy sorts the fields of an object in the JSON schema of a prompt, whose order a model follows.",
        since="3.4.0",
        until="DSPy keeps the order of fields",
        without="the fields of objects are in alphabetical order in prompts",
        targets={"dspy.adapters.utils:_get_json_schema": lambda _: type_schema},
        expects={"dspy.adapters.utils:_get_json_schema": ("936e5f84e0dd",)},
    ),
    Patch(
        name="model_lookup",
        why="Each request looks up its model three times among 5,000 entries: 0.5 ms if it is not there.",
        since="3.4.0",
        until="DSPy caches its lookups",
        without="requests are prepared and priced slower",
        targets={
            "dspy.clients.capabilities:model_info": lambda _: model_info,
            "dspy.clients.costs:model_info": lambda _: model_info,
        },
        expects={
            "dspy.clients.capabilities:model_info": _MODEL_INFO,
            "dspy.clients.costs:model_info": _MODEL_INFO,
            "dspy.clients.model_metadata:_load": ("0de047741adf",),
            # These functions only read the map, which is the same object each time.
            "dspy.clients.capabilities:_capabilities": ("6f21fab85400",),
            "dspy.clients.costs:_estimate_cost": ("440f31de6b09",),
        },
    ),
    Patch(
        name="callback_choice",
        why="DSPy chooses the method of a callback by isinstance tests in each call: 0.5 ms for a stream.",
        since="3.4.0",
        until="DSPy chooses the method faster",
        without="streams and other calls with callbacks are slower",
        targets={
            "dspy.utils.callback:_get_on_start_handler": chosen_once,
            "dspy.utils.callback:_get_on_end_handler": chosen_once,
        },
        expects={
            "dspy.utils.callback:_get_on_start_handler": ("80a5316735b9",),
            "dspy.utils.callback:_get_on_end_handler": ("e051f4ede482",),
        },
    ),
    Patch(
        name="callback_arguments",
        why="inspect.getcallargs inspects the parameters of the function again in each call.",
        since="3.4.0",
        until="DSPy caches the parameters of a function",
        without="streams and other calls with callbacks are slower",
        targets={"dspy.utils.callback:inspect": quick_inspect},
        expects={
            "dspy.utils.callback:inspect": ("module inspect",),
            "dspy.utils.callback:with_callbacks": ("336518a6b8f5",),
        },
    ),
    Patch(
        name="answers",
        why="DSPy's reading changes values without a word: 1999 is a date of 1970, null the text None, true the number "
        "1, text in brackets a list; JSON goes through floats, in which a Decimal loses digits.",
        since="3.4.0",
        until="DSPy refuses what does not fit the type of a field, and reads a Decimal from the text of its number",
        without="values that do not fit are changed, and decimals have no more digits than a float",
        targets={
            "dspy.adapters.utils:json_repair": PROVIDED,
            "dspy.adapters.chat_adapter:parse_value": PROVIDED,
            "dspy.adapters.xml_adapter:parse_value": PROVIDED,
            "dspy.adapters.json_adapter:JSONAdapter.parse": PROVIDED,
            "dspy.predict.rlm:parse_value": PROVIDED,
            "dspy.predict.flex.bridge:parse_value": PROVIDED,
        },
        expects={
            "dspy.adapters.utils:json_repair": ("module json_repair",),
            "dspy.adapters.chat_adapter:parse_value": _PARSE_VALUE,
            "dspy.adapters.xml_adapter:parse_value": _PARSE_VALUE,
            "dspy.adapters.json_adapter:JSONAdapter.parse": ("99f098a2ae7d",),
            "dspy.predict.rlm:parse_value": _PARSE_VALUE,
            "dspy.predict.flex.bridge:parse_value": _PARSE_VALUE,
            # What is filled in for fields that an answer leaves out.
            "dspy.adapters.utils:apply_output_field_defaults": ("2bfb73739756",),
        },
    ),
    Patch(
        name="strict_schemas",
        why="DSPy sends strict schemas in which a map within an object or list may only be empty, and keywords that "
        "providers refuse.",
        since="3.4.0",
        until="DSPy looks for what is not strict in every type, at every depth",
        without="with the adapter json, some types are refused by providers, and maps within objects come empty",
        targets={
            "dspy.adapters.json_adapter:_has_open_ended_mapping": lambda _: needs_json_mode,
            "dspy.adapters.json_adapter:_get_structured_outputs_response_format": lambda _: response_format,
        },
        expects={
            "dspy.adapters.json_adapter:_has_open_ended_mapping": ("e42907b4dddb",),
            "dspy.adapters.json_adapter:_get_structured_outputs_response_format": ("e716b2b5d56d",),
            "dspy.adapters.json_adapter:JSONAdapter._prepare_response_format": ("5e78b12d604f",),
        },
    ),
    Patch(
        name="native_response_types",
        why="DSPy takes Citations out of Anthropic's prompt, which then come only with documents in DSPy's own form.",
        since="3.4.0",
        until="the native types of all adapters can be set, also those of DSPy's fallback to JSON",
        without="outputs of the type dspy.Citations are refused",
        targets={"dspy.adapters.base:_DEFAULT_NATIVE_RESPONSE_TYPES": lambda _: [dspy.Reasoning]},
        expects={
            "dspy.adapters.base:_DEFAULT_NATIVE_RESPONSE_TYPES": (
                "[<class 'dspy.adapters.types.citation.Citations'>, <class 'dspy.adapters.types.reasoning.Reasoning'>]",
            ),
            "dspy.adapters.base:Adapter.__init__": ("8545d49094d9",),
        },
    ),
    Patch(
        name="content_markers",
        why="DSPy turns text between two markers into a content part, also in text that a model or a tool wrote.",
        since="3.4.0",
        until="DSPy separates content parts from text",
        without="images, audio and files are refused, so that no text can pose as one",
        targets={
            "dspy.adapters.types.base_type:CUSTOM_TYPE_START_IDENTIFIER": lambda _: content_markers.SECRET_START,
            "dspy.adapters.types.base_type:CUSTOM_TYPE_END_IDENTIFIER": lambda _: content_markers.SECRET_END,
            "dspy.adapters._legacy_type_markers:CUSTOM_TYPE_START_IDENTIFIER": lambda _: content_markers.SECRET_START,
            "dspy.adapters._legacy_type_markers:CUSTOM_TYPE_END_IDENTIFIER": lambda _: content_markers.SECRET_END,
        },
        expects={
            "dspy.adapters.types.base_type:CUSTOM_TYPE_START_IDENTIFIER": (repr(content_markers.PUBLIC_START),),
            "dspy.adapters.types.base_type:CUSTOM_TYPE_END_IDENTIFIER": (repr(content_markers.PUBLIC_END),),
            "dspy.adapters._legacy_type_markers:CUSTOM_TYPE_START_IDENTIFIER": (repr(content_markers.PUBLIC_START),),
            "dspy.adapters._legacy_type_markers:CUSTOM_TYPE_END_IDENTIFIER": (repr(content_markers.PUBLIC_END),),
            # The function that writes the markers, and the functions that find them.
            "dspy.adapters.types.base_type:Type.serialize_model": ("d0e1da93279c",),
            "dspy.adapters.types.base_type:split_message_content_for_custom_types": ("ec97fb601637",),
            "dspy.adapters._legacy_type_markers:_expand_legacy_custom_type_markers_in_chat_message": ("5e8d3860c573",),
            "dspy.adapters._legacy_type_markers:_marker_pattern": ("26b5861baa08",),
        },
    ),
    Patch(
        name="large_requests",
        why="DSPy makes the HTTP request of a prompt on the event loop: 0.4 s for 10,000 examples.",
        since="3.4.0",
        until="DSPy makes requests off the loop",
        without="large prompts delay the deadlines of other calls",
        targets={
            "dspy.clients.execution:_canonical": kept_canonical,
            "dspy._vendor.lm15.providers.async_base:AsyncBaseProviderLM._build": building_aside,
        },
        expects={
            "dspy.clients.execution:_canonical": ("209a87cb963f",),
            "dspy._vendor.lm15.providers.async_base:AsyncBaseProviderLM._build": ("73fbb9f038a4",),
            "dspy.clients.execution:aexecute": ("3001d4db7c91",),
        },
    ),
    Patch(
        name="text_requests",
        why="DSPy reads all settings of a call anew to make its canonical request: a tenth of a prediction.",
        since="3.4.1",
        until="DSPy makes requests without the form of OpenAI's API between",
        without="requests are prepared slower",
        targets={"dspy.clients.execution:request_from_openai_chat": of_text},
        expects={
            "dspy.clients.execution:request_from_openai_chat": ("5d5a7da2f483",),
            # What a request of text alone is made of: its messages, and a configuration that depends on the rest.
            "dspy._vendor.lm15.providers.openai_chat:_ingest_openai_chat": ("666e7b327c8f",),
            "dspy._vendor.lm15.providers.openai_chat:_ingest_messages": ("57190592ec42",),
            "dspy._vendor.lm15.providers.openai_chat:_ingest_content_blocks": ("f9aa64af5c4a",),
            "dspy._vendor.lm15.providers.openai_chat:_ingest_config": ("8051ae54d940",),
        },
    ),
    Patch(
        name="encodable_texts",
        why="DSPy checks the texts of a request with a call for each message, name and value.",
        since="3.4.1",
        until="DSPy checks a request once it is encoded",
        without="requests are prepared slower",
        targets={"dspy.clients.execution:_check_encodable": of_messages},
        expects={
            "dspy.clients.execution:_check_encodable": ("76437e3e9610",),
            "dspy.clients.execution:prepare": ("fa73d0542e1c",),
        },
    ),
    Patch(
        name="value_checks",
        why="DSPy checks each field of a request and of an answer by calls of functions: a tenth of a prediction.",
        since="3.4.1",
        until="DSPy checks values of the usual form at once",
        without="requests and answers are made slower",
        targets={
            f"{_VALUES}:TextPart.__post_init__": value_checks.of_text,
            f"{_VALUES}:Message.__post_init__": value_checks.of_message,
            f"{_VALUES}:Request.__post_init__": value_checks.of_request,
            f"{_VALUES}:Usage.__post_init__": value_checks.of_usage,
            f"{_VALUES}:Response.__post_init__": value_checks.of_response,
        },
        expects={
            f"{_VALUES}:TextPart.__post_init__": ("08191f014fc9",),
            f"{_VALUES}:Message.__post_init__": ("44e2cbab960f",),
            f"{_VALUES}:Request.__post_init__": ("f7eb28f2a7e0",),
            f"{_VALUES}:Usage.__post_init__": ("a0c8efb91b1a",),
            f"{_VALUES}:Response.__post_init__": ("728445e047d1",),
            # What they call, which accepts all that passes at once.
            f"{_VALUES}:_ModelRequest.__post_init__": ("46647bd36809",),
            f"{_VALUES}:_normalize_continuation": ("f537c3dad6b2",),
            f"{_VALUES}:_validate_message_parts": ("b6d5596ba106",),
            f"{_VALUES}:_validate_input_data_parts": ("2328f8ba815b",),
            f"{_VALUES}:_normalize_system": ("ae540745f2ab",),
            f"{_VALUES}:_validate_non_negative": ("e3980db3335c",),
            f"{_VALUES}:_validate_logprobs_field": ("8553a8912941",),
            f"{_VALUES}:_validate_json_field": ("19bb323ca107",),
            f"{_VALUES}:_validate_adaptations": ("bbba6f6d9596",),
        },
    ),
    Patch(
        name="scopes",
        why="DSPy enters six scopes for a prediction, each by a generator, which takes three times as long as a class.",
        since="3.4.1",
        until="DSPy's scopes are classes",
        without="requests are made slower",
        targets={
            "dspy.clients.capabilities:planning_scope": lambda _: scopes.PlanningScope,
            "dspy.adapters.base:adapter_message_call": lambda _: scopes.AdapterMessageCall,
            "dspy.adapters.two_step_adapter:adapter_message_call": lambda _: scopes.AdapterMessageCall,
            "dspy.clients.call_context:adapter_fallback_scope": lambda _: scopes.AdapterFallbackScope,
            "dspy.adapters.chat_adapter:adapter_fallback_scope": lambda _: scopes.AdapterFallbackScope,
            "dspy.clients.capabilities:error_boundary": lambda _: scopes.ErrorBoundary,
            "dspy.clients.execution:error_boundary": lambda _: scopes.ErrorBoundary,
        },
        expects={
            "dspy.clients.capabilities:planning_scope": ("7079fd86405d",),
            "dspy.adapters.base:adapter_message_call": ("80205ce94ff1",),
            "dspy.adapters.two_step_adapter:adapter_message_call": ("80205ce94ff1",),
            "dspy.clients.call_context:adapter_fallback_scope": ("75340bdf34df",),
            "dspy.adapters.chat_adapter:adapter_fallback_scope": ("75340bdf34df",),
            "dspy.clients.capabilities:error_boundary": ("8e570fe16dde",),
            "dspy.clients.execution:error_boundary": ("8e570fe16dde",),
            "dspy.clients.errors:wrap_error": ("83f22fdebb72",),
        },
    ),
    Patch(
        name="settings_lookup",
        why="DSPy looks up a setting by three calls of functions, and the callbacks of a call so.",
        since="3.4.1",
        until="Settings.get looks a setting up itself",
        without="requests are made slower",
        targets={"dspy.dsp.utils.settings:Settings.get": lambda _: setting},
        expects={
            "dspy.dsp.utils.settings:Settings.get": ("5c2b4ccb2a0a",),
            "dspy.dsp.utils.settings:Settings.__getitem__": ("0316b9ab5a51",),
            "dspy.dsp.utils.settings:Settings.__getattr__": ("6a877e622402",),
        },
    ),
    Patch(
        name="single_completion",
        why="DSPy makes a prediction by twenty calls of functions, also of one completion.",
        since="3.4.1",
        until="DSPy makes the prediction of one completion at once",
        without="predictions are made slower",
        targets={"dspy.primitives.prediction:Prediction.from_completions": of_one},
        expects={
            "dspy.primitives.prediction:Prediction.from_completions": ("9f1b7e3b862e",),
            # What the objects hold once they are made.
            "dspy.primitives.prediction:Prediction.__init__": ("8f4519e4bd15",),
            "dspy.primitives.prediction:Completions.__init__": ("497185539a26",),
            "dspy.primitives.example:Example.__init__": ("ad510783e16b",),
        },
    ),
    Patch(
        name="text_answers",
        why="DSPy looks for each kind of content in an answer, and makes its usage by three comprehensions, twice.",
        since="3.4.1",
        until="DSPy reads an answer of one text at once",
        without="answers are read slower",
        targets={
            "dspy.clients.call_result:legacy_output": output_of,
            "dspy.clients.call_result:usage_dict": usage_of,
            "dspy.clients.execution:usage_dict": usage_of,
        },
        expects={
            "dspy.clients.call_result:legacy_output": ("d3d747ea761f",),
            "dspy.clients.call_result:usage_dict": ("632c61a589de",),
            "dspy.clients.execution:usage_dict": ("632c61a589de",),
        },
    ),
    Patch(
        name="predictor_attributes",
        why="DSPy reads each attribute of a predictor by a function in Python, 12 a call, to warn if one is forward.",
        since="3.4.0",
        until="Module has no __getattribute__ of its own",
        without="requests are made slower",
        targets={"dspy.predict.predict:Predict.__getattribute__": lambda _: object.__getattribute__},
        expects={"dspy.predict.predict:Predict.__getattribute__": ("383ee661fecc",)},
    ),
    Patch(
        name="two_step_reader",
        why="DSPy's adapter for two steps has the second answer read by its own ChatAdapter, with that one's mistakes.",
        since="3.4.0",
        until="the adapter of the second step can be given",
        without="the second model's answers are read as DSPy reads them",
        targets={"dspy.adapters.two_step_adapter:ChatAdapter": PROVIDED},
        expects={
            "dspy.adapters.two_step_adapter:ChatAdapter": ("class dspy.adapters.chat_adapter.ChatAdapter",),
            "dspy.adapters.two_step_adapter:TwoStepAdapter.acall": ("412d784979ab",),
        },
    ),
    Patch(
        name="response_cache",
        why="The keys of DSPy's cache leave out the API key and the address, so that two tenants would share answers.",
        since="3.4.0",
        until="DSPy's cache keys include the API key and the address",
        without="models with cache: true are refused",
        targets={"dspy:cache": PROVIDED},
        expects={
            # `dspy.cache` itself is not read: reading it would create a cache on the disk.
            "dspy:__getattr__": ("2c1c8e3d8a1d",),
            "dspy.clients:configure_cache": ("591dbc7b48d8",),
            "dspy.clients.cache:Cache.cache_key": ("eed58d3ff913",),
            "dspy.clients.cache:Cache.get": ("bd3ac6c0f60c",),
            "dspy.clients.cache:Cache.put": ("4fac2b3fa011",),
            "dspy.clients.execution:_cached": ("e7e7559905c7",),
            "dspy.clients.execution:_store": ("b211e8cb1f4d",),
        },
    ),
    Patch(
        name="native_engines",
        why="DSPy's client takes any reply of status 200 for an answer: streams that break off, pages and redirections "
        "end as unforeseen errors. It joins addresses and paths as text.",
        since="3.4.0",
        until="DSPy says of a reply that it broke off or is no answer, and reads addresses as URLs",
        without="such replies are internal errors, without fallback; addresses with a user or a query are refused",
        targets={
            "dspy.clients.execution:LM15Engine": PROVIDED,
            "dspy.clients.execution:AsyncLM15Engine": PROVIDED,
        },
        expects={
            "dspy.clients.execution:LM15Engine": ("class dspy.clients.engines.lm15_engine.LM15Engine",),
            "dspy.clients.execution:AsyncLM15Engine": ("class dspy.clients.engines.lm15_engine.AsyncLM15Engine",),
            "dspy.clients.execution:_select_engine": ("a76429e2e40a",),
            "dspy.clients.engines.lm15_engine:AsyncLM15Engine.complete": ("b1b7e969a2e5",),
            "dspy.clients.engines.lm15_engine:AsyncLM15Engine.stream": ("65704a5cb1ec",),
            "dspy.clients.engines.lm15_engine:LM15Engine.complete": ("0fdb53901e74",),
            "dspy.clients.engines.lm15_engine:LM15Engine.stream": ("ef57ef77fb85",),
            "dspy._vendor.lm15.providers.async_base:AsyncBaseProviderLM._send": ("4ae49ad8e7eb",),
            "dspy._vendor.lm15.providers.async_base:AsyncBaseProviderLM._stream_raw": ("4ac17b163edd",),
            "dspy._vendor.lm15.providers.base:BaseProviderLM._send": ("0efde298dbf3",),
            "dspy._vendor.lm15.providers.base:BaseProviderLM._stream_raw": ("5dd36e850fcf",),
            "dspy._vendor.lm15.transports._proxy:proxy_route_for": ("5b0b19c6058c",),
        },
    ),
    Patch(
        name="litellm_engines",
        why="LiteLLM reads replies of any size, and takes pages and streams that break off for empty answers.",
        since="3.4.0",
        until="DSPy or LiteLLM bounds replies, and says of one that it broke off or is no answer",
        without="replies that LiteLLM reads are not bounded; such replies are empty answers, or errors of other kinds",
        targets={
            "dspy.clients.execution:LiteLLMEngine": PROVIDED,
            "dspy.clients.execution:AsyncLiteLLMEngine": PROVIDED,
        },
        expects={
            "dspy.clients.execution:LiteLLMEngine": ("class dspy.clients.engines.litellm_engine.LiteLLMEngine",),
            "dspy.clients.execution:AsyncLiteLLMEngine": (
                "class dspy.clients.engines.litellm_engine.AsyncLiteLLMEngine",
            ),
            "dspy.clients.engines.litellm_engine:LiteLLMEngine.complete_legacy": ("8aaf30b0ff14",),
            "dspy.clients.engines.litellm_engine:AsyncLiteLLMEngine.complete_legacy": ("88c4646a6031",),
        },
    ),
    Patch(
        name="request_retries",
        why="DSPy waits for the repetition of a request although the call ends before: its caller learns of no cause.",
        since="3.4.0",
        until="DSPy's retries know of a deadline",
        without="a call whose model fails until its deadline ends as a timeout without the cause",
        targets={"dspy.clients.execution:_retryable": PROVIDED},
        expects={
            "dspy.clients.execution:_retryable": ("23de9fb70cf5",),
            "dspy.clients.execution:_delay": ("ee97c46842b7",),
            "dspy.clients.execution:aexecute": ("3001d4db7c91",),
            "dspy.clients.execution:execute": ("338ea448c256",),
        },
    ),
    Patch(
        name="sandbox_signature",
        why="Code in the sandbox can request a module; DSPy imports whatever the types in its signature name.",
        since="3.4.0",
        until="DSPy imports nothing to read the text of a signature",
        without="calls of modules that code in the sandbox builds are refused, and with them dspy.RLM and dspy.Flex",
        targets={
            "dspy.primitives.facade:_resolve_signature": PROVIDED,
        },
        expects={
            "dspy.primitives.facade:_resolve_signature": ("fdb3a601e083",),
            "dspy.primitives.facade:SIGNATURE_MARKER": ("'__dspy_sig__'",),
            "dspy.primitives.facade:CONSTRUCT_TOOL": ("'__dspy_construct__'",),
            "dspy.primitives.facade:FacadeInvocation._build_predictor": ("eced00a9243f",),
        },
    ),
    Patch(
        name="sandbox_inputs",
        why="DSPy puts text from code in the sandbox into prompts unchanged, with markers of content parts too.",
        since="3.4.0",
        until="DSPy separates content parts from text",
        without="calls of modules that code in the sandbox builds are refused, and with them dspy.RLM and dspy.Flex",
        targets={
            "dspy.primitives.facade:restore_custom_types": PROVIDED,
        },
        expects={
            "dspy.primitives.facade:restore_custom_types": ("9d589871546f",),
            "dspy.primitives.facade:FacadeInvocation.call": ("903e9932a327",),
        },
    ),
    Patch(
        name="earlier_turns",
        why="DSPy writes None, as if the model had, for each output that an earlier turn does not hold.",
        since="3.4.0",
        until="DSPy leaves out of an earlier turn what it does not hold",
        without="earlier turns have sections with None",
        targets={"dspy.adapters.base:Adapter.format_conversation_history": held_fields_only},
        expects={"dspy.adapters.base:Adapter.format_conversation_history": ("278bba4ef812",)},
    ),
    Patch(
        name="reply_limit",
        why="DSPy's client reads the reply of a model into memory, of whatever size it is.",
        since="3.4.0",
        until="DSPy's client has a limit of bytes",
        without="a model's reply of any size is read",
        targets={
            "dspy._vendor.lm15.transports._types:AsyncTransportResponse._iter": bounded_async,
            "dspy._vendor.lm15.transports._types:TransportResponse.__iter__": bounded_sync,
        },
        expects={
            "dspy._vendor.lm15.transports._types:AsyncTransportResponse._iter": ("972ed432b99e",),
            "dspy._vendor.lm15.transports._types:TransportResponse.__iter__": ("912ce03124f1",),
        },
    ),
    Patch(
        name="large_events",
        why="DSPy's client refuses an event of a stream beyond 64 KiB; OpenAI's last one has the whole answer.",
        since="3.4.0",
        until="DSPy's client takes events of any size",
        without="long answers in pieces end as errors of the transport, after they have come",
        targets={
            "dspy._vendor.lm15.providers.async_base:aparse_sse": large_events,
            "dspy._vendor.lm15.providers.base:parse_sse": large_events,
        },
        expects={
            "dspy._vendor.lm15.providers.async_base:aparse_sse": ("d7b2943d0cb7",),
            "dspy._vendor.lm15.providers.base:parse_sse": ("36d7c1fd24db",),
        },
    ),
    Patch(
        name="connections",
        why="DSPy's client takes an interim reply, or one that nobody asked for, for the reply to the next request.",
        since="3.4.0",
        until="DSPy's client reads on after HTTP 1xx, and uses no connection with unread bytes",
        without="after such a reply an answer may go to another request",
        targets={
            "dspy._vendor.lm15.transports._async:_AsyncConnection.is_stale": unread_is_stale,
            "dspy._vendor.lm15.transports._async:StdlibAsyncTransport._read_head": last_head_async,
            "dspy._vendor.lm15.transports._sync:StdlibTransport._read_head": last_head_sync,
        },
        expects={
            "dspy._vendor.lm15.transports._async:_AsyncConnection.is_stale": ("0386ffcbade6",),
            "dspy._vendor.lm15.transports._async:StdlibAsyncTransport._read_head": ("55f7238e0f46",),
            "dspy._vendor.lm15.transports._sync:StdlibTransport._read_head": ("66a4784d1fc0",),
        },
    ),
    Patch(
        name="call_arguments",
        why="DSPy's client makes an object of a call's arguments that are none, such as {'value': [1]}.",
        since="3.4.0",
        until="DSPy's client says that arguments are no JSON object",
        without="tools are called with arguments that the model has not written",
        targets={
            "dspy._vendor.lm15.providers.openai:parse_json_object": PROVIDED,
            "dspy._vendor.lm15.providers.openai_chat:parse_json_object": PROVIDED,
            "dspy._vendor.lm15.result:_parse_json_best_effort": PROVIDED,
        },
        expects={
            "dspy._vendor.lm15.providers.openai:parse_json_object": ("cda840cdd648",),
            "dspy._vendor.lm15.providers.openai_chat:parse_json_object": ("cda840cdd648",),
            "dspy._vendor.lm15.result:_parse_json_best_effort": ("a06c4114b855",),
        },
    ),
    Patch(
        name="optimizer_threads",
        why="The threads of DSPy's optimizers do not know for which call they work.",
        since="3.4.0",
        until="DSPy runs its threads in a copy of the context",
        without="optimizers are refused: what they ask of models would not be counted",
        targets={"dspy.utils.parallelizer:ParallelExecutor._wrap_function": carrying_context},
        expects={
            "dspy.utils.parallelizer:ParallelExecutor._wrap_function": ("f40e3a43b5d6",),
            "dspy.utils.parallelizer:ParallelExecutor.execute": ("4384fd76ed18",),
        },
    ),
    Patch(
        name="predictor_models",
        why="DSPy gives the predictors of a shared module no model for one call, but that of all predictors. It "
        "compares inputs that have been checked with the signature, field by field.",
        since="3.4.0",
        until="a context of DSPy can name a model for a predictor",
        without="programs with a model for a single predictor (lms) are refused",
        targets={"dspy.predict.predict:Predict._forward_preprocess": PROVIDED},
        expects={"dspy.predict.predict:Predict._forward_preprocess": ("bfdfa542d646",)},
    ),
    Patch(
        name="predictor_calls",
        why="DSPy copies all settings to turn off a stream for the call of a predictor, also where there is none.",
        since="3.4.1",
        until="DSPy makes this context only within a stream",
        without="requests are prepared slower",
        targets={"dspy.predict.predict:Predict.aforward": without_stream},
        expects={
            "dspy.predict.predict:Predict.aforward": ("461134ea509b",),
            "dspy.predict.predict:Predict._should_stream": ("56b46d01a966",),
        },
    ),
    Patch(
        name="module_spans",
        why="DSPy tells callbacks which module begins, with all its arguments by name: 50 us for each request. It "
        "copies all settings twice to add the module and a count of tokens.",
        since="3.4.0",
        until="DSPy tells of modules without reading their arguments",
        without="the spans of a call have no modules",
        targets={
            "dspy.primitives.module:Module.__call__": PROVIDED,
            "dspy.primitives.module:Module.acall": PROVIDED,
        },
        expects={
            "dspy.primitives.module:Module.__call__": ("99f098a2ae7d",),
            "dspy.primitives.module:Module.acall": ("86505519e0c9",),
            # What the replacement does in place of these.
            "dspy.dsp.utils.settings:Settings.context": ("3dfd551d6c89",),
            "dspy.utils.usage_tracker:track_usage": ("6a45cecc6716",),
        },
    ),
    Patch(
        name="program_source",
        why="DSPy shows the models of MIPROv2 the source of a program's class, which says nothing if it is data.",
        since="3.4.0",
        until="DSPy asks a program for its source",
        without="MIPROv2 proposes instructions without the program's code",
        targets={"dspy.propose.grounded_proposer:get_dspy_source_code": PROVIDED},
        expects={
            "dspy.propose.grounded_proposer:get_dspy_source_code": ("ed00555562e7",),
        },
    ),
    Patch(
        name="class_source",
        why="As for program_source, with the models of SIMBA.",
        since="3.4.0",
        until="DSPy asks a program for its source",
        without="SIMBA improves programs by demos alone",
        targets={"dspy.teleprompt.simba_utils:inspect": PROVIDED},
        expects={
            "dspy.teleprompt.simba_utils:inspect": ("module inspect",),
            "dspy.teleprompt.simba_utils:append_a_rule": ("461c38837e45",),
        },
    ),
)
