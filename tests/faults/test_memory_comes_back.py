"""Memory of ended sessions comes back; a server without free memory refuses and goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from stip.v1.inference_pb2 import InferRequest
from stip.v1.manifest_pb2 import Manifest
from stip_model.cache.kv_cache import GROWTH, kv_bytes_per_token
from tests.support.servers.watched import Watched, watched_server
from tests.support.waiting import PATIENCE, eventually
from tests.support.wire.requests import (
    WireStream,
    connection,
    logits_of,
    open_request,
    step_request,
)

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
SESSIONS = 1000
BATCH = 50
WARM_UP = 200
# MiB that the process may hold more than after the warm-up: the allocator keeps pages that it has
# cut up. The keys and values of the sessions are 180 MiB at least.
RSS_MARGIN = 48.0
LONG_WAIT = round(1000 * PATIENCE)  # ms
ROWS = (np.random.default_rng(5).integers(-127, 128, (700, 60)) / 64).astype(np.float16)


def prefill(length: int) -> InferRequest:
    return step_request(0, ROWS[:length])


# -- abandoned sessions --------------------------------------------------------------------------

# What clients have sent when they vanish, besides a prompt that was answered.
LAST_WORDS = (
    (),
    tuple(step_request(10 + each, ROWS[each : each + 1]) for each in range(6)),
    (),
    (step_request(10, ROWS),),  # a prompt, in the middle of which they vanish
)


def abandon(server: Watched, manifest: Manifest, sessions: int) -> None:
    """Open sessions, a batch at a time, and leave each without a word."""
    opening = open_request(manifest, max_length=768, wait_millis=LONG_WAIT)
    for _ in range(0, sessions, BATCH):
        with connection(server.address) as channel:
            batch = [WireStream(channel) for _ in range(BATCH)]
            for stream in batch:
                stream.send(opening, prefill(10))
            # the last ones are gone before the server can have answered
            for stream in batch[: -BATCH // 10]:
                stream.opened()
                stream.result()
            for number, stream in enumerate(batch):
                stream.send(*LAST_WORDS[number % len(LAST_WORDS)])
                stream.break_off()


def settle(server: Watched) -> tuple[float, float]:
    """Wait until no session is left; the bytes in arrays and the process's MiB then."""
    eventually(lambda: server.metric("stip_sessions", state="parked") == 0)
    assert server.metric("stip_sessions", state="attached") == 0
    assert server.metric("stip_kv_reserved_bytes") == 0
    assert server.metric("stip_waiting_steps") == server.metric("stip_waiting_opens") == 0
    # the engine drops the caches of sessions that have ended before its next iteration
    eventually(lambda: server.metric("stip_kv_used_bytes") == 0)
    return server.metric("stip_mlx_active_memory_bytes"), server.rss


def test_after_a_thousand_abandoned_sessions_memory_is_back_where_it_was(
    talking_bundles: Path, talking_manifest: Manifest, tmp_path: Path
) -> None:
    limits = ("--session-ttl", 0.5, "--max-sessions", 2 * BATCH)
    with watched_server(talking_bundles / "server", tmp_path, *limits) as server:
        abandon(server, talking_manifest, WARM_UP)
        active, rss = settle(server)
        abandon(server, talking_manifest, SESSIONS)
        active_after, rss_after = settle(server)
        ended = sum(
            server.metric("stip_sessions_ended_total", cause=cause)
            for cause in ("closed", "expired", "evicted", "failed")
        )
        assert ended >= (WARM_UP + SESSIONS) * 9 / 10
        assert active_after == active
        assert rss_after < rss + RSS_MARGIN
        server.assert_no_errors()
        server.stop()


# -- no room left --------------------------------------------------------------------------------


@pytest.fixture
def small_server(
    talking_bundles: Path, talking_manifest: Manifest, tmp_path: Path
) -> Iterator[Callable[..., Watched]]:
    """Starts a server with memory for four pieces of keys and values."""
    contexts = []

    def start(*arguments: object) -> Watched:
        size = 4 * GROWTH * kv_bytes_per_token(talking_manifest.model, itemsize=4)
        contexts.append(
            watched_server(
                talking_bundles / "server", tmp_path, "--kv-memory", f"{size}B", *arguments
            )
        )
        return contexts[-1].__enter__()

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


def opening(manifest: Manifest, pieces: int, **changes: object) -> InferRequest:
    return open_request(manifest, max_length=pieces * GROWTH, **changes)


def last_logits(stream: WireStream, steps: int = 5) -> NDArray[np.float32]:
    """Decode some tokens after a prompt of 10; the last one's logits."""
    for position in range(10, 10 + steps):
        stream.send(step_request(position, ROWS[position : position + 1]))
    return logits_of([stream.result() for _ in range(steps)][-1])


def test_without_room_an_open_is_refused_at_once_and_running_sessions_are_not_harmed(
    small_server: Callable[..., Watched], talking_manifest: Manifest
) -> None:
    server = small_server()
    with connection(server.address) as channel, WireStream(channel) as running:
        running.send(opening(talking_manifest, 3), prefill(10)).opened()
        running.result()
        undisturbed = last_logits(running)
        for _ in range(20):
            refusal = WireStream(channel).send(opening(talking_manifest, 2)).refusal()
            assert (refusal.code, refusal.reason) == (EXHAUSTED, "KV_MEMORY")
            assert refusal.retry_after is not None and refusal.retry_after > 0
            np.testing.assert_allclose(last_logits(running), undisturbed, rtol=1e-5, atol=1e-4)
        assert server.metric("stip_rejections_total", reason="KV_MEMORY") == 20
        with WireStream(channel) as fitting:
            fitting.send(opening(talking_manifest, 1)).opened()
            assert server.metric("stip_kv_free_bytes") == 0


def test_an_open_waits_as_long_as_it_says_and_is_then_refused(
    small_server: Callable[..., Watched], talking_manifest: Manifest
) -> None:
    server = small_server()
    with connection(server.address) as channel, WireStream(channel) as running:
        running.send(opening(talking_manifest, 4), prefill(10)).opened()
        began = monotonic()
        refusal = WireStream(channel).send(opening(talking_manifest, 1, wait_millis=300)).refusal()
        assert monotonic() - began >= 0.3
        assert (refusal.code, refusal.reason) == (EXHAUSTED, "KV_MEMORY")
        assert refusal.retry_after is not None
        assert running.result().length == 10
        assert server.load().waiting_opens == 0


def test_an_open_that_waits_is_admitted_when_another_session_closes(
    small_server: Callable[..., Watched], talking_manifest: Manifest
) -> None:
    server = small_server()
    with connection(server.address) as channel:
        first = WireStream(channel).send(opening(talking_manifest, 4))
        first.opened()
        waiting = WireStream(channel)
        waiting.send(opening(talking_manifest, 3, wait_millis=LONG_WAIT), prefill(10))
        eventually(lambda: server.load().waiting_opens == 1)
        assert server.load().sessions == 1
        first.close()
        with waiting:
            assert waiting.opened().max_length == 3 * GROWTH
            assert waiting.result().length == 10


def test_a_session_that_cannot_fit_at_all_is_not_told_to_retry(
    small_server: Callable[..., Watched], talking_manifest: Manifest
) -> None:
    server = small_server()
    with connection(server.address) as channel:
        request = open_request(talking_manifest, max_length=4 * GROWTH + 1, wait_millis=LONG_WAIT)
        refusal = WireStream(channel).send(request).refusal()
        assert (refusal.code, refusal.reason) == (
            *(grpc.StatusCode.OUT_OF_RANGE, "CONTEXT_OVERFLOW"),
        )
        assert refusal.retry_after is None
        with WireStream(channel) as fitting:
            fitting.send(opening(talking_manifest, 4)).opened()


def test_the_least_recently_used_of_idle_sessions_makes_room(
    small_server: Callable[..., Watched], talking_manifest: Manifest
) -> None:
    server = small_server("--session-ttl", 1)
    with connection(server.address) as channel:
        names = "first", "second", "third"
        streams = {name: WireStream(channel) for name in names}
        for stream in streams.values():
            stream.send(opening(talking_manifest, 1), prefill(10)).opened()
            stream.result()
        for name in ("first", "third"):
            streams[name].send(step_request(10, ROWS[10:11])).result()
        with WireStream(channel) as newcomer:
            # until the first one of the three counts as idle
            newcomer.send(opening(talking_manifest, 2, wait_millis=LONG_WAIT)).opened()
            evicted = streams["second"].refusal()
            assert (evicted.code, evicted.reason) == (grpc.StatusCode.NOT_FOUND, "EVICTED")
            assert server.metric("stip_sessions_ended_total", cause="evicted") == 1
            for name in ("first", "third"):
                assert streams[name].send(step_request(11, ROWS[11:12])).result().length == 12
                streams[name].close()
