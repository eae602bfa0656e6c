"""A TCP proxy that loses connections: cut off after some bytes, or silent from some moment on; and
one that is far away."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from threading import Event, Lock, Thread
from time import monotonic, sleep

BUFFER = 16_384
# close() then sends a reset instead of waiting for what is still to be sent
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes bytes on between its own address and a target's.

    Each connection may carry as many bytes as `budget` draws when it is made, then it is cut. Bytes
    arrive `delay` seconds after they were sent, in both directions.
    """

    def __init__(self, target: str, budget: Callable[[], int], delay: float = 0.0) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._budget = budget
        self.delay = delay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = Lock()
        self._wires: list[socket.socket] = []
        self._near: set[socket.socket] = set()
        self._silent = Event()
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0
        # bytes that came from clients, and from the target
        self.sent = self.received = 0
        Thread(target=self._accept, daemon=True).start()

    def fall_silent(self) -> None:
        """From now on pass nothing on, and tell nobody."""
        self._silent.set()

    def cut(self) -> None:
        """Cut every connection now; new ones are taken."""
        wires, self._wires = self._wires, []
        for wire in wires:
            _reset(wire)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for wire in self._wires:
            _reset(wire)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._wires += (near, far)
                left = [self._budget()]
                self._near.add(near)
                for source, sink in ((near, far), (far, near)):
                    Thread(target=self._pump, args=(source, sink, left), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, left: list[int]) -> None:
        late = self._late(sink)
        with suppress(OSError):
            while content := source.recv(BUFFER):
                if self._silent.is_set():
                    return  # both ends stay open
                with self._lock:
                    self._count(source, len(content))
                    content = content[: max(0, left[0])]
                    left[0] -= len(content)
                    ends = left[0] <= 0
                late(content)
                if ends:
                    with self._lock:
                        self.cuts += 1
                    break
        _reset(source)
        _reset(sink)

    def _late(self, sink: socket.socket) -> Callable[[bytes], None]:
        """What sends bytes after the delay, without holding up the bytes behind them."""
        if not self.delay:
            return sink.sendall
        queue: SimpleQueue[tuple[float, bytes]] = SimpleQueue()

        def pump() -> None:
            with suppress(OSError):
                while True:
                    due, content = queue.get()
                    sleep(max(0.0, due - monotonic()))
                    sink.sendall(content)

        Thread(target=pump, daemon=True).start()
        return lambda content: queue.put((monotonic() + self.delay, content))

    def _count(self, source: socket.socket, size: int) -> None:
        if source in self._near:
            self.sent += size
        else:
            self.received += size


@contextmanager
def proxy(
    target: str, budget: Callable[[], int] = lambda: 2**62, delay: float = 0.0
) -> Iterator[Proxy]:
    """A proxy to a target, closed afterwards."""
    running = Proxy(target, budget, delay)
    try:
        yield running
    finally:
        running.close()


def _reset(wire: socket.socket) -> None:
    """Close a connection at once, as one that is lost; another thread may be reading it."""
    with suppress(OSError):
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        wire.shutdown(socket.SHUT_RDWR)
    wire.close()
