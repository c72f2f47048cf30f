"""Judge one HTTP request to a provider and its reply: what is an answer, what broke off, and what no answer is.

DSPy's client takes whatever a server sends with status 200 for an answer, and fails somewhere inside of it. The kinds
of errors that callers get, and whether a fallback model is asked, are decided here: a reply that ends early is an error
of the transport, and may come whole the next time; a reply that is no answer is an error of the provider; an error
within a reply is the error that the provider would have sent with that status.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urljoin

from dspy import lm15
from dspy._vendor.lm15.transports import ConnectError, TransportRequest
from dspy._vendor.lm15.transports import TransportError as NetworkError

from erlport_bridge.programs.models import reply_forms
from erlport_bridge.programs.models.addresses import Address, proxy_for, public_address
from erlport_bridge.programs.models.call_arguments import with_given_arguments

#: What reading an unforeseen reply raises.
_UNREADABLE: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
_INTERIM: Final = range(100, 200)
_REDIRECTIONS: Final = range(300, 400)
#: The statuses of an answer.
SUCCESS: Final = range(200, 300)
#: The statuses of errors.
ERRORS: Final = range(400, 600)
_PROXY_WANTS_USER: Final = 407
# Statuses with which a proxy says that it does not or cannot pass a request on.
_OF_PROXIES: Final = frozenset({403, 407, 502, 503, 504})
# The status that an error within a reply would have had, by the names that providers write in its `type` or `code`.
_STATUS_OF_NAME: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "server_error": 500,
    "timeout": 504,
    "timeout_error": 504,
    "overloaded_error": 529,
    # Google's.
    "invalid_argument": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "resource_exhausted": 429,
    "internal": 500,
    "unavailable": 503,
    "deadline_exceeded": 504,
}
# Where an error has its status, and where its text.
_STATUS_KEYS: Final = ("code", "status", "status_code", "statusCode", "type")
_MESSAGE_KEYS: Final = ("message", "detail", "errors", "error_msg", "error_message", "base_resp")
_UNNAMED: Final = 500
_MAX_QUOTED: Final = 200
# The fields of which an answer has at least one, in any provider's API.
_FIELDS: Final = frozenset({"choices", "output", "content", "candidates", "usage", "usageMetadata"})
#: How a line of server-sent events begins.
EVENT_FIELD: Final = re.compile(rb"(?:data|event|id|retry)?:|(?:data|event|id|retry)\r?\n")
_DATA: Final = b"data:"
# The last events of a stream that say nothing else.
_DONE: Final = b"[DONE]"
_LAST_EVENT: Final = re.compile(rb'"type"\s*:\s*"(?:message_stop|response\.(?:completed|incomplete|failed))"')
# What ends the answer in chat completions, and what goes on.
_REASON: Final = re.compile(rb'"finish_reason"\s*:\s*"[^"]')
_CONTENT: Final = re.compile(rb'"content"\s*:\s*(?:"[^"]|\[\s*\{)')
_EVENT: Final = b"event:"
# What names an error beside the fields of an answer, and what the pieces of an answer have.
_ERROR_NAMES: Final = (b'"error"', b'"base_resp"')
_PIECES: Final = (b'"choices"', b'"candidates"', b'"delta"')
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_HIGH_SURROGATES: Final = range(0xD800, 0xDC00)
_CERTIFICATE_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")


class SetupError(lm15.TransportError):  # type: ignore[misc]
    """The environment keeps all requests from the server: a proxy that cannot be used, a certificate not trusted.

    Attributes:
        is_lasting: Says that a retry would fail in the same way.
    """

    is_lasting = True


class WholeReplyError(Exception):
    """A reply to a request for a stream that is not a stream.

    Attributes:
        body: The whole reply.
    """

    def __init__(self, body: bytes) -> None:
        super().__init__("the reply is not a stream of events")
        self.body = body


class Exchange:
    """One request and its reply.

    Args:
        address: The address of the server; ``None`` for a provider's public one.
        normalize: Returns the provider's error for a status and the body of an error.
    """

    def __init__(self, address: Address | None, normalize: Callable[[int, str], lm15.ProviderError]) -> None:
        self._address = address
        self._normalize = normalize
        self._url = ""
        self._status: int | None = None
        self._content_type = "no content-type"
        self._is_stream = False
        self._has_ended = False
        self._is_over = False
        self._has_begun = False
        self._has_reason = False
        self._goes_on = False
        self._said = ""
        self._event_name = b""
        self._error_body = b""
        # The first half of a character whose second one comes with the next piece, by its part.
        self._halves: dict[int, str] = {}

    def begin(self, request: TransportRequest) -> TransportRequest:
        """Return the request as it is sent, with the query and the user of the address."""
        self._url = request.url
        if self._address is None:
            return request
        headers = request.headers
        if self._address.credentials is not None:
            others = [header for header in headers if header[0].lower() != "authorization"]
            headers = [*others, ("Authorization", self._address.credentials)]
        query = self._address.query
        joined = f"{request.url}{'&' if '?' in request.url else '?'}{query}" if query else request.url
        return replace(request, url=joined, headers=headers)

    def received(self, response: Any) -> None:
        """Record the head of the reply.

        Raises:
            lm15.LM15Error: The server redirects, or the proxy wants a user.
        """
        self._status = response.status
        self._content_type = response.header("content-type") or self._content_type
        if self._status in _REDIRECTIONS:
            to = self._target_of(response.header("location"))
            raise lm15.ProviderError(
                f"{public_address(self._url)} redirects to {to} (HTTP {self._status}), and redirections are not "
                "followed; give the address that is meant as api_base",
                status=self._status,
            )
        if self._status in _INTERIM:
            raise lm15.TransportError(f"{self._reply()} leaves HTTP, and is not an answer")
        if self._status == _PROXY_WANTS_USER:
            raise SetupError(f"HTTP 407: the proxy wants a user{self._through_proxy()}", status=self._status)

    def body(self, body: bytes) -> bytes:
        """Return the body of a whole reply.

        Raises:
            lm15.LM15Error: The body has ended early, or is an error.
        """
        if self._status not in SUCCESS:
            self._error_body = body
            return body
        text = body.strip()
        if not text or (text.startswith(b"{") and not text.endswith(b"}")):
            raise lm15.TransportError(f"{self._reply(len(body))} {'has ended in the middle' if text else 'is empty'}")
        self._raise_error_in(text)
        return reply_forms.usual(body, is_event=False)

    def lines(self) -> _Lines:
        """Return what takes the lines of a stream in their order."""
        self._is_stream = True
        return _Lines(self)

    def event(self, event: Any) -> Any:
        """Record an event of the client's, and return it with whole characters."""
        # Some servers write the usage until now into each event, which the client takes for the last one.
        if event.type == "end" and event.finish_reason is not None:
            self._has_ended = True
        self._has_begun = self._has_begun or event.type == "delta"
        if event.type == "delta" and isinstance(event.delta, lm15.TextDelta):
            return self._whole_characters(event)
        return event

    def _whole_characters(self, event: Any) -> Any:
        """Join the halves of characters between which a server that counts in UTF-16 cuts."""
        delta = event.delta
        text = self._halves.pop(delta.part_index, "") + delta.text
        if text and ord(text[-1]) in _HIGH_SURROGATES:
            self._halves[delta.part_index], text = text[-1], text[:-1]
        if text == delta.text:
            return event
        joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return replace(event, delta=replace(delta, text=joined))

    def end(self) -> None:
        """Record the end of a stream.

        Raises:
            lm15.LM15Error: It ended before the answer did, or was none.
        """
        if not self._has_ended and not self._has_begun and self._said:
            raise self._says(self._said)
        if not self._has_ended:
            raise lm15.TransportError(f"{self._reply()} ended before the answer was complete")

    def answered(self, response: Any) -> Any:
        """Return the client's response to a whole reply.

        Raises:
            lm15.ProviderError: The reply was not an answer.
        """
        data = response.provider_data
        if isinstance(data, Mapping) and not any(data.get(name) for name in _FIELDS):
            raise self.no_answer(data)
        return with_given_arguments(response)

    def no_answer(self, data: Any) -> lm15.ProviderError:
        """Return the error of a decoded reply that is no answer."""
        names = ", ".join(sorted(map(str, data))) if isinstance(data, Mapping) else ""
        fields = names[:_MAX_QUOTED] or "none"
        return lm15.ProviderError(f"{self._reply()} is not an answer; its fields: {fields}", status=self._status)

    @contextlib.contextmanager
    def connecting(self) -> Iterator[None]:
        """Word the errors of the way to the server."""
        try:
            yield
        except (NetworkError, OSError, ValueError) as error:
            raise self.unreachable(error) from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Word the errors of a reply that cannot be read."""
        try:
            yield
        except lm15.ProviderError as error:
            self._describe(error)
            if error.status in _OF_PROXIES or error.status in SUCCESS:
                # Before the advice that the client adds on lines of its own.
                first, end, rest = error.message.partition("\n")
                error.message = f"{first}{self._through_proxy()}{end}{rest}"
            raise
        except _UNREADABLE as error:
            if self._status is None or isinstance(error, lm15.LM15Error):
                raise
            reason = f": {str(error)[:_MAX_QUOTED]}" if isinstance(error, ValueError | TypeError) else ""
            text = f"{self._reply()} cannot be read as an answer{reason}"
            if self._is_stream:
                raise lm15.TransportError(text) from error
            raise lm15.ProviderError(text, status=self._status) from error

    def _describe(self, error: lm15.ProviderError) -> None:
        """Say what the server answered, if the client found no message in it."""
        first, end, rest = (error.message or "").partition("\n")
        if first.strip() in ("", "None", "{}", "[]"):
            body = self._error_body.decode(errors="replace").strip()[:_MAX_QUOTED]
            error.message = f"HTTP {error.status}{f': {body}' if body else ', without a message'}{end}{rest}"

    def unreachable(self, error: Exception) -> lm15.LM15Error:
        """Return the error of a server that cannot be reached."""
        proxy = proxy_for(self._url)
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return SetupError(f"{error}; {_trusted()}{self._through_proxy()}")
        if isinstance(cause, ssl.SSLError):
            return SetupError(
                f"{error}; {public_address(self._url)} may not speak TLS: its address may begin with http://"
                f"{self._through_proxy()}"
            )
        if isinstance(error, NetworkError):
            return lm15.TransportError(f"{error}{self._through_proxy() or self._way_to(error)}")
        if proxy is not None:
            # The text of the error may show the password of the proxy.
            return SetupError(
                f"{proxy.variable} names a proxy that cannot be used: {proxy.url}; expected http://host:port"
                f"{_around(self._url)}"
            )
        return SetupError(f"{public_address(self._url)} cannot be asked: {error}; {_trusted()}")

    def line(self, line: bytes) -> None:
        """Record a line of a stream; raise the error that stands in it."""
        if line.startswith(_EVENT):
            self._event_name = line[len(_EVENT) :].strip()
        elif not line.strip():
            self._event_name = b""
        if not line.startswith(_DATA):
            return
        data = line[len(_DATA) :].strip()
        if reply_forms.CHOICES in data:
            # Some servers write a reason in each event, and one for each of several completions.
            self._goes_on = self._goes_on or (self._has_reason and _CONTENT.search(data) is not None)
            self._has_reason = self._has_reason or _REASON.search(data) is not None
        if self._event_name == b"error":
            self._raise_error_event(data)
        if any(name in data for name in _ERROR_NAMES) or not any(name in data for name in _PIECES):
            self._raise_error_in(data)
        if data.startswith(_DONE) or _LAST_EVENT.search(data):
            self._has_ended = True
            self._is_over = True

    @property
    def is_over(self) -> bool:
        """Whether the last event of the stream has come: nothing after it belongs to the answer."""
        return self._is_over

    @property
    def has_answer(self) -> bool:
        """Whether a stream of chat completions lacks its last event alone, and before that maybe the usage."""
        return self._has_reason and not self._goes_on

    def _raise_error_event(self, text: bytes) -> None:
        """Raise the error that an event of this name is, whatever stands in it."""
        data = _decoded(text)
        error = _error_in(data) or (data if isinstance(data, Mapping) else None) or text.decode(errors="replace")
        raise self._error(error, data if isinstance(data, Mapping) else {})

    def _raise_error_in(self, text: bytes) -> None:
        """Raise the error that a reply, or an event, holds in place of an answer."""
        if not text.startswith((b"{", b"[")) or not (b'"error"' in text or _has_message(text)):
            return
        data = _decoded(text)
        error = _error_in(data)
        if error is not None:
            raise self._error(error, data if isinstance(data, Mapping) else {})
        said = _said_in(data)
        if said is None:
            return
        status = _status_of(data)
        if status is not None:
            raise self._error({**data, "message": said}, {})
        if not self._is_stream:
            raise self._says(said)
        # The answer may follow what a gateway says about its work.
        self._said = said

    def _says(self, said: str) -> lm15.ProviderError:
        return lm15.ProviderError(f"{self._reply()} is not an answer: {said}", status=self._status)

    def _error(self, error: Any, data: Mapping[str, Any]) -> lm15.ProviderError:
        """Return the error that the provider would have sent with the status that it names."""
        if isinstance(error, Mapping) and isinstance(error.get("error"), Mapping) and not error.get("message"):
            error = error["error"]
        status = _status_of(error)
        raised = self._normalize(status or _UNNAMED, json.dumps({**data, "error": error}))
        raised.status = status or self._status
        if not raised.message:
            self._error_body = json.dumps(error).encode()
        return raised

    def _target_of(self, location: str | None) -> str:
        """Return where a redirection leads."""
        try:
            return public_address(urljoin(self._url, location)) if location else "nowhere"
        except ValueError:
            return "what is no address"

    def _reply(self, size: int | None = None) -> str:
        what = "stream" if self._is_stream else "reply"
        bytes_ = "" if size is None else f", {size} bytes"
        return f"the {what} (HTTP {self._status}, {self._content_type}{bytes_})"

    def _way_to(self, error: NetworkError) -> str:
        """Return what helps if there is no connection."""
        if not isinstance(error, ConnectError):
            return ""
        if self._address is not None:
            return "; check that its server runs, and the address at api_base"
        return (
            "; check the address at api_base if one is given, the network, and whether it needs a proxy (HTTPS_PROXY)"
        )

    def _through_proxy(self) -> str:
        proxy = proxy_for(self._url)
        if proxy is None:
            return ""
        return f"; requests go through the proxy {proxy.url} that {proxy.variable} names{_around(self._url)}"


class _Lines:
    """Takes the lines of a stream, and finds out whether it is one."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._whole: list[bytes] | None = None
        self._has_begun = False

    def take(self, line: bytes) -> bytes | None:
        """Take a line, and return it if it belongs to a stream."""
        if not self._has_begun and line.strip():
            self._has_begun = True
            line = line.removeprefix(_BYTE_ORDER_MARK)
            self._whole = None if EVENT_FIELD.match(line.lstrip()) else []
        if self._whole is not None:
            self._whole.append(line)
            return None
        self._exchange.line(line)
        if not line.startswith(_DATA):
            return line
        data = line[len(_DATA) :].strip()
        read = reply_forms.usual(data, is_event=True)
        return line if read is data else _DATA + read + b"\n"

    def are_over(self, line: bytes) -> bool:
        """Return whether this line ends the last event, after which the server may keep the connection open."""
        return self._exchange.is_over and not line.strip()

    def end(self) -> None:
        """Take the end.

        Raises:
            WholeReplyError: It was not a stream.
        """
        if self._whole is not None:
            self._exchange._is_stream = False
            raise WholeReplyError(b"".join(self._whole))


def _decoded(text: bytes) -> Any:
    """Return the value of JSON; ``None`` for anything else, of which the client says what cannot be read."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _has_message(text: bytes) -> bool:
    """Return whether a text may be an error that is not in a field ``error``."""
    return any(f'"{key}"'.encode() in text for key in _MESSAGE_KEYS)


def _error_in(data: Any) -> Any:
    """Return the error in the decoded body or event of any provider, if it has one."""
    if isinstance(data, list) and data:
        # Gemini's, if a stream was asked for.
        return _error_in(data[0])
    if not isinstance(data, Mapping):
        return None
    if data.get("error"):
        return data["error"]
    # The event of OpenAI's responses.
    if data.get("type") == "error" and isinstance(data.get("message"), str):
        return data
    # Cohere's, in the last event of a stream.
    delta = data.get("delta")
    if isinstance(delta, Mapping) and delta.get("error"):
        return delta["error"]
    # OpenRouter's, of the model that it has asked.
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first.get("error") if isinstance(first, Mapping) else None


def _said_in(data: Any) -> str | None:
    """Return what a reply that is no answer says, as vLLM, FastAPI and gateways write it."""
    if not isinstance(data, Mapping) or any(data.get(name) for name in _FIELDS):
        return None
    # An event of a stream has a type, and may have a message that is part of the answer.
    if "type" in data and data.get("object") != "error" and not isinstance(data.get("message"), str):
        return None
    said = next((data[key] for key in _MESSAGE_KEYS if data.get(key)), None)
    if said is None:
        return None
    return (said if isinstance(said, str) else json.dumps(said))[:_MAX_QUOTED]


def _status_of(error: Any) -> int | None:
    values = [error.get(key) for key in _STATUS_KEYS] if isinstance(error, Mapping) else [error]
    for value in values:
        number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) == 3 else value
        if isinstance(number, int) and number in ERRORS:
            return number
        if isinstance(value, str) and value.lower() in _STATUS_OF_NAME:
            return _STATUS_OF_NAME[value.lower()]
    return None


def _trusted() -> str:
    """Return what the environment says about trusted certificates."""
    for variable in _CERTIFICATE_VARIABLES:
        path = os.environ.get(variable)
        if path and not os.path.exists(path):
            return f"{variable} names {path}, which does not exist"
        if path:
            return f"the certificates that are trusted are those of {variable}, {path}"
    return "SSL_CERT_FILE can name a file with the certificate of the authority that is to be trusted"


def _around(url: str) -> str:
    host = public_address(url).partition("://")[2].partition("/")[0]
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return f"; NO_PROXY={host} goes around it"
