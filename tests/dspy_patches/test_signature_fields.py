"""The fields of a signature are those that DSPy lists."""

from __future__ import annotations

import dspy


def test_fields_of_a_signature_are_new_each_time() -> None:
    signature = dspy.Signature("question -> answer")
    signature.input_fields.clear()
    assert list(signature.input_fields) == ["question"]
    assert list(signature.output_fields) == ["answer"]
    assert list(dspy.Signature("a, b -> c, d").output_fields) == ["c", "d"]
