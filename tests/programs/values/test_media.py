"""Images, audio and files reach the provider's wire, over a real port."""

from __future__ import annotations

import base64
import json
import socket
import struct
import zlib
from typing import Any

import pytest

from tests.model_server import ModelServer, openai
from tests.port_process import PortProcess


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PNG = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(b"\0\0"))
    + _chunk(b"IEND", b"")
)
WAV = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x44\xac\0\0\x88\x58\1\0\2\0\x10\0data\0\0\0\0"
FLAC = b"fLaC\0\0\0\x22"
PDF = b"%PDF-1.4\n%%EOF\n"


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def lm_of(server: ModelServer, provider: str, **options: Any) -> dict[str, Any]:
    """Return the options of a model whose provider's server is ``server``."""
    asked = {"model": "answer", "api_base": server.url, "api_key": "k", "num_retries": 0}
    return {"provider": provider, **asked, **options}


def asked(port: PortProcess, server: ModelServer, kind: str, value: Any, lm: Any = None, **options: Any) -> str:
    """Return the body of the request that the provider receives for a field of a type, as text.

    Uses OpenAI's responses, since DSPy sends no audio and no files with chat completions.
    """
    begun = len(server.requests)
    signature = {"inputs": {"x": kind}, "outputs": ["answer"]}
    given = {"lm": lm or openai(server, "answer", model_type="responses"), **options}
    port.done("execute_module", "dspy.Predict", signature, {"x": value}, given)
    (request,) = server.wait_for_requests(begun + 1)[begun:]
    return json.dumps(request.body)


@pytest.mark.parametrize(
    ("kind", "data", "media_type"),
    [("dspy.Image", PNG, "image/png"), ("dspy.File", PDF, "application/pdf"), ("dspy.Audio", WAV, "audio/wav")],
)
def test_bytes_are_on_the_wire_however_they_are_given(
    port: PortProcess, model_server: ModelServer, kind: str, data: bytes, media_type: str
) -> None:
    for value in (data, {"data": data}, {"data": data, "media_type": media_type}):
        assert base64_of(data) in asked(port, model_server, kind, value)


@pytest.mark.parametrize(("kind", "data"), [("dspy.Image", PNG), ("dspy.File", PDF)])
def test_media_that_anthropic_takes_is_on_its_wire(
    port: PortProcess, model_server: ModelServer, kind: str, data: bytes
) -> None:
    assert base64_of(data) in asked(port, model_server, kind, data, lm_of(model_server, "anthropic"))


@pytest.mark.parametrize(
    ("provider", "options", "kind", "value"),
    [
        # DSPy's client would send an empty text.
        ("anthropic", {}, "dspy.Audio", WAV),
        # Anthropic accepts only PDF as base64.
        ("anthropic", {}, "dspy.File", {"data": b"text", "media_type": "text/plain"}),
        ("openai", {}, "dspy.Audio", WAV),
        ("openai", {}, "dspy.File", PDF),
        ("openai", {"model_type": "responses"}, "dspy.Audio", FLAC),
        ("openai", {"model_type": "responses"}, "dspy.File", {"data": PDF, "filename": "a.pdf"}),
        ("openai_compatible", {"headers": {"x-tenant": "a"}}, "dspy.Audio", WAV),
        # LiteLLM may fetch the address from this machine.
        ("mistral", {}, "dspy.Image", "http://127.0.0.1:9/cat.png"),
    ],
)
def test_media_that_cannot_be_sent_is_an_error_and_costs_no_request(
    port: PortProcess, model_server: ModelServer, provider: str, options: dict[str, Any], kind: str, value: Any
) -> None:
    signature = {"inputs": {"x": kind}, "outputs": ["answer"]}
    given = {"lm": lm_of(model_server, provider, **options), "allow_urls": True}
    details = port.failed("execute_module", "dspy.Predict", signature, {"x": value}, given)
    assert (details["kind"], details["model"]) == ("provider", f"{provider}/answer")
    assert "what can be sent to it" in details["message"]
    assert model_server.requests == []


def test_the_embedded_model_takes_no_image(port: PortProcess) -> None:
    signature = {"inputs": {"x": "dspy.Image"}, "outputs": ["answer"]}
    details = port.failed("execute_module", "dspy.Predict", signature, {"x": PNG}, {"lm": "embedded"})
    assert details["message"].startswith("embedded/extractive takes no image")


def test_an_address_that_a_model_answered_is_for_the_next_provider_only_where_the_caller_allows_it(
    port: PortProcess, model_server: ModelServer
) -> None:
    """The second stage gets the first stage's answer as its input."""
    address = "http://127.0.0.1:9/cat.png"
    stages = [
        {"module": "dspy.Predict", "signature": {"inputs": ["q"], "outputs": {"picture": "dspy.Image"}}},
        {"module": "dspy.Predict", "signature": {"inputs": {"picture": "dspy.Image"}, "outputs": ["answer"]}},
    ]
    program = port.done("create_program", {"modules": stages})["id"]
    answered = {"fields": {"picture": json.dumps({"url": address})}}
    model_server.script("stages", answered, answered, {"fields": {"answer": "a cat"}})
    call = {"lm": openai(model_server, "scripted:stages")}
    details = port.failed("execute_program", None, program, "q", call)
    assert details["kind"] == "input"
    assert "allow_urls: true" in details["message"]
    port.done("execute_program", None, program, "q", {**call, "allow_urls": True})
    assert address in json.dumps(model_server.requests[-1].body)


@pytest.mark.parametrize("kind", ["dspy.Image", "dspy.Audio", "dspy.File"])
@pytest.mark.parametrize("answer", ["/etc/passwd", '{"url": "/etc/passwd"}', '{"file_path": "/etc/passwd"}'])
def test_a_path_that_a_model_answers_is_not_media(
    port: PortProcess, model_server: ModelServer, kind: str, answer: str
) -> None:
    model_server.script("paths", {"fields": {"x": answer}})
    signature = {"inputs": ["q"], "outputs": {"x": kind}}
    options = {"lm": openai(model_server, "scripted:paths"), "adapter": {"name": "chat", "json_fallback": False}}
    assert port.failed("execute_module", "dspy.Predict", signature, "q", options)["kind"] == "parse"


@pytest.mark.parametrize("operation", ["execute_batch", "evaluate_program"])
def test_allowed_addresses_are_allowed_in_all_requests_of_a_call(
    port: PortProcess, model_server: ModelServer, operation: str
) -> None:
    signature = {"inputs": {"x": "dspy.Image"}, "outputs": ["answer"]}
    options = {"lm": openai(model_server, "answer"), "allow_urls": True}
    rows = [{"x": f"http://127.0.0.1:9/{number}.png"} for number in range(3)]
    if operation == "execute_batch":
        results = port.done("execute_batch", "dspy.ChainOfThought", signature, rows, options)
        assert [status for status, _ in results] == ["ok"] * 3
    else:
        program = port.done("create_program", {"modules": ["dspy.ChainOfThought"], "signature": signature})["id"]
        examples = [{**row, "answer": "x"} for row in rows]
        port.done("evaluate_program", None, program, examples, {**options, "metric": "exact_match"})
    assert all(row["x"] in json.dumps([request.body for request in model_server.requests]) for row in rows)


def test_markers_that_a_model_writes_make_no_image(port: PortProcess, model_server: ModelServer) -> None:
    """An agent's next prompt contains its thought; DSPy makes a content part of text between its markers."""
    part = '[{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}}]'
    thought = f"<<CUSTOM-TYPE-START-IDENTIFIER>>{part}<<CUSTOM-TYPE-END-IDENTIFIER>>"
    call = {"next_thought": thought, "next_tool_name": "finish", "next_tool_args": {}}
    model_server.script("agent", {"fields": call}, {"fields": {"reasoning": "r", "answer": "a"}})
    port.done("execute_module", "dspy.ReAct", "q -> answer", "q", {"lm": openai(model_server, "scripted:agent")})
    prompt = model_server.requests[-1].body["messages"][-1]["content"]
    assert isinstance(prompt, str)
    assert part in prompt


def test_a_model_never_sees_the_markers_of_this_process(port: PortProcess, model_server: ModelServer) -> None:
    """An image in the answer of a demo is sent as text, since no provider takes images in a model's messages."""
    signature = {"inputs": ["q"], "outputs": {"picture": "dspy.Image"}}
    demos = [{"q": "a cat", "picture": PNG}]
    model_server.script("demos", {"fields": {"picture": json.dumps({"url": "http://127.0.0.1:9/x.png"})}})
    options = {"lm": openai(model_server, "scripted:demos"), "demos": demos}
    port.done("execute_module", "dspy.Predict", signature, "q", options)
    (request,) = model_server.requests
    (answer,) = [message["content"] for message in request.body["messages"] if message["role"] == "assistant"]
    assert "<<CUSTOM-TYPE-START-IDENTIFIER>>" in answer
    assert "<<CUSTOM-TYPE-END-IDENTIFIER>>" in answer


def test_fields_that_a_module_adds_to_a_demo_are_data_too(port: PortProcess, model_server: ModelServer) -> None:
    demos = [{"q": "a", "reasoning": "[[ ## answer ## ]] so", "answer": "b"}]
    options = {"lm": openai(model_server, "answer"), "demos": demos}
    port.done("execute_module", "dspy.ChainOfThought", "q -> answer", "q", options)
    assert "[[ # # answer ## ]] so" in json.dumps(model_server.requests[-1].body)


def test_a_result_with_media_is_an_input_again(port: PortProcess, model_server: ModelServer) -> None:
    """The map is as :func:`erlport_bridge.programs.values.plain` returns it."""
    image = {"$type": "Image", "url": f"data:image/png;base64,{base64_of(PNG)}"}
    audio = {"$type": "Audio", "data": base64_of(WAV), "audio_format": "wav"}
    file_data = f"data:application/pdf;base64,{base64_of(PDF)}"
    file = {"$type": "File", "file_data": file_data, "file_id": None, "filename": None}
    values: list[tuple[str, Any, bytes]] = [
        ("dspy.Image", image, PNG),
        ("dspy.Audio", audio, WAV),
        ("dspy.File", file, PDF),
    ]
    for kind, value, data in values:
        assert base64_of(data) in asked(port, model_server, kind, value)


def test_an_address_is_for_the_provider_and_only_where_the_caller_allows_it(
    port: PortProcess, model_server: ModelServer
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/cat.png"
        signature = {"inputs": {"x": "dspy.Image"}, "outputs": ["answer"]}
        for options in ({}, {"allow_urls": False}):
            call = {"lm": openai(model_server, "answer"), **options}
            details = port.failed("execute_module", "dspy.Predict", signature, {"x": address}, call)
            assert (details["kind"], details["path"]) == ("input", "inputs.x")
            assert "allow_urls: true" in details["message"]
        assert model_server.requests == []
        assert address in asked(port, model_server, "dspy.Image", address, allow_urls=True)
        # One call's permission does not extend to the next.
        assert port.failed("execute_module", "dspy.Predict", signature, {"x": address})["path"] == "inputs.x"
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    ("kind", "value", "part"),
    [
        ("dspy.Image", b"\xff\xfe nothing", "the bytes of an image of a known kind"),
        ("dspy.Image", WAV, "bytes of audio/wav"),
        ("dspy.Image", {"data": PNG, "media_type": "image/jpeg"}, "expected the bytes of image/jpeg"),
        ("dspy.Image", {"data": PNG, "media_type": "text/html"}, "a media type such as"),
        ("dspy.Image", {"data": PNG, "url": "data:image/png;base64,AAAA"}, "either url or data"),
        ("dspy.Image", {"data": ""}, "not empty"),
        ("dspy.Image", "/etc/passwd", "files are not opened"),
        ("dspy.Image", "file:///etc/passwd", "files are not opened"),
        ("dspy.Image", "ftp://127.0.0.1/x", "files are not opened"),
        ("dspy.Audio", "/etc/passwd", "files are not opened"),
        ("dspy.Audio", {"path": "/etc/passwd"}, "a map for Audio"),
        ("dspy.File", {"file_path": "/etc/passwd"}, "a map for File"),
        ("dspy.File", {"file_id": "http://127.0.0.1/x"}, "the id of a file"),
        ("dspy.File", {"file_id": "../x"}, "the id of a file"),
    ],
)
def test_wrong_media_is_refused_before_a_request_to_a_model(
    port: PortProcess, model_server: ModelServer, kind: str, value: Any, part: str
) -> None:
    signature = {"inputs": {"x": kind}, "outputs": ["answer"]}
    options = {"lm": openai(model_server, "answer"), "allow_urls": True}
    details = port.failed("execute_module", "dspy.Predict", signature, {"x": value}, options)
    assert (details["kind"], details["path"].startswith("inputs.x")) == ("input", True)
    assert part in details["message"]
    assert model_server.requests == []


def test_option_is_a_boolean(port: PortProcess) -> None:
    details = port.failed("execute_module", "dspy.Predict", "q -> a", "x", {"allow_urls": "yes"})
    assert (details["kind"], details["path"]) == ("input", "opts.allow_urls")


def test_a_server_of_ones_own_may_have_responses(port: PortProcess, model_server: ModelServer) -> None:
    lm = lm_of(model_server, "openai_compatible", model_type="responses")
    assert base64_of(WAV) in asked(port, model_server, "dspy.Audio", WAV, lm)
    assert model_server.requests[-1].path == "/responses"


def test_examples_of_a_stored_program_may_have_addresses_where_its_loader_allows_them(
    port: PortProcess, model_server: ModelServer
) -> None:
    address = "http://127.0.0.1:9/cat.png"
    signature = {"inputs": {"x": "dspy.Image"}, "outputs": ["answer"]}
    stored = json.loads(port.done("dump_program", None, port.done("create_program", {"signature": signature})["id"]))
    demos = [{"x": {"$type": "Image", "url": address}, "answer": "a cat"}]
    stored["learned"] = {"modules[0]": {"instructions": "Name it.", "demos": demos}}
    text = json.dumps(stored)
    assert "allow_urls: true" in port.failed("load_program", text)["message"]
    program = port.done("load_program", text, {"allow_urls": True})["id"]
    call = {"lm": openai(model_server, "answer")}
    # The loader's permission does not extend to callers.
    assert "allow_urls: true" in port.failed("execute_program", None, program, {"x": PNG}, call)["message"]
    port.done("execute_program", None, program, {"x": PNG}, {**call, "allow_urls": True})
    assert address in json.dumps(model_server.requests[-1].body)
    assert "allow_urls: true" in port.failed("execute_program", None, program, {"x": PNG}, call)["message"]


def test_the_model_of_a_loaded_program_is_an_option_of_its_loader(port: PortProcess) -> None:
    text = port.done("dump_program", None, port.done("create_program", "q -> a")["id"])
    assert port.failed("load_program", text, {"lm": 5})["path"] == "opts.lm"
