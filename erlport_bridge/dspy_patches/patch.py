"""Define the rows of the tables: a patch, and a private name of DSPy that is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Fingerprints = tuple[str, ...]
#: Returns the replacement, given DSPy's value.
Make = Callable[[Any], Any]

#: The replacement belongs to a package above this one, which passes it to :func:`.installing.provide`.
PROVIDED = None


class Patch(NamedTuple):
    """One or several names of DSPy that are replaced together, or not at all.

    A name is ``module:attribute``. Alternatives for other versions of DSPy are separated by ``|``.

    Attributes:
        name: The name of the patch, in the answer of ``ping`` too.
        why: What DSPy does, and why that is wrong or slow here.
        since: The first version of DSPy that is known to need the patch.
        until: When the patch may be removed.
        without: What follows if the patch is left out: slower, less, or refused with an error.
        targets: The replaced names, each with a function that makes the replacement from DSPy's value.
        expects: The accepted fingerprints of the targets, and of the functions on which the patch relies. A target that
            is not among them is not read.
    """

    name: str
    why: str
    since: str
    until: str
    without: str
    targets: Mapping[str, Make | None]
    expects: Mapping[str, Fingerprints]


class PrivateName(NamedTuple):
    """A private name of DSPy that is used, but not replaced.

    Attributes:
        name: The attribute or module, which begins with an underscore.
        place: Its place in DSPy: ``module:attribute``, or ``module:Class`` if objects of the class have it.
        used_in: The files below ``erlport_bridge`` that use it.
        why: What it is used for.
    """

    name: str
    place: str
    used_in: tuple[str, ...]
    why: str
