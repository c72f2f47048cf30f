"""What is read at once of an answer of one text equals what DSPy reads, and so does what is read of any other."""

from __future__ import annotations

from dspy import lm15
from dspy.clients import call_result
from hypothesis import given
from hypothesis import strategies as st

from erlport_bridge.dspy_patches.installing import seam

ORIGINALS = seam.originals["text_answers"]
PARTS = st.sampled_from(
    [
        lm15.TextPart("x"),
        lm15.TextPart(""),
        lm15.ThinkingPart("hm"),
        lm15.DataPart({"a": 1}),
        lm15.RefusalPart("no"),
        lm15.CitationPart(text="c", title="t", url="u"),
        lm15.ToolCallPart(id="1", name="f", input={"a": 1}),
    ]
)
COUNTS = st.none() | st.integers(0, 2**40)
USAGES = st.builds(
    lm15.Usage,
    **dict.fromkeys(
        [
            *("input_tokens", "output_tokens", "total_tokens", "cache_read_tokens", "cache_write_tokens"),
            *("reasoning_tokens", "input_audio_tokens", "output_audio_tokens"),
        ],
        COUNTS,
    ),
) | st.builds(lm15.Usage, input_tokens=COUNTS, output_tokens=COUNTS, total_tokens=COUNTS)
RESPONSES = st.builds(
    lambda parts, usage: lm15.Response(None, "m", lm15.Message("assistant", tuple(parts)), "stop", usage),
    st.lists(PARTS, min_size=1, max_size=2),
    USAGES,
)
PROVIDERS = st.sampled_from(
    [None, "", "openai", "anthropic", "my-anthropic", "gemini", "vertex", "vertex-express", "xai", "vertexy"]
)


@given(RESPONSES, st.booleans())
def test_the_output_of_an_answer_is_that_of_dspy(response: lm15.Response, logprobs: bool) -> None:
    expected = ORIGINALS["dspy.clients.call_result:legacy_output"](response, logprobs=logprobs)
    assert call_result.legacy_output(response, logprobs=logprobs) == expected


@given(RESPONSES, PROVIDERS)
def test_the_usage_of_an_answer_is_that_of_dspy(response: lm15.Response, provider: str | None) -> None:
    expected = ORIGINALS["dspy.clients.call_result:usage_dict"](response, provider)
    found = call_result.usage_dict(response, provider)
    assert (found, list(found)) == (expected, list(expected))
