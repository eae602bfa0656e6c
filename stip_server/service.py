"""The gRPC service: model information, streams, draining, and errors as statuses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from stip.v1 import inference_pb2
from stip.v1.inference_pb2 import (
    GetModelInfoRequest,
    GetModelInfoResponse,
    InferRequest,
    InferResponse,
    Limits,
)
from stip_server import __version__
from stip_server.engine import Engine
from stip_server.errors import ServiceError, Unavailable
from stip_server.loader import wire_dtype
from stip_server.sessions import Sessions
from stip_server.status import to_grpc_status
from stip_server.stream import Requests, Stream

log = logging.getLogger(__name__)

SERVICE: str = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name


class InferenceService:
    """Serves one engine. All of it runs on the event loop's thread."""

    def __init__(self, engine: Engine, sessions: Sessions, limits: Limits) -> None:
        self._engine = engine
        self._sessions = sessions
        self._limits = limits
        self._streams: set[Stream] = set()
        self._draining = False

    def add_to(self, server: Any) -> None:
        """Register the methods.

        The generated registration would answer a malformed message with UNKNOWN and the name of a
        Python exception; this one lets the stream answer it.
        """
        handlers = {
            "GetModelInfo": grpc.unary_unary_rpc_method_handler(
                self.get_model_info,
                request_deserializer=GetModelInfoRequest.FromString,
                response_serializer=GetModelInfoResponse.SerializeToString,
            ),
            "Infer": grpc.stream_stream_rpc_method_handler(
                self.infer,
                request_deserializer=_parse,
                response_serializer=InferResponse.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def get_model_info(self, _: GetModelInfoRequest, __: Any) -> GetModelInfoResponse:
        """What is served, and within which limits."""
        manifest = self._engine.manifest
        return GetModelInfoResponse(
            model=manifest.model,
            scheme=manifest.scheme,
            key_id=manifest.key_id,
            bundle_id=manifest.bundle_id,
            dtype=manifest.dtype,
            compute_dtype=wire_dtype(self._engine.dtype),
            limits=self._limits,
            server_version=__version__,
        )

    async def infer(self, requests: Requests, context: Any) -> AsyncIterator[InferResponse]:
        """One stream, which is one session."""
        stream = Stream(self._engine, self._sessions, self._limits)
        self._streams.add(stream)
        try:
            if self._draining:
                raise _draining_error()
            async with aclosing(stream.run(requests)) as responses:
                async for response in responses:
                    yield response
        except ServiceError as error:
            if error.code is grpc.StatusCode.INTERNAL:
                log.error("a session ended with %s", error)
            await context.abort_with_status(to_grpc_status(error))
        finally:
            self._streams.discard(stream)

    async def drain(self) -> None:
        """Refuse new streams; end each running one once the steps it has read are answered.

        Returns when all that hold a session have ended.
        """
        self._draining = True
        for stream in self._streams:
            stream.interrupt(_draining_error())
        await asyncio.gather(*(stream.let_go.wait() for stream in self._streams))

    def abandon(self) -> None:
        """End every stream at once, steps that are under way unanswered."""
        for stream in self._streams:
            stream.abandon(_draining_error())


def _parse(message: bytes) -> InferRequest | None:
    try:
        return InferRequest.FromString(message)
    except DecodeError:
        return None


def _draining_error() -> Unavailable:
    return Unavailable("DRAINING", "the server is shutting down")
