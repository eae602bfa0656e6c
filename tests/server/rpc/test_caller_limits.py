"""Limits of one caller, one stream and one connection; other callers do not notice them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import grpc
import numpy as np
import pytest

from stip.v1.inference_pb2 import InferRequest
from stip.v1.manifest_pb2 import Manifest
from stip_model.cache.kv_cache import GROWTH, kv_bytes_per_token
from tests.support.parties import Server
from tests.support.servers.failpoints import faulty_server
from tests.support.servers.guarded import bearer, write_tokens
from tests.support.servers.watched import Watched, watched_server
from tests.support.waiting import eventually
from tests.support.wire.requests import Refusal, WireStream, connection, open_request, step_request

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
TOKENS = {name: f"{name}-token-0123456789" for name in ("ann", "bob")}
ROWS = np.ones((300, 60), np.float16)


@pytest.fixture
def shared_server(talking_bundles: Path, tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    """Starts a server for Ann and Bob, with limits for each."""
    contexts = []
    tokens = write_tokens(
        tmp_path / "tokens", "".join(f"{name} {token}\n" for name, token in TOKENS.items())
    )

    def start(*arguments: object) -> Watched:
        contexts.append(
            watched_server(talking_bundles / "server", tmp_path, "--token-file", tokens, *arguments)
        )
        return contexts[-1].__enter__()

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


@pytest.fixture
def opening(talking_manifest: Manifest) -> Callable[..., InferRequest]:
    def request(pieces: int = 1, **changes: object) -> InferRequest:
        return open_request(talking_manifest, max_length=pieces * GROWTH, **changes)

    return request


def stream_of(name: str, channel: grpc.Channel) -> WireStream:
    return WireStream(channel, metadata=bearer(TOKENS[name]))


def refused(name: str, channel: grpc.Channel, request: InferRequest) -> Refusal:
    return stream_of(name, channel).send(request).refusal()


def test_a_caller_has_no_more_sessions_than_its_own_and_others_have_theirs(
    shared_server: Callable[..., Watched], opening: Callable[..., InferRequest]
) -> None:
    server = shared_server("--max-sessions-per-identity", 2)
    with connection(server.address) as channel:
        anns = [stream_of("ann", channel).send(opening()) for _ in range(2)]
        for stream in anns:
            stream.opened()
        refusal = refused("ann", channel, opening())
        assert (refusal.code, refusal.reason) == (EXHAUSTED, "CALLER_SESSIONS")
        assert refusal.retry_after is not None and refusal.retry_after > 0
        for _ in range(2):
            with stream_of("bob", channel) as bobs:
                bobs.send(opening()).opened()
        # a session that was lost still counts, and one that was closed does not
        anns[0].break_off()
        eventually(lambda: server.metric("stip_sessions", state="parked") == 1)
        assert refused("ann", channel, opening()).reason == "CALLER_SESSIONS"
        anns[1].close()
        with stream_of("ann", channel) as another:
            another.send(opening()).opened()


def test_a_caller_reserves_no_more_memory_than_its_own_and_others_have_theirs(
    shared_server: Callable[..., Watched],
    talking_manifest: Manifest,
    opening: Callable[..., InferRequest],
) -> None:
    piece = GROWTH * kv_bytes_per_token(talking_manifest.model, itemsize=4)
    server = shared_server(
        *("--kv-memory", f"{8 * piece}B", "--kv-memory-per-identity", f"{4 * piece}B")
    )
    with connection(server.address) as channel:
        with stream_of("ann", channel) as anns:
            anns.send(opening(3)).opened()
            refusal = refused("ann", channel, opening(2))
            assert (refusal.code, refusal.reason) == (EXHAUSTED, "CALLER_KV_MEMORY")
            assert refusal.retry_after is not None
            with stream_of("ann", channel) as fitting, stream_of("bob", channel) as bobs:
                fitting.send(opening(1)).opened()
                bobs.send(opening(4)).opened()
                assert server.metric("stip_kv_free_bytes") == 0
        # there would be room for it, but never for this caller: waiting would be in vain
        refusal = refused("ann", channel, opening(5, wait_millis=60_000))
        assert (refusal.code, refusal.reason) == (EXHAUSTED, "CALLER_KV_MEMORY")
        assert refusal.retry_after is None


def test_a_caller_computes_no_more_tokens_a_second_than_its_own(
    shared_server: Callable[..., Watched], opening: Callable[..., InferRequest]
) -> None:
    rate, step, steps = 400, 100, 5
    server = shared_server("--tokens-per-second", rate)
    with connection(server.address) as channel:
        began = monotonic()
        # by two streams at once: the limit is the caller's
        streams = [stream_of("ann", channel).send(opening(4)) for _ in range(2)]
        for number in range(steps):
            for stream in streams:
                stream.send(step_request(number * step, ROWS[:step]))
        for stream in streams:
            with stream:
                stream.opened()
                assert [stream.result().length for _ in range(steps)][-1] == steps * step
        seconds = monotonic() - began
        # one second's tokens are free, and each stream overdraws by a step at most
        assert 2 * steps * step <= rate * (seconds + 1) + 2 * step


def test_a_caller_that_is_held_back_holds_back_nobody_else(
    shared_server: Callable[..., Watched], opening: Callable[..., InferRequest]
) -> None:
    server = shared_server("--tokens-per-second", 1)
    with connection(server.address) as channel:
        anns = stream_of("ann", channel).send(opening(4), step_request(0, ROWS))
        anns.opened()
        anns.result()
        anns.send(step_request(300, ROWS[:1]))  # which 300 seconds will pay for
        eventually(lambda: server.metric("stip_held_back_seconds_total") > 200)
        held = server.metric("stip_held_back_seconds_total")
        with stream_of("bob", channel) as bobs:
            bobs.send(opening(), step_request(0, ROWS[:100]))
            bobs.opened()
            assert bobs.result().length == 100
        assert server.metric("stip_held_back_seconds_total") == held
        assert server.metric("stip_steps_total", outcome="ok") == 2
        # who goes away while it is held back is gone at once
        anns.break_off()
        eventually(lambda: server.metric("stip_sessions", state="attached") == 0)


def test_a_session_whose_step_is_held_back_is_not_idle(
    shared_server: Callable[..., Watched], opening: Callable[..., InferRequest]
) -> None:
    limits = ("--tokens-per-second", 1, "--session-ttl", 0.2, "--max-sessions", 1)
    server = shared_server(*limits)
    with connection(server.address) as channel:
        anns = stream_of("ann", channel).send(opening(4), step_request(0, ROWS))
        anns.opened()
        anns.result()
        anns.send(step_request(300, ROWS[:200]))  # which 300 seconds will pay for
        eventually(lambda: server.metric("stip_held_back_seconds_total") > 0)
        # for longer than the time to live
        told = refused("bob", channel, opening(wait_millis=1000))
        assert told.reason == "TOO_MANY_SESSIONS"
        anns.break_off()


def test_a_stream_has_no_more_steps_under_way_than_its_own_and_all_are_answered(
    talking_bundles: Path, talking_manifest: Manifest
) -> None:
    steps = 30
    with (
        faulty_server(talking_bundles / "server", ["slow=0.03"]) as server,
        connection(server.address) as channel,
        WireStream(channel) as stream,
    ):
        stream.send(open_request(talking_manifest))
        stream.send(*(step_request(position, ROWS[:1]) for position in range(steps)))
        most = stream.opened().limits.max_steps_in_flight
        lengths, waiting = [], []
        for _ in range(steps):
            waiting.append(Watched(server, Path(), "").load().waiting_steps)
            lengths.append(stream.result().length)
        assert lengths == list(range(1, steps + 1))
        assert max(waiting) <= most < steps


def test_a_connection_has_no_more_streams_than_its_own_and_others_have_theirs(
    own_server: Callable[..., Server], talking_manifest: Manifest
) -> None:
    server = own_server("--max-streams", 3)
    with connection(server.address) as channel, connection(server.address) as other:
        streams = [WireStream(channel).send(open_request(talking_manifest)) for _ in range(3)]
        for stream in streams:
            stream.opened()
        # the connection's own end holds it until there is room
        one_more = WireStream(channel, deadline=0.5).send(open_request(talking_manifest))
        with pytest.raises(grpc.RpcError) as held:
            one_more.opened()
        assert held.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with WireStream(other) as beside:
            beside.send(open_request(talking_manifest)).opened()
        waiting = WireStream(channel).send(open_request(talking_manifest))
        streams[0].close()
        with waiting:
            waiting.opened()
        for stream in streams[1:]:
            assert stream.send(step_request(0, ROWS)).result().length == 300
            stream.close()
