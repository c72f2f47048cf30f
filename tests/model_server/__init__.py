"""Serve a language model on loopback for the tests, with the APIs of OpenAI (two), Anthropic and Gemini.

In a Python test, where the fixture ``model_server`` is a running server::

    with ModelServer() as server:
        lm = dspy.LM("openai/answer", api_base=f"{server.url}/v1", api_key="key", cache=False)

As a process (``python tests/model_server``), for tests in another language: the first line on stdout is the URL, and
the process ends when its stdin is closed. A line on stdin adds scripted replies, ``{"name": "x", "replies": [...]}``,
and is answered by the line ``ok``. ``GET /requests`` returns the received requests as JSON.

The name of the model chooses the answer to a request (``openai/delay-500`` sends ``delay-500``):

==========================  ===========================================================================================
``delay-<ms>``              the answer after a delay
``status-<code>``           this HTTP error; 429 and 503 with ``retry-after: 1``, ``status-429-7`` with 7
``error-<code>``            the provider's error of this code: ``context_length_exceeded``, ``model_not_found``,
                            ``insufficient_quota``, ``invalid_api_key``
``garbage``                 an answer without any field
``malformed``               a body that is not JSON
``closed``                  the connection is closed before the answer
``cut``                     the connection is closed in the middle of the answer
``broken-<how>``            status 200 with what is no answer, or ends too early; see :mod:`.breakage`
``inband-<code>``           status 200 with an error of this code as the answer; ``inband-502-late``: after pieces
``redirect-<code>``         a redirection to another host
``slow-<ms>``               an answer in pieces, with this pause before each piece
``long-<count>``            an answer of this number of words
``echo``                    the first input's value for each text field
``scripted:<name>``         the next reply of this script; HTTP 500 if none is left
a script's own name         the same, for a model with a price (``gpt-4o-mini``)
anything else               ``answer to <first input>`` for each text field, and a fixed value for each other type
==========================  ===========================================================================================

A reply of a script is a map, and every key is optional: ``fields`` (name -> value, written in the format that the
prompt asks for), ``content`` (the text as it is), ``calls`` (tool calls in place of text, each with ``name`` and
``args``, or with ``arguments`` as text), ``delay_ms``, ``status`` and ``code`` (an error instead of an answer),
``finish_reason``, ``refusal`` and ``reasoning_tokens`` (of chat completions). ``when`` is a text that the prompt must
have: the reply is for the first such request. A script is also added by ``POST /script``.

A request with ``stream`` gets the same answer in pieces, as server-sent events. Keys of a reply for streams: ``pieces``
(the text in given pieces; by default a piece is a few characters) and ``pause_ms`` before each piece.
"""

from __future__ import annotations

from tests.model_server.server import CERTIFICATE, ModelServer, ReceivedRequest, openai

__all__ = ["CERTIFICATE", "ModelServer", "ReceivedRequest", "openai"]
