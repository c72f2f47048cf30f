"""Test the frame reader, fed with whole frames, byte by byte and with trailing data."""

import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erlport_bridge.port.frames import HEAD_BYTES, FrameReader, SkippedFrame
from erlport_bridge.term import PACKET_SIZES

BUFFER_BYTES = 65_536


def frame(message: bytes, packet: int) -> bytes:
    return len(message).to_bytes(packet, "big") + message


def feed(reader: FrameReader, data: bytes, step: int = 1 << 30) -> list[bytes | SkippedFrame]:
    """Feed bytes of the stream to a reader, ``step`` at a time, and return the frames that they complete."""
    frames: list[bytes | SkippedFrame] = []
    while data:
        room = reader.room()[:step]
        part = data[: len(room)]
        room[: len(part)] = part
        reader.received(len(part))
        data = data[len(part) :]
        while (found := reader.take()) is not None:
            frames.append(found if isinstance(found, SkippedFrame) else bytes(found))
    return frames


@given(st.sampled_from(PACKET_SIZES), st.lists(st.binary(max_size=255)), st.lists(st.integers(1, 300)))
def test_frames_come_out_whole_however_the_stream_is_cut(packet: int, payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frame(payload, packet) for payload in payloads)
    reader = FrameReader(packet)
    found: list[bytes | SkippedFrame] = []
    for size in [*cuts, len(stream) + 1]:
        found += feed(reader, stream[:size])
        stream = stream[size:]
    assert found == payloads
    assert reader.pending_bytes == 0


@given(
    st.lists(st.integers(BUFFER_BYTES - 10, BUFFER_BYTES + 10) | st.integers(0, 3 * BUFFER_BYTES), max_size=4),
    st.lists(st.integers(1, 2 * BUFFER_BYTES)),
)
def test_frames_larger_than_the_buffer_come_out_whole(sizes: list[int], cuts: list[int]) -> None:
    payloads = [bytes([number]) * size for number, size in enumerate(sizes)]
    stream = b"".join(frame(payload, 4) for payload in payloads)
    reader = FrameReader(4)
    found: list[bytes | SkippedFrame] = []
    for size in [*cuts, len(stream) + 1]:
        found += feed(reader, stream[:size])
        stream = stream[size:]
    assert found == payloads
    assert reader.pending_bytes == 0


@pytest.mark.parametrize("packet", PACKET_SIZES)
def test_incomplete_frame_is_kept(packet: int) -> None:
    data = frame(b"abc", packet)
    reader = FrameReader(packet)
    for byte in data[:-1]:
        assert feed(reader, bytes([byte])) == []
    assert reader.pending_bytes == len(data) - 1
    assert feed(reader, data[-1:] + data[:1]) == [b"abc"]
    assert reader.pending_bytes == 1


def test_large_frame_is_given_in_the_memory_that_it_was_read_into() -> None:
    reader = FrameReader(4)
    data = frame(b"x" * 1_000_000, 4)
    assert feed(reader, data[:10]) == []
    room = reader.room()
    assert len(room) == 1_000_000 - 6
    room[:] = data[10:]
    reader.received(len(room))
    found = reader.take()
    assert isinstance(found, mmap.mmap)
    assert memoryview(found) == b"x" * 1_000_000


@pytest.mark.parametrize("packet", [0, 3, 8])
def test_other_sizes_of_a_length_are_refused(packet: int) -> None:
    with pytest.raises(ValueError, match="expected a packet size of 1, 2 or 4"):
        FrameReader(packet)


@pytest.mark.parametrize("step", [13, 1_000, 70_000, 1_000_000])
@pytest.mark.parametrize("beyond", [0, 1])
def test_frame_beyond_the_limit_is_skipped_and_the_next_one_is_read(step: int, beyond: int) -> None:
    limit = 100_000
    reader = FrameReader(4, limit)
    large = bytes(range(250)) * 400 + b"x" * beyond
    found = feed(reader, frame(b"before", 4) + frame(large, 4) + frame(b"after", 4), step)
    expected = SkippedFrame(len(large), large[:HEAD_BYTES], True) if beyond else large
    assert found == [b"before", expected, b"after"]
    assert reader.pending_bytes == 0


def test_frame_for_which_there_is_no_memory_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(size: int) -> mmap.mmap:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("erlport_bridge.port.frames._large_memory", no_memory)
    reader = FrameReader(4)
    (skipped,) = feed(reader, frame(b"x" * 200_000, 4))
    assert isinstance(skipped, SkippedFrame)
    assert (skipped.size, skipped.head, skipped.is_too_large) == (200_000, b"x" * HEAD_BYTES, False)
    assert feed(reader, frame(b"after", 4)) == [b"after"]
