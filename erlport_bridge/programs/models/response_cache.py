"""Answers that models gave before, for models that are configured with ``cache: true``.

DSPy's cache, with one difference: its keys leave out the API key and the address, so that two tenants would share
answers. Here each model has a partition, and finds only what was stored in it. In memory alone, gone with the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final

import dspy
from dspy.clients.cache import Cache

from erlport_bridge import dspy_patches

_MAX_ENTRIES: Final = 10_000

_partition: ContextVar[str | None] = ContextVar("partition", default=None)


class PartitionedCache(Cache):  # type: ignore[misc]
    """Keeps what is asked in one partition apart from all others; outside of partitions it keeps nothing."""

    def cache_key(self, request: dict[str, Any], ignored_args_for_cache_key: list[str] | None = None) -> str:
        """Give the key of a request in the partition in which this runs."""
        return f"{_partition.get()}:{super().cache_key(request, ignored_args_for_cache_key)}"

    def get(self, request: dict[str, Any], ignored_args_for_cache_key: list[str] | None = None) -> Any:
        """Give the answer to a request, ``None`` if there is none."""
        return None if _partition.get() is None else super().get(request, ignored_args_for_cache_key)

    def put(self, *args: Any, **kwargs: Any) -> None:
        """Keep the answer to a request."""
        if _partition.get() is not None:
            super().put(*args, **kwargs)


# First, so that DSPy does not make its own on the disk later, whatever becomes of the patch.
dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
dspy_patches.provide(
    "response_cache",
    lambda _: PartitionedCache(
        enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=None, memory_max_entries=_MAX_ENTRIES
    ),
)


def partition_of(*identity: object) -> str:
    """Name the partition of a model by what it is asked with, which may be secret and is not kept.

    Raises:
        OperationError: Of kind ``missing_dependency``: DSPy's own cache is in use, which has no partitions.
    """
    dspy_patches.require("response_cache", "models with cache: true")
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


@contextlib.contextmanager
def within_partition(name: str | None) -> Iterator[None]:
    """Find and keep answers in a partition."""
    token = _partition.set(name)
    try:
        yield
    finally:
        _partition.reset(token)
