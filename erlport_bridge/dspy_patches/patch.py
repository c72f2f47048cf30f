"""Define the rows of the tables: a patch, and a private name of DSPy that is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Fingerprints = tuple[str, ...]
#: From what DSPy has to what stands in for it.
Make = Callable[[Any], Any]

#: The replacement is made by a higher package, which gives it to :func:`.installing.provide`.
PROVIDED = None


class Patch(NamedTuple):
    """One or several names of DSPy that are replaced together, or not at all.

    A name is ``module:attribute``; with alternatives, separated by ``|``, where another version has it elsewhere.

    Attributes:
        name: What ``ping`` calls it.
        why: What DSPy does, and what is wrong with it here.
        since: The first DSPy version that is known to need it.
        until: When it may be removed.
        without: What is so where it is left out: slower, less, or refused with an error.
        targets: The names that are replaced, each with what makes the replacement from DSPy's own.
        expects: The fingerprints that are accepted of the targets, and of the functions on which the patch relies. A
            target that is not among them is not read.
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
        name: The attribute or module, beginning with an underscore.
        place: Where DSPy has it: ``module:attribute``, or ``module:Class`` whose objects have it.
        used_in: The files below ``erlport_bridge`` that use it.
        why: What for.
    """

    name: str
    place: str
    used_in: tuple[str, ...]
    why: str
