"""10,000 malformed, altered and out-of-order requests over real connections, from one seed."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError

from benchmarks.soak.statuses import MESSAGE_TOO_LARGE, documented
from stip.v1.inference_pb2 import InferRequest, InferResponse, Load
from stip.v1.manifest_pb2 import Manifest
from stip.v1.tensor_pb2 import DataType, Tensor
from tests.support.servers.healthy_session import healthy_session
from tests.support.servers.watched import Watched, watched_server
from tests.support.waiting import eventually
from tests.support.wire.fuzzer import HIDDEN_SIZE, OVERSIZED, Fuzzer, Script
from tests.support.wire.requests import Refusal, WireStream, connection, refusal_of

SEED = 20_240_229
REQUESTS = 10_000
CLIENTS = 4
CONNECTION_LIFE = 40  # streams
LINGERING = 3
# What the allocator may keep of buffers that it had to take at the time of most streams, in MiB.
MAX_GROWTH = 32.0
SLOW_START = 0.3
# What the seed must reach, or the test proves little.
REACHED = {
    ("ABORTED", "TAKEN_OVER"),
    ("FAILED_PRECONDITION", "ECHO_NOT_ALLOWED"),
    ("FAILED_PRECONDITION", "NOT_A_STEP"),
    ("FAILED_PRECONDITION", "NOT_OPEN"),
    ("FAILED_PRECONDITION", "WRONG_BUNDLE"),
    ("FAILED_PRECONDITION", "WRONG_KEY"),
    ("INVALID_ARGUMENT", "MALFORMED"),
    ("INVALID_ARGUMENT", "NOT_FINITE"),
    ("INVALID_ARGUMENT", "TOO_MANY_ROWS"),
    ("INVALID_ARGUMENT", "TOP_K_TOO_LARGE"),
    ("INVALID_ARGUMENT", "WRONG_BYTE_COUNT"),
    ("INVALID_ARGUMENT", "WRONG_DTYPE"),
    ("INVALID_ARGUMENT", "WRONG_LOGITS_ROWS"),
    ("INVALID_ARGUMENT", "WRONG_SHAPE"),
    ("NOT_FOUND", "SESSION_GONE"),
    ("OUT_OF_RANGE", "CONTEXT_OVERFLOW"),
    ("OUT_OF_RANGE", "POSITION_BEYOND_END"),
    ("RESOURCE_EXHAUSTED", ""),
}
# Those of the server's own failures are documented, and no request may bring them about.
ALLOWED = {(code, reason) for code, reason in documented() if code != "INTERNAL"}
# The bits of each type that are all set in NaN and infinity.
EXPONENTS = {
    DataType.DATA_TYPE_FLOAT16: ("<u2", 0x7C00),
    DataType.DATA_TYPE_BFLOAT16: ("<u2", 0x7F80),
    DataType.DATA_TYPE_FLOAT32: ("<u4", 0x7F800000),
}


class Tally:
    """What all clients saw."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.answered = 0
        self.outcomes: Counter[tuple[str, str]] = Counter()

    def count_answer(self, *, fuzzed: bool) -> None:
        """A request, of those that may be wrong if `fuzzed`, was answered or refused."""
        with self._lock:
            self.answered += fuzzed

    def add(self, outcome: tuple[str, str]) -> None:
        """A stream has ended."""
        with self._lock:
            self.outcomes[outcome] += 1


class FuzzingClient:
    """Sends scripts, a stream each, and checks every answer."""

    def __init__(self, server: Watched, manifest: Manifest, number: int, tally: Tally) -> None:
        self._server = server
        self._fuzzer = Fuzzer(f"{SEED} {number}", manifest)
        self._tally = tally
        self._lingering: deque[WireStream] = deque()

    def run(self, share: int) -> None:
        """Send scripts until the server has answered so many requests of all clients'."""
        while self._tally.answered < share:
            with connection(self._server.address) as channel:
                for _ in range(CONNECTION_LIFE):
                    self._play(channel, self._fuzzer.script())
                while self._lingering:
                    self._leave(self._lingering.popleft())

    def _play(self, channel: grpc.Channel, script: Script) -> None:
        stream = WireStream(channel).send(*script.requests)
        if script.end == "closes":
            stream.half_close_only()
        outcome = self._read(stream, script)
        if outcome is None and script.end == "lingers":
            self._lingering.append(stream)
            if len(self._lingering) > LINGERING:
                self._leave(self._lingering.popleft())
        else:
            stream.break_off()
            self._tally.add(outcome or ("broken off", ""))

    def _leave(self, stream: WireStream) -> None:
        """End a stream, which another may have robbed of its session meanwhile."""
        outcome = ("broken off", "")
        if not stream.call.is_active():
            outcome = self._refused(stream.refusal())
        stream.break_off()
        self._tally.add(outcome)

    def _read(self, stream: WireStream, script: Script) -> tuple[str, str] | None:
        """Read the answers, which must be right; what ended the stream, if anything did."""
        try:
            for number, request in enumerate(script.requests):
                response = next(stream.call, None)
                if response is None:
                    return "OK", ""
                self._check(request, response)
                self._tally.count_answer(fuzzed=number >= script.right)
            if script.end != "closes":
                return None
            assert next(stream.call, None) is None, script
        except grpc.RpcError as error:
            self._tally.count_answer(fuzzed=True)
            return self._refused(refusal_of(error), script)
        return "OK", ""

    def _refused(self, refusal: Refusal, script: Script | None = None) -> tuple[str, str]:
        outcome = (refusal.code.name, refusal.reason)
        assert outcome in ALLOWED, (refusal, script)
        if outcome == MESSAGE_TOO_LARGE:
            assert script is not None
            assert max(map(len, script.requests)) >= OVERSIZED, (refusal, script)
        return outcome

    def _check(self, request: bytes, response: InferResponse) -> None:
        """An answer is only given to what was asked rightly, and says what follows from it."""
        try:
            asked = InferRequest.FromString(request)
        except DecodeError:
            raise AssertionError(f"{request!r} was answered with {response}") from None
        if asked.WhichOneof("request") == "open":
            self._fuzzer.remember(response.opened.session_id)
            assert len(response.opened.session_id) == 16
        else:
            step = asked.step
            assert asked.WhichOneof("request") == "step"
            assert is_right(step.hidden_states), step
            assert response.result.length == step.position + step.hidden_states.shape[0]


def is_right(tensor: Tensor) -> bool:
    """Whether a tensor is what SPEC.md wants of hidden states."""
    if tensor.dtype not in EXPONENTS or len(tensor.shape) != 2 or tensor.shape[1] != HIDDEN_SIZE:
        return False
    type_, exponent = EXPONENTS[tensor.dtype]
    if len(tensor.data) != tensor.shape[0] * HIDDEN_SIZE * np.dtype(type_).itemsize:
        return False
    bits = np.frombuffer(tensor.data, type_)
    return bits.size > 0 and not (bits & exponent == exponent).any()


@pytest.fixture
def fuzzed(talking_bundles: Path, tmp_path: Path) -> Iterator[Watched]:
    flags = ("--session-ttl", 1, "--max-sessions", 2000, "--max-open-wait", 1)
    logs = ("--log-level", "debug")
    with watched_server(talking_bundles / "server", tmp_path, *flags, *logs) as server:
        yield server


@pytest.mark.long
def test_no_request_harms_the_server_or_another_session(
    fuzzed: Watched, talking_manifest: Manifest
) -> None:
    tally = Tally()
    clients = [FuzzingClient(fuzzed, talking_manifest, number, tally) for number in range(CLIENTS)]
    rss = []
    with (
        healthy_session(fuzzed.address, talking_manifest) as healthy,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        for share in (SLOW_START, 1.0):
            runs = [pool.submit(client.run, round(share * REQUESTS)) for client in clients]
            for run in runs:
                run.result()
            rss.append(fuzzed.rss)
        healthy.wait_for_rounds(10)
    assert fuzzed.alive
    assert tally.answered >= REQUESTS
    assert set(tally.outcomes) >= REACHED, REACHED - set(tally.outcomes)

    eventually(lambda: fuzzed.load() == Load())
    assert fuzzed.metric("stip_kv_used_bytes") == 0
    assert rss[1] - rss[0] < MAX_GROWTH
    fuzzed.stop()
    fuzzed.assert_no_errors()


def test_the_fuzzer_draws_the_same_requests_from_the_same_seed(talking_manifest: Manifest) -> None:
    first, second, other = (Fuzzer(seed, talking_manifest) for seed in ("a", "a", "b"))
    drawn = [first.script() for _ in range(50)]
    assert drawn == [second.script() for _ in range(50)]
    assert drawn != [other.script() for _ in range(50)]
