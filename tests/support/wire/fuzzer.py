"""Draws the requests of streams from a seed: right ones, and wrong ones in every way.

Right requests come in any order and at any position; of others one or more fields hold an odd
value, whatever the message's definition lists; of others the bytes are altered; some are noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from stip.v1.inference_pb2 import ForkPoint, InferRequest, LogitsRequest
from stip.v1.manifest_pb2 import Manifest
from stip.v1.tensor_pb2 import DataType
from tests.support.wire.requests import CLOSE, open_request, step_request, tensor_of

HIDDEN_SIZE = 60
ROWS = (np.arange(4 * HIDDEN_SIZE).reshape(4, HIDDEN_SIZE) % 64 / 64).astype(np.float16)
MAX_LENGTH = 64
# beyond what the server receives in one message
OVERSIZED = 1_200_000
NUMBERS = (0, 1, 2, 3, 5, 15, 59, 60, 61, 63, 64, 65, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
ENUMS = (0, 1, 2, 3, 4, 5, 9, 2**31 - 1, -1, -(2**31))
SIZES = (0, 1, 7, 15, 16, 17, 120, 121, 480, 481, 5000)
NAN, INFINITY = 0x7E00, 0xFC00
KNOWN_SESSIONS = 4


@dataclass(frozen=True)
class Script:
    """What one stream sends, how many of its requests are right for sure, and whether the client
    then `closes` its side, `breaks` off or `lingers` while other streams come and go."""

    requests: list[bytes]
    right: int
    end: str


class Fuzzer:
    """One client's requests. The ids of sessions that it resumes or forks are those that it was
    told of; what else it draws depends on the seed alone."""

    def __init__(self, seed: str, manifest: Manifest) -> None:
        self.random = Random(seed)
        self._manifest = manifest
        self._sessions = [self.random.randbytes(16) for _ in range(KNOWN_SESSIONS)]
        self._seen = 0

    def remember(self, session_id: bytes) -> None:
        """A session that exists, in the place of an older one."""
        self._sessions[self._seen % KNOWN_SESSIONS] = session_id
        self._seen += 1

    def script(self) -> Script:
        """The next stream; most begin as they should, and go wrong later."""
        draw = self.random
        right: list[InferRequest] = []
        begins = draw.random()
        if begins < 0.65:
            right.append(self._right_open(draw.choice((MAX_LENGTH, MAX_LENGTH, 3))))
        elif begins < 0.85:
            right.append(self._open())
        if right and draw.random() < 0.4:
            right.append(step_request(0, ROWS[: draw.randint(1, 3)]))
        fuzzed = [self.request() for _ in range(draw.randint(1, 4))]
        end = draw.choices(("closes", "breaks", "lingers"), weights=(5, 2, 3))[0]
        return Script([each.SerializeToString() for each in right] + fuzzed, len(right), end)

    def request(self) -> bytes:
        """One request, right or wrong."""
        kinds: tuple[Callable[[], bytes], ...] = (
            lambda: self._right().SerializeToString(),
            self._odd_field,
            self._not_finite,
            self._altered,
            self._two_in_one,
            self._noise,
            lambda: step_request(
                0, tensor=tensor_of(ROWS, data=bytes(OVERSIZED))
            ).SerializeToString(),
        )
        return self.random.choices(kinds, weights=(20, 30, 6, 14, 4, 8, 0.2))[0]()

    # -- right requests --------------------------------------------------------------------

    def _right(self) -> InferRequest:
        return self.random.choices((self._step, self._open, lambda: CLOSE), weights=(6, 3, 1))[0]()

    def _right_open(self, max_length: int = MAX_LENGTH) -> InferRequest:
        return open_request(self._manifest, max_length=max_length)

    def _open(self) -> InferRequest:
        """A new session, a resumed or a forked one."""
        known = self.random.choice(self._sessions)
        match self.random.randrange(3):
            case 0:
                return self._right_open()
            case 1:
                return open_request(self._manifest, resume_session_id=known)
        fork = ForkPoint(session_id=known, length=self.random.choice((0, 1, 3)))
        return open_request(self._manifest, max_length=MAX_LENGTH, fork=fork)

    def _step(self) -> InferRequest:
        """A right step, though perhaps not at a right position."""
        draw = self.random
        dtype = draw.choice((np.float16, np.float32))
        logits = LogitsRequest(rows=draw.randint(0, 3), top_k=draw.choice((0, 1, 5)))  # type: ignore[arg-type]
        rows = ROWS[: draw.randint(1, 4)].astype(dtype)
        return step_request(draw.choice((0, 0, 1, 3, 4, 6, 60)), rows, logits=logits)

    # -- wrong requests --------------------------------------------------------------------

    def _odd_field(self) -> bytes:
        """A right request of which one to three fields, at any depth, hold something odd."""
        request = InferRequest()
        request.CopyFrom(self._right())
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            message, field = self.random.choice(list(_fields(request)))
            self._set(message, field)
        return request.SerializeToString()

    def _set(self, message: Message, field: FieldDescriptor) -> None:
        draw = self.random
        if draw.random() < 0.15:
            message.ClearField(field.name)
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
        elif field.is_repeated:
            values = getattr(message, field.name)
            count = draw.choices((0, 1, 2, 3, 2000), weights=(2, 3, 6, 3, 1))[0]
            values[:] = draw.choices(NUMBERS, k=count)
            if draw.random() < 0.4:
                values[1:] = [HIDDEN_SIZE]
        else:
            setattr(message, field.name, self._value(field))

    def _value(self, field: FieldDescriptor) -> Any:
        draw = self.random
        match field.type:
            case FieldDescriptor.TYPE_BOOL:
                return draw.random() < 0.5
            case FieldDescriptor.TYPE_ENUM:
                return draw.choice(ENUMS)
            case FieldDescriptor.TYPE_STRING:
                text = draw.choice(("0", "é", "\0", "\n[31m", "𝔵", "%s{}"))
                return text * draw.choice((1, 32, 64, 20_000))
            case FieldDescriptor.TYPE_BYTES:
                return draw.randbytes(draw.choice(SIZES))
        return draw.choice(NUMBERS)

    def _not_finite(self) -> bytes:
        """A step with NaN or infinity among its values, whole or in the last bytes alone."""
        draw = self.random
        request = step_request(0, ROWS[: draw.randint(1, 4)])
        tensor = request.step.hidden_states
        values = np.frombuffer(tensor.data, np.uint16).copy()
        values[draw.choice((0, -1, slice(None)))] = draw.choice((NAN, INFINITY))
        tensor.data = values.tobytes()
        if draw.random() < 0.3:
            tensor.dtype = DataType.DATA_TYPE_BFLOAT16
        return request.SerializeToString()

    def _altered(self) -> bytes:
        """A right request with some bytes replaced, removed, doubled, or cut off."""
        draw = self.random
        content = bytearray(self._right().SerializeToString())
        for _ in range(draw.randint(1, 6)):
            # the beginning holds what gives the rest its meaning
            at = draw.randrange(min(len(content), draw.choice((8, 80, 2000))) or 1)
            match draw.randrange(5):
                case 0:
                    content[at : at + 1] = draw.randbytes(1)
                case 1:
                    del content[at : at + draw.randint(1, 5)]
                case 2:
                    content[at:at] = content[at : at + 5]
                case 3:
                    content[at:at] = b"\xff\xff\xff\xff\x0f"  # a length of 4 GiB
                case 4:
                    del content[at:]
        return bytes(content)

    def _two_in_one(self) -> bytes:
        """Two requests in one message: the format joins them into one."""
        return self._right().SerializeToString() + self._right().SerializeToString()

    def _noise(self) -> bytes:
        draw = self.random
        match draw.randrange(3):
            case 0:
                return draw.randbytes(draw.choice((0, 1, 2, 10, 100, 5000)))
            case 1:
                return b"\x0a" * draw.choice((1, 50, 3000))  # a message in a message in ...
        # fields that no definition lists
        return b"\xf8\x7f\x01\xfa\x7f\x03abc" * draw.randint(1, 4)


def _fields(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    """Every field of a message and of those within it; what is not set counts as well."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
        if field.message_type is not None and message.HasField(field.name):
            yield from _fields(getattr(message, field.name))
