from erlport_bridge.port.answers import AnswerEncoder
from erlport_bridge.port.descriptors import Descriptors
from erlport_bridge.port.frames import FrameReader
from erlport_bridge.port.leadership import Leadership
from erlport_bridge.port.pending_calls import PendingCalls
from erlport_bridge.port.targets import Targets
from erlport_bridge.port.writer import FrameWriter

def wait(descriptor: int, duration_ns: int) -> None: ...
def write_small(descriptor: int, data: bytes) -> int: ...
def isolate_finalizers(phase: str, info: dict[str, int]) -> None: ...

class QuickCalls:
    def __init__(
        self,
        descriptors: Descriptors,
        frames: FrameReader,
        targets: Targets,
        pending_calls: PendingCalls,
        leadership: Leadership,
        answers: AnswerEncoder,
        writer: FrameWriter,
        busy_wait_ns: int,
    ) -> None: ...
    def answer(self, waits: bool) -> bool: ...
    def flush(self) -> None: ...
