"""The intended differences between a call through the port and plain DSPy; everything else must be equal."""

from __future__ import annotations

import re
from typing import Any, Final

#: Each difference with its reason.
INTENDED: Final = {
    "reward code": "dspy.Refine shows the model the source of a Python function; a reward here is a check or a "
    "function of Elixir, described in words, so that prompts are of another length",
    "markers": "DSPy turns its content markers in text that came as data into parts of the prompt, such as an image "
    "to be fetched; here they stay text",
    "completions": "dspy.MultiChainComparison takes the attempts as an argument, here they are the input completions; "
    "without them the attempts are made first",
    "failed attempts": "dspy.BestOfN and dspy.Refine print an error and give None if all attempts fail, here the call "
    "has the error",
    "wrong inputs": "DSPy logs inputs that are missing, unknown or of the wrong type and asks the model, here the call "
    "has an error and costs nothing",
    "values of answers": "DSPy changes values silently (1999 is a date, null the text None, true the number 1) and "
    "makes lists of text with brackets; here a value that does not fit is an error, and text stays text where it may",
    "json repair": "DSPy repairs JSON that ends early, or that stands in prose with mistakes; here that is an error, "
    "since a part of the answer may be lost",
    "where answers stand": "DSPy takes any [[ ## name ## ]] at the start of a line for a field and no other, needs "
    "well-formed XML, and turns U+2028 into a line break; here the signature's fields are found where models set them",
    "data as structure": "DSPy writes headers and tags in inputs, observations and turns into prompts as they are; "
    "here they are broken, or escaped",
    "second requests": "DSPy asks again as JSON after a refusal, a content filter or a limit of tokens, and where the "
    "answer to a chat prompt is JSON already; here the former is an error, the latter is read",
    "wrong steps": "dspy.ReAct fails at an unknown tool or an unreadable step, and dspy.ReActV2 demands its outputs; "
    "here both go on with an observation, which is a sentence and no traceback",
    "schemas": "DSPy sorts the fields of objects in the schemas of prompts, here they keep their order; an object has "
    "the name of its field",
    "tools in the sandbox": "dspy.CodeAct copies the source of its tools into the sandbox, here the code calls them on "
    "this side; prompts and results are the same",
    "earlier turns": "DSPy writes None for each output that a turn of a history does not hold, here it has no section, "
    "and a step of an agent sees the answer of the whole agent",
    "histories": "DSPy drops what is named like no field, such as role and content; here messages are turns where "
    "their meaning is clear, and other names are errors",
    "equal values": "DSPy's answer_exact_match compares text, here values are compared by their types",
    "scores of compilations": "GEPA and MIPROv2 tell scores of minibatches too, here a score is that of all examples",
    "sets": "DSPy writes the elements of a set in the order of its process, here they are sorted",
    "references in schemas": "DSPy resolves $ref without end where a definition contains itself, here it is cut there",
}

_REWARD_CODE: Final = re.compile(r"(\[\[ ## reward_code ## \]\]\n).*?(\n\n\[\[ ## target_threshold ## \]\])", re.DOTALL)


def without_reward_code(body: dict[str, Any]) -> dict[str, Any]:
    """Return a request without its description of the reward."""
    messages = [
        {**message, "content": _REWARD_CODE.sub(r"\1-\2", message["content"])}
        if isinstance(message["content"], str)
        else message
        for message in body["messages"]
    ]
    return {**body, "messages": messages}
