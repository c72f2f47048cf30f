"""Images, audio and files: from the bytes to the wire of the provider, over a real port."""

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
PDF = b"%PDF-1.4\n%%EOF\n"


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def asked(port: PortProcess, server: ModelServer, kind: str, value: Any, lm: Any = None, **options: Any) -> str:
    """Give what the provider is sent for a field of a type, as text.

    By OpenAI's responses: DSPy writes no audio and no files for its chat completions.
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


def test_an_image_is_on_the_wire_of_anthropic(port: PortProcess, model_server: ModelServer) -> None:
    lm = {"provider": "anthropic", "model": "answer", "api_base": model_server.url, "api_key": "k", "num_retries": 0}
    sent = asked(port, model_server, "dspy.Image", PNG, lm)
    assert '"media_type": "image/png"' in sent
    assert base64_of(PNG) in sent


def test_a_result_with_media_is_an_input_again(port: PortProcess, model_server: ModelServer) -> None:
    """As :func:`erlport_bridge.programs.values.plain` writes them."""
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
        # What one call allows is not allowed to the next.
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
def test_what_is_no_media_is_refused_before_a_model_is_asked(
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
