"""A stream whose answer is lost at the worst moment, which the network seldom produces."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from stip.v1.inference_pb2 import InferRequest, InferResponse, Limits, OpenSession
from stip.v1.manifest_pb2 import Head, Manifest
from stip_server.auth.callers import Caller
from stip_server.rpc.open_request import SessionOpener
from stip_server.rpc.stream import Stream, StreamContext
from stip_server.sessions.admission import Admission
from stip_server.sessions.back_pressure.answer_memory import AnswerMemory
from stip_server.sessions.quotas import Quotas
from stip_server.sessions.sessions import Sessions


def test_a_session_of_which_the_client_may_know_can_be_resumed() -> None:
    """The connection broke after the id had left, and before gRPC told so."""
    sent: list[bytes] = []

    async def receive() -> InferRequest:
        return InferRequest(open=OpenSession())

    async def send(answer: bytes) -> None:
        sent.append(answer)
        raise asyncio.CancelledError

    async def run() -> None:
        sessions = Sessions(
            Quotas(max_sessions=1, kv_bytes=100),
            AnswerMemory(0, 0),
            kv_bytes=lambda length: length,
            ttl=10.0,
            clock=lambda: 0.0,
            release=lambda _: None,
            ended=lambda _: None,
        )
        engine: Any = SimpleNamespace(
            manifest=Manifest(head=Head.HEAD_SERVER), cancel=lambda _: None
        )
        limits = Limits(max_length=100, default_length=100, max_steps_in_flight=1)
        opening = SessionOpener(engine, sessions, Admission(sessions), limits)
        nobody: Any = None
        stream = Stream(
            StreamContext(engine, sessions, opening, limits, nobody, nobody), Caller("me"), ""
        )
        with pytest.raises(asyncio.CancelledError):
            await stream.run(receive, send)
        told = InferResponse.FromString(sent[0]).opened.session_id
        assert sessions.find(told, "me").stream is None

    asyncio.run(run())
