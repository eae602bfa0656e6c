"""Hundreds of malformed, altered and out-of-order requests over real connections, from one seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import grpc
import numpy as np
import pytest

from stip.v1.inference_pb2 import InferRequest, LogitsRequest
from stip.v1.manifest_pb2 import Manifest
from stip.v1.tensor_pb2 import Tensor
from tests.parties import Server, server_process
from tests.robustness.command_line import assert_no_traceback
from tests.robustness.wire import (
    CLOSE,
    WireStream,
    connection,
    logits_of,
    open_request,
    refusal_of,
    step_request,
)

SEED = 20_240_229
STREAMS = 110  # of about three requests each
DEADLINE = 3.0
DOCUMENTED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.NOT_FOUND,
}
ROWS = (np.arange(180).reshape(3, 60) % 64 / 64).astype(np.float16)


@pytest.fixture(scope="module")
def fuzzed_server(model: Path) -> Iterator[Server]:
    with server_process(model / "server", "--session-ttl", 1) as server:
        yield server


class Fuzzer:
    """Draws requests: right ones, odd ones, altered ones and bytes of no meaning."""

    def __init__(self, seed: int, manifest: Manifest) -> None:
        self.random = Random(seed)
        self._manifest = manifest

    def stream(self) -> list[bytes]:
        """The requests of one stream; most begin as they should."""
        count = self.random.randint(1, 4)
        first = open_request(self._manifest).SerializeToString()
        begins_right = self.random.random() < 0.75
        return [first] * begins_right + [self.request() for _ in range(count)]

    def request(self) -> bytes:
        kinds = (self._step, self._odd_step, self._open, self._close, self._altered, self._noise)
        return self.random.choices(kinds, weights=(4, 2, 2, 1, 2, 2))[0]()

    def _step(self) -> bytes:
        """A right step, though perhaps not at a right position."""
        return step_request(self.random.choice((0, 0, 1, 3, 4, 6)), ROWS).SerializeToString()

    def _odd_step(self) -> bytes:
        draw = self.random
        shape = [
            draw.choice((0, 1, 3, 59, 60, 2**31, 2**32 - 1))
            for _ in range(draw.choice((0, 1, 2, 2, 3)))
        ]
        data = draw.choice((b"", ROWS.tobytes(), draw.randbytes(draw.choice((1, 120, 240, 360)))))
        tensor = Tensor(dtype=draw.randint(0, 6), shape=shape, data=data)
        logits = LogitsRequest(
            rows=draw.randint(0, 5),
            dtype=draw.randint(0, 6),
            top_k=draw.choice((0, 1, 5, 2**32 - 1)),
        )
        position = draw.choice((0, 3, 2**32 - 1))
        return step_request(
            position, tensor=tensor, logits=logits, echo=draw.random() < 0.2
        ).SerializeToString()

    def _open(self) -> bytes:
        draw = self.random
        changes = {
            "key_id": draw.choice((self._manifest.key_id, "", "0" * 32)),
            "max_length": draw.choice((0, 1, 5, 2**32 - 1)),
            "resume_session_id": draw.choice((b"", b"", draw.randbytes(16))),
        }
        return open_request(self._manifest, **changes).SerializeToString()

    def _close(self) -> bytes:
        return CLOSE.SerializeToString()

    def _altered(self) -> bytes:
        """A right request with some bytes replaced, removed or doubled."""
        content = bytearray(self.random.choice((self._step, self._open))())
        for _ in range(self.random.randint(1, 6)):
            at = self.random.randrange(min(len(content), 80))
            match self.random.randrange(3):
                case 0:
                    content[at] = self.random.randrange(256)
                case 1:
                    del content[at:]
                    content.append(0)
                case 2:
                    content[at:at] = content[at : at + 5]
        return bytes(content)

    def _noise(self) -> bytes:
        return self.random.randbytes(self.random.choice((0, 1, 2, 10, 100, 5000)))


def send(server: Server, requests: list[bytes], *, closes: bool) -> str:
    """Send one stream's requests; the name of the status that ends it."""
    with connection(server.address) as channel:
        stream = WireStream(channel, deadline=DEADLINE).send(*requests)
        try:
            if closes:
                stream.half_close()
                return "OK"
            for _ in requests:
                if next(stream.call, None) is None:
                    break
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            assert refusal.code in DOCUMENTED, (refusal, requests)
            assert refusal.reason, (refusal, requests)
            return refusal.code.name
        stream.break_off()
        return "broken off"


def test_no_request_harms_the_server_or_another_session(
    fuzzed_server: Server, manifest: Manifest
) -> None:
    fuzzer = Fuzzer(SEED, manifest)
    outcomes: Counter[str] = Counter()
    sent = 0
    with connection(fuzzed_server.address) as channel, WireStream(channel, deadline=120) as healthy:
        healthy.send(open_request(manifest), step_request(0, ROWS))
        healthy.opened()
        before = logits_of(healthy.result())
        for _ in range(STREAMS):
            requests = fuzzer.stream()
            sent += len(requests)
            outcomes[send(fuzzed_server, requests, closes=fuzzer.random.random() < 0.7)] += 1
        after = logits_of(healthy.send(step_request(0, ROWS)).result())
        np.testing.assert_array_equal(after, before)
        longer = healthy.send(step_request(3, ROWS)).result()
        assert longer.length == 6
    assert fuzzed_server.process.poll() is None
    assert sent >= 300
    # the seed reaches every kind of answer, or the test proves little
    assert {"OK", "INVALID_ARGUMENT", "OUT_OF_RANGE", "FAILED_PRECONDITION"} <= set(outcomes)

    fuzzed_server.process.terminate()
    stderr = fuzzed_server.process.communicate(timeout=60)[1]
    assert fuzzed_server.process.returncode == 0
    assert_no_traceback(stderr)


def test_the_fuzzer_draws_the_same_requests_from_the_same_seed(manifest: Manifest) -> None:
    first, second = Fuzzer(SEED, manifest), Fuzzer(SEED, manifest)
    assert [first.stream() for _ in range(50)] == [second.stream() for _ in range(50)]
    assert InferRequest.FromString(open_request(manifest).SerializeToString()).open.key_id
