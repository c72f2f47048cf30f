# cython: language_level=3, boundscheck=False
"""The wait of ``awake.py``, without Python's lock."""

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    short POLLIN
    int poll(pollfd *descriptors, unsigned long count, int timeout)

cdef extern from "sched.h" nogil:
    int sched_yield()


cdef inline long long _now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec * <long long>1000000000 + now.tv_nsec


def wait(int descriptor, long long duration_ns):
    """Return as soon as there is something to read, or after so many nanoseconds; without sleeping."""
    cdef pollfd watched
    cdef long long ends_at
    watched.fd = descriptor
    watched.events = POLLIN
    with nogil:
        ends_at = _now_ns() + duration_ns
        while poll(&watched, 1, 0) == 0 and _now_ns() < ends_at:
            # Whoever else wants this core, such as the one who is waited for, has it.
            sched_yield()
