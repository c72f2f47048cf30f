"""Read the addresses of providers' servers: what is asked for, with which query and which user.

DSPy's client joins an address and a path as text, and takes a user for a part of the host's name. So it gets the plain
part of an address alone, and :mod:`.native_engines` adds the rest to each request.
"""

from __future__ import annotations

import base64
import functools
import os
import re
from typing import Final, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from erlport_bridge.redaction import remember_secret

# A shorter value of a query is a version or a region rather than a key.
_MIN_SECRET_CHARACTERS: Final = 8
_MAX_PORT: Final = 65535
# An address that is shown although it is wrong: a host and a port, or what has a scheme. Without user, query and
# fragment it has no place for a secret; text of another form may be an API key.
_HARMLESS: Final = re.compile(
    r"(?:[a-z][a-z0-9+]{0,9}:?)?//[a-z0-9.-]*(?::[0-9]{1,6})?(?:/[\w./%-]*)?|[a-z0-9.-]+:[0-9]{1,6}(?:/[\w./%-]*)?",
    re.ASCII | re.IGNORECASE,
)
_EXAMPLE: Final = '"http://127.0.0.1:8000/v1"'
# The path that the client adds, which users copy from a provider's documentation together with the address.
_ENDPOINT: Final = "/chat/completions"


class Address(NamedTuple):
    """The address of a server.

    Attributes:
        url: The whole address in one spelling, which may hold secrets.
        plain: Scheme, host, port and path, without a slash at the end.
        query: The query of each request.
        credentials: The value of the header ``Authorization`` for the user in the address.
    """

    url: str
    plain: str
    query: str
    credentials: str | None

    @property
    def is_plain(self) -> bool:
        """Whether the address has no query and no user."""
        return self.url == self.plain


class AddressError(ValueError):
    """A text is no address of a server; the message is what was expected.

    Attributes:
        got: What came, to be added to the message: the address if nothing in it may be secret, and its wrong part.
    """

    def __init__(self, expected: str, got: str = "") -> None:
        super().__init__(expected)
        self.got = got


def address_of(url: str, *, base_path: str = "") -> Address:
    """Read an address, and remember its secrets: the password, and long values of the query.

    Args:
        url: An http or https URL.
        base_path: The path of an address that has none.

    Raises:
        AddressError: The text is not such a URL.
    """
    address, secrets = _read(url, base_path)
    for secret in secrets:
        remember_secret(secret)
    return address


# A call that names its model names the same address as the one before; reading it takes 0.1 ms.
@functools.lru_cache(maxsize=128)
def _read(url: str, base_path: str) -> tuple[Address, frozenset[str]]:
    """Return an address, and the secrets in it; raise as :func:`address_of`."""
    parts = _parts(url)
    host = parts.hostname or ""
    authority = f"[{host}]" if ":" in host else host
    if parts.port is not None:
        authority = f"{authority}:{parts.port}"
    path = parts.path.rstrip("/") or base_path
    plain = urlunsplit((parts.scheme, authority, path, "", ""))
    user, is_user, _ = parts.netloc.rpartition("@")
    whole = urlunsplit((parts.scheme, f"{user}{is_user}{authority}", path, parts.query, ""))
    return Address(whole, plain, parts.query, _credentials(parts)), _secrets(parts)


def public_address(url: str) -> str:
    """Return an address without the parts that may be secret: the user, the query and the fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class Proxy(NamedTuple):
    """A proxy that the environment names.

    Attributes:
        variable: The environment variable, or the name of the system's settings.
        url: The address of the proxy, without its user.
    """

    variable: str
    url: str


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy through which the client sends requests to ``url``; remember its password as a secret."""
    parts = urlsplit(url)
    proxies = getproxies()
    for name in (parts.scheme, "all"):
        if proxies.get(name):
            break
    else:
        return None
    if proxy_bypass(parts.hostname or ""):
        return None
    found = proxies[name]
    try:
        for secret in _secrets(urlsplit(found if "://" in found else f"http://{found}")):
            remember_secret(secret)
    except ValueError:  # not a URL
        remember_secret(found)
    variables = (f"{name}_proxy", f"{name}_proxy".upper())
    variable = next((variable for variable in variables if os.environ.get(variable)), "the system's proxy settings")
    return Proxy(variable, found.rpartition("@")[2] if "://" not in found else _shown(found))


def _shown(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _parts(url: str) -> SplitResult:
    if not url.isascii() or not url.isprintable() or " " in url:
        raise AddressError("printable ASCII characters without spaces; others are written percent-encoded")
    wrong = _wrong_part(url)
    if wrong is not None:
        remedy = ", with / in a password written %2F and so on" if "@" in url else ""
        shown = f'"{url}"' if _HARMLESS.fullmatch(url) else "an address"
        raise AddressError(f"an http or https URL, such as {_EXAMPLE}{remedy},", f", got {shown} {wrong}")
    parts = urlsplit(url)
    if parts.fragment or url.endswith("#"):
        raise AddressError("an address without a fragment (#...), which no server gets; # in a password is written %23")
    if parts.path.rstrip("/").endswith(_ENDPOINT):
        raise AddressError(f"the address that comes before {_ENDPOINT}, such as {_EXAMPLE}")
    return parts


def _wrong_part(url: str) -> str | None:
    """Return which part of an address makes it none, without showing what may be a password; ``None``: it is one."""
    scheme, mark, _ = url.partition("://")
    if not mark or not scheme:
        return "that does not begin with http:// or https://"
    if scheme.lower() not in ("http", "https"):
        return "whose scheme is neither http nor https"
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
    except ValueError:  # an invalid bracket or host name
        return "whose host is invalid"
    if not host:
        return "without a host"
    port = parts.netloc.rpartition("@")[2].rpartition("]")[2].partition(":")[2]
    if port and not port.isdecimal():
        return "whose port is not a number"
    if port and (len(port) > 9 or not 1 <= int(port) <= _MAX_PORT):
        return f"whose port is not within 1 to {_MAX_PORT}"
    return None


def _secrets(parts: SplitResult) -> frozenset[str]:
    """Return the secrets in an address: the password, and long values of the query."""
    # A user without a password is a token.
    user = parts.password or parts.username or ""
    of_query = (value for _, value in parse_qsl(parts.query) if len(value) >= _MIN_SECRET_CHARACTERS)
    return frozenset({user, unquote(user), *of_query} - {""})


def _credentials(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(user.encode()).decode()}"
