"""Test that every exception becomes a details map."""

from __future__ import annotations

import asyncio
import csv
from pathlib import Path

import dspy
import pytest

from erlport_bridge.errors import KINDS, DecodeError, EncodeError, OperationError, details, kind_of
from erlport_bridge.redaction import remember_secret
from erlport_bridge.term import encode

CONFORMANCE = Path(__file__).parent.parent / "conformance" / "errors.tsv"


class SilentError(Exception):
    """An exception whose ``__str__`` raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_kinds_are_those_that_both_languages_agreed_on() -> None:
    with CONFORMANCE.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if not row[0].startswith("#")]
    assert {kind: (type_name, retryable == "true") for kind, type_name, retryable in rows} == dict(KINDS)


def test_operation_error_keeps_its_facts() -> None:
    found = details(OperationError("timeout", "no answer", stage="model", path=None), request_id="r-1")
    assert found == {
        "type": "TimeoutError",
        "kind": "timeout",
        "message": "no answer",
        "path": None,
        "traceback": [],
        "retryable": True,
        "stage": "model",
        "request_id": "r-1",
    }


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (dspy.LMAuthError("no"), "auth"),
        (dspy.LMBillingError("no"), "billing"),
        (dspy.LMRateLimitError("no"), "rate_limit"),
        (dspy.LMTimeoutError("no"), "timeout"),
        (dspy.LMTransportError("no"), "transport"),
        (dspy.LMServerError("no"), "server"),
        (dspy.LMInvalidRequestError("no"), "provider"),
        (dspy.LMUnsupportedModelError("no"), "unsupported_model"),
        (dspy.LMNotConfiguredError("no"), "lm_not_configured"),
        (dspy.ContextWindowExceededError(message="no"), "context_window"),
        (dspy.CodeInterpreterError("no"), "sandbox"),
        (EncodeError("no", '["a"]'), "encode"),
        (DecodeError("no", 5), "input"),
        (TimeoutError(), "timeout"),
        (asyncio.TimeoutError(), "timeout"),
        (ImportError("no"), "missing_dependency"),
        (ZeroDivisionError("no"), "internal"),
    ],
)
def test_every_exception_has_a_kind(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind
    found = details(error)
    assert found["kind"] == kind
    assert found["retryable"] is KINDS[kind][1]
    encode(found)


def test_facts_of_dspys_errors_are_kept() -> None:
    error = dspy.LMRateLimitError("slow down", model="openai/x", provider="openai", status=429, retry_after=7.0)
    found = details(error)
    assert (found["model"], found["provider"], found["status"], found["retry_after"]) == (
        "openai/x",
        "openai",
        429,
        7.0,
    )


def test_value_error_of_other_code_does_not_mean_invalid_input() -> None:
    assert details(ValueError("x"))["type"] == "builtins.ValueError"
    assert details(DecodeError("x", 1))["type"] == "ValueError"


def test_exception_without_text_is_still_an_answer() -> None:
    try:
        raise SilentError
    except SilentError as error:
        found = details(error)
    assert "SilentError" in found["message"]
    assert found["traceback"]


def test_details_can_always_be_encoded() -> None:
    encode(details(RuntimeError("half a character: \ud800")))


def test_details_hold_no_api_key() -> None:
    key = "sk-very-secret-0123456789"
    remember_secret(key)
    try:
        raise RuntimeError(f"the header was Bearer {key}")
    except RuntimeError as error:
        found = details(error)
    assert key not in repr(found)
    assert "[redacted]" in found["message"]


def test_key_across_the_cut_of_a_long_message_leaves_no_half() -> None:
    key = "sk-across-the-cut-0123456789"
    remember_secret(key)
    assert "sk-across" not in details(RuntimeError("m" * 1_990 + key))["message"]


def test_facts_of_dspy_are_redacted() -> None:
    remember_secret("sk-in-a-fact-0123456789")
    found = details(dspy.LMAuthError("no", model="sk-in-a-fact-0123456789", status=401))
    assert (found["model"], found["status"]) == ("[redacted]", 401)


def test_attributes_of_an_applications_exception_are_not_read() -> None:
    """An attribute that was a property and raised once left the caller without an answer."""

    class TreacherousError(Exception):
        @property
        def status(self) -> int:
            raise RuntimeError("no")

    assert details(TreacherousError("x"))["kind"] == "internal"


def test_text_that_ends_the_process_is_still_an_answer() -> None:
    class LeavingError(Exception):
        def __str__(self) -> str:
            raise SystemExit(4)

    assert details(LeavingError())["message"] == "LeavingError, whose message could not be made: SystemExit"


def test_class_of_no_module_has_a_kind() -> None:
    assert kind_of(type("Odd", (Exception,), {"__module__": None})()) == "internal"


def test_cancelled_call_says_so() -> None:
    """Its message was the name of Python's exception."""
    found = details(asyncio.CancelledError())
    assert (found["kind"], found["message"]) == ("cancelled", "the call was cancelled")
