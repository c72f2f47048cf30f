"""Signatures with and without decisions get the adapter that DSPy would choose each time."""

from __future__ import annotations

import gc
import weakref
from typing import Annotated, Any, Literal

import dspy
import pytest
from dspy.adapters.decision import DecisionAdapter
from dspy.adapters.types.decision import Choice, Noul
from dspy.predict import predict

from erlport_bridge.dspy_patches.installing import seam

chosen_anew = seam.originals["decision_outputs"]["dspy.predict.predict:resolve_adapter"]
ADAPTER = dspy.ChatAdapter()


class DecidingModel:
    """A client that answers decisions itself."""

    supports_decision_requests = True


def signature_of(annotation: Any) -> Any:
    return dspy.Signature(
        {"question": (str, dspy.InputField()), "answer": (annotation, dspy.OutputField(desc="is it"))}
    )


def outcome(choose: Any, *arguments: Any) -> tuple[Any, ...]:
    try:
        adapter = choose(*arguments)
    except Exception as error:  # noqa: BLE001 - both must raise the same
        return type(error), str(error)
    return type(adapter), getattr(adapter, "state", None) and adapter.state.types


@pytest.mark.filterwarnings("ignore:Decision evidence decoding")
@pytest.mark.parametrize("lm", [None, DecidingModel()], ids=["model", "deciding model"])
@pytest.mark.parametrize("fields", [{}, {"answer": {"threshold": 0.7}}], ids=["plain", "configured"])
@pytest.mark.parametrize(
    "annotation",
    [str, bool, Literal["a", "b"], Noul, list[Noul], Noul | None, Annotated[bool, Noul], Choice[("a", ""), ("b", "")]],
    ids=str,
)
def test_the_adapter_is_that_of_dspy(annotation: Any, fields: Any, lm: Any) -> None:
    signature = signature_of(annotation)
    expected = outcome(chosen_anew, lm, ADAPTER, signature, fields, signature)
    for _ in range(2):
        assert outcome(predict.resolve_adapter, lm, ADAPTER, signature, fields, signature) == expected


def test_nested_decisions_are_warned_of_each_time() -> None:
    for _ in range(2):
        with pytest.warns(UserWarning, match="nested output 'answer'"):
            predict.resolve_adapter(None, ADAPTER, signature_of(list[Noul]), {})


def test_a_type_that_is_changed_in_place_is_looked_at_again() -> None:
    signature = signature_of(str)
    assert predict.resolve_adapter(None, ADAPTER, signature, {}) is ADAPTER
    signature.output_fields["answer"].annotation = Noul
    assert isinstance(predict.resolve_adapter(None, ADAPTER, signature, {}), DecisionAdapter)


def test_what_is_kept_is_freed_with_its_signature() -> None:
    signature = signature_of(int)
    predict.resolve_adapter(None, ADAPTER, signature, {})
    gone = weakref.ref(signature)
    del signature
    gc.collect()
    assert gone() is None
