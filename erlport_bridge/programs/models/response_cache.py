"""The response cache, for language models that are configured with ``cache: true``.

The keys of DSPy's cache leave out the API key and the address, so two tenants would share answers. Here each model has
a partition of DSPy's cache, and gets cache hits only from its partition. The cache is in memory only, and ends with the
process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

import dspy
from dspy.clients.cache import Cache

from erlport_bridge import dspy_patches
from erlport_bridge.programs.models.endings import Endings
from erlport_bridge.request import Assigned

_MAX_ENTRIES: Final = 10_000

_partition: ContextVar[str | None] = ContextVar("partition", default=None)
# What is to be stored once the answers have been read; ``None``: each answer at once.
_unread: ContextVar[list[Callable[[], None]] | None] = ContextVar("unread", default=None)


class PartitionedCache(Cache):  # type: ignore[misc]
    """DSPy's cache, split into partitions; outside of :func:`within_partition` it stores and finds nothing."""

    def cache_key(self, request: dict[str, Any], ignored_args_for_cache_key: list[str] | None = None) -> str:
        """Return the key of a request in the current partition."""
        return f"{_partition.get()}:{super().cache_key(request, ignored_args_for_cache_key)}"

    def get(self, request: dict[str, Any], ignored_args_for_cache_key: list[str] | None = None) -> Any:
        """Return the cached answer to a request, or ``None``."""
        return None if _partition.get() is None else super().get(request, ignored_args_for_cache_key)

    def put(self, *args: Any, **kwargs: Any) -> None:
        """Store the answer to a request; inside of :class:`KeptIfRead`, once it has been read."""
        partition, unread = _partition.get(), _unread.get()
        if partition is None:
            return
        if unread is None:
            # The request of a module that reads the answer itself.
            super().put(*args, **kwargs)
        else:
            unread.append(partial(self._put_in, partition, super().put, args, kwargs))

    def _put_in(
        self, partition: str, put: Callable[..., None], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        with within_partition(partition):
            put(*args, **kwargs)


# Before the patch, so that DSPy creates no cache on disk even if the patch is left out.
dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
dspy_patches.provide(
    "response_cache",
    lambda _: PartitionedCache(
        enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=None, memory_max_entries=_MAX_ENTRIES
    ),
)


def partition_of(*identity: object) -> str:
    """Return the name of a model's partition: a hash of the model's identity, which may contain an API key.

    Raises:
        OperationError: Of kind ``missing_dependency``: DSPy's own cache is in use, which has no partitions.
    """
    dspy_patches.require("response_cache", "models with cache: true")
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def within_partition(name: str | None) -> contextlib.AbstractContextManager[None]:
    """Use a partition of the cache within the ``with`` block; ``None``: no cache."""
    return Assigned(_partition, name)


class KeptIfRead(Assigned[list[Callable[[], None]] | None]):
    """Keep the answers to the requests inside the ``with`` block only if the block ends without an exception.

    An answer that cannot be read would otherwise fail again with each retry, and with each later call.

    Args:
        endings: How the answers ended; one that was cut off is not kept either.
    """

    __slots__ = ("_endings", "_puts")

    def __init__(self, endings: Endings) -> None:
        self._endings = endings
        self._puts: list[Callable[[], None]] = []
        super().__init__(_unread, self._puts)

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)
        if raised[0] is None and not self._endings.found:
            for put in self._puts:
                put()
