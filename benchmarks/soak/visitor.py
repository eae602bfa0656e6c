"""One client in a seeded random loop: it comes, uses sessions in every way, and leaves."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random
from threading import Event
from time import monotonic, sleep

import grpc

from benchmarks.soak.held_session import Held
from benchmarks.soak.malformed import Wrong, wrong_first, wrong_later
from benchmarks.soak.tally import Tally
from benchmarks.soak.texts import Text
from stip.v1.inference_pb2 import ForkPoint, InferRequest, SessionOpened
from stip.v1.manifest_pb2 import Manifest
from tests.support.wire.requests import WireStream, connection, open_request, refusal_of

DEADLINE = 60.0  # a stream that lasts longer hangs
NO_ROOM = (grpc.StatusCode.RESOURCE_EXHAUSTED,)
HOARD_EVERY = 10  # visits


class Visitor:
    """Visits the server until told to stop. What it does depends on its seed and the answers."""

    def __init__(
        self,
        address: str,
        manifest: Manifest,
        texts: Sequence[Text],
        tally: Tally,
        *,
        seed: str,
        hoards: bool,
    ) -> None:
        """A visitor that hoards takes all the room there is in every tenth visit."""
        self._address = address
        self._manifest = manifest
        self._texts = texts
        self._tally = tally
        self._random = Random(seed)
        self._hoards = hoards
        self._visits = 0

    def run(self, stop: Event) -> None:
        """Come and go. Raises what no server should make a client raise."""
        while not stop.is_set():
            with connection(self._address) as channel:
                for _ in range(self._random.randint(1, 5)):
                    if not stop.is_set():
                        self._visit(channel)
                        stop.wait(self._random.random() * 0.2)

    def _visit(self, channel: grpc.Channel) -> None:
        self._visits += 1
        self._tally.count("visits")
        try:
            if self._hoards and self._visits % HOARD_EVERY == 1:
                self._hoard(channel)
            elif self._random.random() < 0.05:
                self._begin_wrongly(channel)
            else:
                self._use_a_session(channel)
        except grpc.RpcError as error:
            # where a status may come it is caught; here none may
            self._tally.refused("a right request", refusal_of(error))

    def _use_a_session(self, channel: grpc.Channel) -> None:
        held = self._open(channel, self._random.choice(self._texts))
        if held is None:
            return
        held.prefill()
        for _ in range(self._random.randint(1, 8)):
            match self._random.choices(
                ("decode", "roll back", "fork", "drop", "wrong"), weights=(10, 4, 3, 3, 1)
            )[0]:
                case "decode":
                    held.decode()
                case "roll back":
                    held.roll_back()
                case "fork":
                    self._fork(channel, held)
                case "drop":
                    if not self._drop(channel, held):
                        return
                case "wrong":
                    if not self._ask_wrongly(channel, held):
                        return
        held.leave()

    # -- beginning -------------------------------------------------------------------------

    def _open(self, channel: grpc.Channel, text: Text) -> Held | None:
        """Open a session for a text, usually of just that length; None if there is no room."""
        needed = len(text.tokens)
        request = open_request(
            self._manifest,
            max_length=self._random.choices((needed, self._limit), weights=(4, 1))[0],
            wait_millis=self._random.choice((0, 0, 200, 2000)),
        )
        stream = WireStream(channel, deadline=DEADLINE)
        opened = self._opened("opened", stream, request, NO_ROOM)
        if opened is None:
            return None
        if opened.length or opened.max_length < needed:
            self._tally.fail(f"opened with {opened.length} of {opened.max_length} tokens")
        return Held(stream, opened, text, self._tally, self._random)

    def _fork(self, channel: grpc.Channel, held: Held) -> None:
        """Fork the session; one of the two is used for a while and left, the other goes on."""
        length = self._random.choice((0, self._random.randint(1, held.length)))
        request = open_request(
            self._manifest,
            max_length=len(held.text.tokens),
            fork=ForkPoint(session_id=held.opened.session_id, length=length),
            wait_millis=self._random.choice((0, 200)),
        )
        stream = WireStream(channel, deadline=DEADLINE)
        opened = self._opened("forked", stream, request, NO_ROOM)
        if opened is None:
            return
        length = length or held.length
        if opened.length != length:
            self._tally.fail(f"a fork of {length} tokens holds {opened.length}")
        child = Held(stream, opened, held.text, self._tally, self._random, length)
        child.prefill()
        if self._random.random() < 0.5:
            child.stream, held.stream = held.stream, child.stream
            child.opened, held.opened = held.opened, child.opened
            child.length, held.length = held.length, child.length
        child.decode()
        child.leave()

    def _hoard(self, channel: grpc.Channel) -> None:
        """Open sessions of the greatest length until there is no room, then close them all."""
        request = open_request(self._manifest, max_length=self._limit)
        streams: list[WireStream] = []
        while len(streams) <= 1000:
            stream = WireStream(channel, deadline=DEADLINE)
            if self._opened("opened to hoard", stream, request, NO_ROOM) is None:
                break
            streams.append(stream)
        else:
            self._tally.fail(f"{len(streams)} sessions were opened, and none refused")
        sleep(self._random.random())
        for stream in streams:
            stream.close()

    def _opened(
        self,
        action: str,
        stream: WireStream,
        request: InferRequest,
        allowed: Collection[grpc.StatusCode],
    ) -> SessionOpened | None:
        """Begin a stream; None where it was refused with a status that may come there."""
        try:
            opened = stream.send(request).opened()
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            self._tally.refused(action, refusal, allowed)
            stream.break_off()
            sleep(min(refusal.retry_after or 0.0, 1.0) * self._random.random())
            return None
        self._tally.count(action)
        return opened

    @property
    def _limit(self) -> int:
        """The greatest length of a session: the server is started with the model's."""
        return int(self._manifest.model.max_position_embeddings)

    # -- broken streams --------------------------------------------------------------------

    def _drop(self, channel: grpc.Channel, held: Held) -> bool:
        """Lose the connection, at times with a step under way, and resume, now and then too late.

        At times the connection only seems lost: the resumed session is taken over.
        """
        under_way = not held.complete and self._random.random() < 0.5
        if under_way:
            held.send_one()
        previous, lost_at = held.stream, monotonic()
        taken_over = self._random.random() < 0.25
        late = not taken_over and self._random.random() < 0.03
        if not taken_over:
            previous.break_off()
        sleep(held.time_to_live + 1.0 if late else self._random.random() * 0.3)
        if not self._resume(channel, held, lost_at, under_way=under_way):
            return False
        if late:
            self._tally.fail(f"a session was resumed {monotonic() - lost_at:.1f} s after its loss")
        if taken_over:
            self._tally.refused("taken over", previous.refusal(), (grpc.StatusCode.ABORTED,))
        return True

    def _resume(
        self, channel: grpc.Channel, held: Held, lost_at: float, *, under_way: bool
    ) -> bool:
        """Resume the session; a step under way may or may not have been computed."""
        stream = WireStream(channel, deadline=DEADLINE)
        request = open_request(self._manifest, resume_session_id=held.opened.session_id)
        expired = monotonic() - lost_at >= held.time_to_live
        allowed = (grpc.StatusCode.NOT_FOUND,) if expired else ()
        opened = self._opened("resumed", stream, request, allowed)
        if opened is None:
            return False
        held.stream, held.opened = stream, opened
        if under_way and opened.length == held.length + 1:
            if self._random.random() < 0.5:
                held.length += 1
            else:  # the lost answer is wanted
                held.step(held.length, held.length + 1)
        elif opened.length != held.length:
            self._tally.fail(f"resumed with {opened.length} instead of {held.length} tokens")
        return True

    # -- wrong requests --------------------------------------------------------------------

    def _begin_wrongly(self, channel: grpc.Channel) -> None:
        wrong = wrong_first(self._manifest, self._limit, self._random.randbytes(16))
        self._refuse(WireStream(channel, deadline=DEADLINE), self._random.choice(wrong))

    def _ask_wrongly(self, channel: grpc.Channel, held: Held) -> bool:
        """Ask for something impossible, and resume the session, which must stand where it stood."""
        wrong = wrong_later(self._manifest, held.length, held.opened.max_length)
        self._refuse(held.stream, self._random.choice(wrong))
        return self._resume(channel, held, monotonic(), under_way=False)

    def _refuse(self, stream: WireStream, wrong: Wrong) -> None:
        self._tally.count("wrong requests")
        self._tally.refused(wrong.name, stream.send(wrong.request).refusal(), wrong.allowed)
