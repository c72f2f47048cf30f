# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The part of the port in Cython, compiled to C: busy-waits, small writes, a watch, and whole calls of quick functions.

The interpreter takes longer for such a call than the system takes to transport it. Anything rare or invalid is left to
``receiver.py`` and ``dispatcher.py``, which can also do all of it without this module.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, nanosleep, timespec
from posix.unistd cimport read, write

import sys

from erlport_bridge.port.answers import failed_answer
from erlport_bridge.port.targets import NOT_QUICK_S, QUICK_CALLS
from erlport_bridge.term import Atom, decode, encode_frame

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    short POLLIN
    int poll(pollfd *descriptors, unsigned long count, int timeout)

cdef extern from "sched.h" nogil:
    int sched_yield()

cdef extern from *:
    """
    static inline long long load(const long long *from) { return __atomic_load_n(from, __ATOMIC_RELAXED); }
    static inline void store(long long *to, long long value) { __atomic_store_n(to, value, __ATOMIC_RELAXED); }
    """
    long long load(const long long *from_) nogil
    void store(long long *to, long long value) nogil

cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    object PyContext_New()
    int PyContext_Enter(object) except -1
    int PyContext_Exit(object) except -1

cdef enum:
    # The names and numbers of term/tags.py.
    VERSION = 131
    SMALL_INTEGER = 97
    INTEGER = 98
    ATOM = 100
    SMALL_TUPLE = 104
    SMALL_ATOM = 115
    ATOM_UTF8 = 118
    SMALL_ATOM_UTF8 = 119

    # Answers up to this size are held and written together. At most MAX_HELD of them, or the first waits too long.
    SMALL_BYTES = 1024
    MAX_HELD = 16

cdef long long _NOT_QUICK_NS = <long long>(NOT_QUICK_S * 1e9)
cdef Py_ssize_t _QUICK_CALLS = QUICK_CALLS
cdef dict _modules = sys.modules
cdef object _RESULT = Atom("r")


cdef inline long long _now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec * <long long>1000000000 + now.tv_nsec


cdef void _wait(int descriptor, long long duration_ns) noexcept nogil:
    cdef pollfd watched
    cdef long long ends_at = _now_ns() + duration_ns
    watched.fd = descriptor
    watched.events = POLLIN
    while poll(&watched, 1, 0) == 0 and _now_ns() < ends_at:
        # Leave this core to other threads, perhaps to the one that is waited for.
        sched_yield()


def wait(int descriptor, long long duration_ns):
    """Busy-wait until the file descriptor is readable, or so many nanoseconds at most."""
    with nogil:
        _wait(descriptor, duration_ns)


def write_small(int descriptor, bytes data):
    """Write to a non-blocking file descriptor, and return the number of bytes written; 0 if the write failed.

    Holds the GIL, which may take longer to get back than the write takes.
    """
    return max(0, write(descriptor, <char*>data, len(data)))


cdef class Turns:
    """The turns of the leader: each of its functions is one, and so is each time that the loop runs its callbacks.

    They can be watched without the GIL. A thread that took it at each tick would make the leader wait for it.
    """

    # Odd while a turn runs.
    cdef long long _number

    def begin(self):
        """Begin a turn."""
        store(&self._number, (self._number + 1) | 1)

    def end(self):
        """End the turn that runs."""
        store(&self._number, (self._number + 1) & ~<long long>1)

    def runs(self, long long number):
        """Return whether this turn still runs."""
        return self._number == number

    def overrun(self, double tick_s, int quiet_ticks):
        """Wait until a turn has run for a whole tick, or no turn has run for so many ticks in a row.

        Returns:
            The number of the turn, or 0.
        """
        cdef long long seen
        cdef int quiet = 0
        cdef timespec tick
        tick.tv_sec = 0
        tick.tv_nsec = <long>(tick_s * 1e9)
        with nogil:
            while quiet < quiet_ticks:
                seen = load(&self._number)
                nanosleep(&tick, NULL)
                if not seen & 1:
                    quiet += 1
                    continue
                quiet = 0
                if load(&self._number) == seen:
                    break
        return 0 if quiet else seen


cdef Py_ssize_t _after_atom(const uint8_t* data, Py_ssize_t start, Py_ssize_t end) noexcept:
    """Return where the atom at ``start`` ends; ``-1`` if there is no atom, or ``start`` is ``-1`` already."""
    if start < 0 or end - start < 3:
        return -1
    if data[start] == SMALL_ATOM_UTF8 or data[start] == SMALL_ATOM:
        start += 2 + data[start + 1]
    elif data[start] == ATOM_UTF8 or data[start] == ATOM:
        start += 3 + (data[start + 1] << 8 | data[start + 2])
    else:
        return -1
    return start if start <= end else -1


cdef Py_ssize_t _names_of_call(const uint8_t* frame, Py_ssize_t size) noexcept:
    """Return where Module begins in ``{'C', Id, Module, Function, Args}``; ``-1`` if this is no call, or a heartbeat.

    A heartbeat's id is 0. Ids of more than 32 bits are rare, and left to ``receiver.py``.
    """
    cdef Py_ssize_t at
    if size < 8 or frame[0] != VERSION or frame[1] != SMALL_TUPLE or frame[2] != 5:
        return -1
    at = _after_atom(frame, 3, size)
    # An atom of one character ends there.
    if at != (6 if frame[3] == SMALL_ATOM_UTF8 or frame[3] == SMALL_ATOM else 7) or frame[at - 1] != b"C":
        return -1
    if size - at > 2 and frame[at] == SMALL_INTEGER:
        return at + 2 if frame[at + 1] else -1
    if size - at > 5 and frame[at] == INTEGER:
        return at + 5 if frame[at + 1] | frame[at + 2] | frame[at + 3] | frame[at + 4] else -1
    return -1


cdef object _context_of_finalizers = None


def isolate_finalizers(str phase, dict info):
    """Give the finalizers of a garbage collection a context of their own; for ``gc.callbacks``.

    In C, since an exception that interrupts a thread must not be raised between the two phases.
    """
    global _context_of_finalizers
    if phase == "start":
        _context_of_finalizers = PyContext_New()
        PyContext_Enter(_context_of_finalizers)
    elif _context_of_finalizers is not None:
        PyContext_Exit(_context_of_finalizers)
        _context_of_finalizers = None


cdef class QuickCalls:
    """The fast path for calls of harmless functions that have been quick so far: the leader runs and answers them.

    Only the leader may use it.

    Args:
        descriptors: The protocol's file descriptors.
        frames: Holds the bytes that have come.
        targets: The functions that can be called.
        pending_calls: The pending calls.
        leadership: Which thread reads.
        answers: Encodes the answers that this class does not encode.
        writer: Writes all other frames.
        busy_wait_ns: How long to busy-wait while no call is pending.
    """

    cdef int _read_end, _write_end, _packet
    cdef long long _busy_wait_ns
    cdef object _frames, _pending_calls, _leadership, _answers, _writer, _known
    # Targets by the bytes of their names.
    cdef dict _targets
    cdef Py_buffer _buffer
    cdef uint8_t _held[MAX_HELD * SMALL_BYTES]
    cdef Py_ssize_t _held_size
    cdef int _held_count

    def __init__(self, descriptors, frames, targets, pending_calls, leadership, answers, writer, long long busy_wait_ns):
        self._read_end = descriptors.read
        self._write_end = descriptors.write
        self._packet = frames.packet
        self._frames = frames
        self._known = targets.known
        self._pending_calls = pending_calls
        self._leadership = leadership
        self._answers = answers
        self._writer = writer
        self._busy_wait_ns = busy_wait_ns
        self._targets = {}
        PyObject_GetBuffer(frames.buffer, &self._buffer, PyBUF_SIMPLE | PyBUF_WRITABLE)

    def __dealloc__(self):
        PyBuffer_Release(&self._buffer)

    def answer(self, bint waits):
        """Answer the calls that have come, up to the first call for the slow path.

        Args:
            waits: Whether to wait for more calls, and read them, when all are answered.

        Returns:
            ``False`` if another thread leads now.
        """
        cdef Py_ssize_t start, end
        while not self._frames.is_large:
            start = self._frames.start
            end = self._frames.end
            if start < end:
                if not self._answer_between(&start, end):
                    return False
                if start < end:
                    break
            self.flush()
            if not waits:
                break
            end = self._read()
            if end <= 0:
                break
            self._frames.start = 0
            self._frames.end = end
        return True

    cpdef flush(self):
        """Write the answers held here, and the frames held by the writer."""
        cdef Py_ssize_t size = 0
        if not self._held_size:
            self._writer.flush()
            return
        is_free = self._writer.claim()
        # From here on the GIL is held, so that no other thread writes the same answers.
        if is_free:
            size = max(0, write(self._write_end, self._held, self._held_size))
        rest = self._held[size:self._held_size] if size < self._held_size else b""
        self._held_size = self._held_count = 0
        if is_free:
            self._writer.release(rest)
        else:
            self._writer.send([rest])

    cdef Py_ssize_t _read(self):
        """Read the next bytes to the start of the buffer, and return their number; less than 1 if that failed."""
        cdef long long busy_wait_ns = 0 if self._pending_calls.count else self._busy_wait_ns
        cdef Py_ssize_t size
        with nogil:
            if busy_wait_ns:
                _wait(self._read_end, busy_wait_ns)
            size = read(self._read_end, self._buffer.buf, self._buffer.len)
        return size

    cdef bint _answer_between(self, Py_ssize_t* start, Py_ssize_t end) except -1:
        """Answer the calls in these bytes; advance ``start`` to the first incomplete frame or slow-path call."""
        cdef const uint8_t* buffer = <uint8_t*>self._buffer.buf
        cdef Py_ssize_t body, size
        cdef list running = None
        cdef int i
        while end - start[0] > self._packet:
            body = start[0] + self._packet
            size = 0
            for i in range(start[0], body):
                size = size << 8 | buffer[i]
            if size > end - body:
                break
            try:
                target = self._target(buffer + body, size)
                if target is None:
                    break
                _tag, call_id, _module, _function, arguments = decode(
                    PyBytes_FromStringAndSize(<char*>buffer + body, size)
                )
            except Exception:  # the slow path raises and reports it again
                break
            if type(arguments) is not list:
                break
            if running is not None and not running:
                # Since the last call another thread leads, and makes this one.
                self.flush()
                return False
            start[0] = body + size
            # Set before the function runs: if it takes long, another thread reads on from here.
            self._frames.start = start[0]
            if running is None:
                running = self._leadership.begin(None)
            frame = self._answer_of(target, call_id, arguments)
            if not running:
                self._writer.send(frame)
                return False
            self._hold(frame)
            if self._held_count >= MAX_HELD:
                self.flush()
                # The watch on the next function starts now.
                if not self._leadership.end(running):
                    return False
                running = None
        if running is None:
            return True
        # Write first, because callers wait for these answers.
        self.flush()
        return self._leadership.end(running)

    cdef object _target(self, const uint8_t* frame, Py_ssize_t size):
        """Return the target that this frame calls if it may run at once, else ``None``."""
        cdef Py_ssize_t module_starts = _names_of_call(frame, size)
        cdef Py_ssize_t module_ends = _after_atom(frame, module_starts, size)
        cdef Py_ssize_t function_ends = _after_atom(frame, module_ends, size)
        if function_ends < 0:
            return None
        names = PyBytes_FromStringAndSize(<char*>frame + module_starts, function_ends - module_starts)
        target = self._targets.get(names)
        if target is None:
            module = decode(b"\x83" + names[:module_ends - module_starts])
            function = decode(b"\x83" + names[module_ends - module_starts:])
            target = self._known(module, function)
            if target is None:
                return None
            self._targets[names] = target
        if not target.is_harmless or target.quick_calls < _QUICK_CALLS or not self._pending_calls.has_room():
            return None
        module, function = target.name
        if _modules.get(module) is target.module and getattr(target.module, function, None) is target.function:
            return target
        del self._targets[names]
        return None

    cdef list _answer_of(self, target, call_id, list arguments):
        """Call a function, and return the frame of its answer."""
        cdef long long started_at, taken_ns
        function = target.function
        # In a context of its own, so that context variables it sets do not leak into the next call of this thread.
        context = PyContext_CopyCurrent()
        PyContext_Enter(context)
        started_at = _now_ns()
        try:
            value = function(*arguments)
        except BaseException as error:
            return self._answers.encoded(failed_answer(call_id, function, error))
        finally:
            taken_ns = _now_ns() - started_at
            PyContext_Exit(context)
            if taken_ns > _NOT_QUICK_NS:
                target.note_duration(taken_ns / 1e9)
        try:
            return encode_frame((_RESULT, call_id, value), packet=self._packet)
        except Exception:
            return self._answers.result(call_id, value, function)

    cdef void _hold(self, list frame) except *:
        """Hold a frame to be written together with the next frames, by :meth:`flush` at the latest."""
        cdef bytes data
        if len(frame) == 1 and type(frame[0]) is bytes:
            data = frame[0]
            if len(data) <= SMALL_BYTES:
                memcpy(self._held + self._held_size, <char*>data, len(data))
                self._held_size += len(data)
                self._held_count += 1
                return
        self._writer.hold(frame)
