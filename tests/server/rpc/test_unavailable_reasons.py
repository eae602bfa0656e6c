"""The reason with which a service refuses streams: the latest one, but draining is final."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from stip_server.auth.callers import Authenticator
from stip_server.engine.watchdog import Condition
from stip_server.errors import ServiceError, reason_name
from stip_server.rpc.open_streams import OpenStreams
from stip_server.server import ENGINE_REASONS


def reasons(*events: str) -> list[str | None]:
    """What is told after each of: a condition of the engine, "well", or "drain"."""

    async def run() -> list[str | None]:
        nobody: Any = SimpleNamespace(metrics=None, close=lambda _: None)
        streams = OpenStreams(nobody, nobody, Authenticator(), max_connections=1)
        told = []
        for each in events:
            if each == "well":
                streams.engine_recovered()
            elif each == "drain":
                await streams.drain()
            else:
                streams.engine_failed(ServiceError(ENGINE_REASONS[Condition[each]], "the engine"))
            error = streams._unavailable
            told.append(None if error is None else reason_name(error.reason))
        return told

    return asyncio.run(run())


def test_an_engine_that_is_stuck_may_get_well_or_die() -> None:
    assert reasons("STALLED", "well") == ["ENGINE_STALLED", None]
    assert reasons("STALLED", "DEAD") == ["ENGINE_STALLED", "ENGINE_DEAD"]


def test_a_server_that_drains_does_so_whatever_its_engine_does() -> None:
    assert reasons("drain", "DEAD", "well") == ["DRAINING"] * 3
    assert reasons("STALLED", "drain", "well") == ["ENGINE_STALLED", "DRAINING", "DRAINING"]
