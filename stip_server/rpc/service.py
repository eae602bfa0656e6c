"""The gRPC service: model information, streams, draining, and errors as statuses."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from stip.v1 import inference_pb2
from stip.v1.errors_pb2 import ErrorReason
from stip.v1.inference_pb2 import (
    GetModelInfoRequest,
    GetModelInfoResponse,
    InferRequest,
    Load,
)
from stip_model.loading import wire_dtype
from stip_server import __version__
from stip_server.auth.callers import Authenticator, Caller
from stip_server.errors import ServiceError, reason_name
from stip_server.observe.logs import event, session_label
from stip_server.rpc.call_messages import read, write
from stip_server.rpc.grpc_status import to_grpc_status
from stip_server.rpc.stream import Backend, Stream
from stip_server.sessions.admission import Admission
from stip_server.sessions.back_pressure.connections import cut_off

log = logging.getLogger(__name__)

# Streams at once, sessions or not.
MAX_CALLS = 4096
# Seconds by which a client may lag behind in reading while others wait for the memory it takes.
READ_TIMEOUT = 20.0
SERVICE: str = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name


@dataclass(eq=False)
class _Call:
    """An Infer call under way."""

    stream: Stream
    caller: Caller
    peer: str


class InferenceService:
    """Serves one engine. All of it runs on the event loop's thread."""

    def __init__(
        self,
        backend: Backend,
        admission: Admission,
        authenticator: Authenticator,
        *,
        max_connections: int,
    ) -> None:
        self._backend = backend
        self._admission = admission
        self._authenticator = authenticator
        self._metrics = backend.metrics
        self._max_connections = max_connections
        self._calls: set[_Call] = set()
        # why no stream is served at present
        self._unavailable: ServiceError | None = None

    def add_to(self, server: Any) -> None:
        """Register the methods.

        The generated registration would answer a malformed message with UNKNOWN and the name of a
        Python exception; this one lets the stream answer it.
        """
        handlers = {
            "GetModelInfo": grpc.unary_unary_rpc_method_handler(
                self.get_model_info,
                request_deserializer=_parse_info,
                response_serializer=GetModelInfoResponse.SerializeToString,
            ),
            "Infer": grpc.stream_stream_rpc_method_handler(
                self.infer,
                request_deserializer=_parse,
                response_serializer=None,  # bytes, so that no message is held beside them
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def get_model_info(
        self, request: GetModelInfoRequest | None, context: Any
    ) -> GetModelInfoResponse:
        """What is served, within which limits, and how busy the server is."""
        try:
            self._authenticator.identify(context)
            if request is None:
                raise ServiceError(
                    ErrorReason.ERROR_REASON_MALFORMED, "the message is not a GetModelInfoRequest"
                )
        except ServiceError as error:
            await self._refuse(error, context, None)
        engine, sessions = self._backend.engine, self._backend.sessions
        manifest = engine.manifest
        return GetModelInfoResponse(
            model=manifest.model,
            scheme=manifest.scheme,
            head=manifest.head,
            key_id=manifest.key_id,
            bundle_id=manifest.bundle_id,
            dtype=manifest.dtype,
            compute_dtype=wire_dtype(engine.dtype),
            limits=self._backend.limits,
            server_version=__version__,
            load=Load(
                sessions=len(sessions),
                waiting_opens=len(self._admission),
                waiting_steps=engine.waiting_steps,
                kv_bytes_reserved=sessions.kv_bytes_reserved,
            ),
        )

    async def infer(self, requests: Any, context: Any) -> None:
        """One stream, which is one session; answers are InferResponses as bytes."""
        del requests
        self._metrics.stream_opened()
        call = None
        try:
            caller = self._authenticator.identify(context)
            call = self._admit(caller, context.peer())
            await call.stream.run(partial(read, context), partial(write, context))
        except ServiceError as error:
            await self._refuse(error, context, call)
        finally:
            if call is not None:
                self._calls.discard(call)

    def peers_with_sessions(self) -> set[str]:
        """The connections that have a stream which holds a session."""
        return {call.peer for call in self._calls if not call.stream.let_go.is_set()}

    async def drain(self) -> None:
        """Refuse new streams; end each running one once the steps it has read are answered.

        Returns when all that hold a session have ended.
        """
        self._unavailable = _draining_error()
        self._admission.close(self._unavailable)
        for call in self._calls:
            call.stream.interrupt(self._unavailable)
        await asyncio.gather(*(call.stream.let_go.wait() for call in self._calls))

    def abandon(self) -> None:
        """End every stream at once, steps that are under way unanswered."""
        for call in self._calls:
            call.stream.abandon(_draining_error())

    def engine_failed(self, error: ServiceError) -> None:
        """End every stream with `error`, and refuse new ones, until the engine is well again."""
        if (
            self._unavailable is None
            or self._unavailable.reason != ErrorReason.ERROR_REASON_DRAINING
        ):
            self._unavailable = error
        for call in self._calls:
            call.stream.abandon(error)

    def engine_recovered(self) -> bool:
        """Take streams again, unless the server is draining; whether they are taken."""
        if (
            self._unavailable is not None
            and self._unavailable.reason != ErrorReason.ERROR_REASON_DRAINING
        ):
            self._unavailable = None
        return self._unavailable is None

    def tokens_changed(self) -> None:
        """End the streams whose token no longer counts, whatever is under way."""
        for call in self._calls:
            if not self._authenticator.still_valid(call.caller):
                revoked = ServiceError(
                    ErrorReason.ERROR_REASON_TOKEN_REVOKED, "the token no longer counts"
                )
                call.stream.abandon(revoked)
        # nobody can resume them, and they would keep their room from others
        self._backend.sessions.close_of(self._authenticator.is_gone)

    def cut_off_slow_readers(self) -> None:
        """Where others need the memory, end the connections of those who leave answers unread."""
        needed = any(call.stream.waits_for_others for call in self._calls)
        if not (needed or self._backend.sessions.answer_memory.overdrawn):
            return
        for peer in {call.peer for call in self._calls if call.stream.lag > READ_TIMEOUT}:
            if cut_off(peer):
                self._metrics.connection_cut_off()
                event(log, logging.WARNING, "a client that does not read was cut off", peer=peer)

    def _admit(self, caller: Caller, peer: str) -> _Call:
        if self._unavailable is not None:
            raise self._unavailable
        peers = Counter(call.peer for call in self._calls)
        if peer not in peers and len(peers) >= self._max_connections:
            raise ServiceError(
                ErrorReason.ERROR_REASON_TOO_MANY_CONNECTIONS,
                f"{self._max_connections} connections have streams already",
                retry_after=1.0,
            )
        if len(self._calls) >= MAX_CALLS:
            raise ServiceError(
                ErrorReason.ERROR_REASON_TOO_MANY_STREAMS,
                f"{MAX_CALLS} streams are open already",
                retry_after=1.0,
            )
        call = _Call(Stream(self._backend, caller.identity), caller, peer)
        self._calls.add(call)
        return call

    async def _refuse(self, error: ServiceError, context: Any, call: _Call | None) -> None:
        """End a call with the status of an error."""
        self._metrics.rejected(error.reason)
        session = call.stream.session if call is not None else None
        event(
            log,
            logging.ERROR if error.code is grpc.StatusCode.INTERNAL else logging.INFO,
            "call refused" if session is None else "stream ended",
            peer=context.peer(),
            identity=call.caller.identity if call is not None else None,
            session=session_label(session.id) if session is not None else None,
            status=error.code.name,
            reason=reason_name(error.reason),
            detail=str(error),
        )
        await context.abort_with_status(to_grpc_status(error))


def _parse(message: bytes) -> InferRequest | None:
    try:
        return InferRequest.FromString(message)
    except DecodeError:
        return None


def _parse_info(message: bytes) -> GetModelInfoRequest | None:
    try:
        return GetModelInfoRequest.FromString(message)
    except DecodeError:
        return None


def _draining_error() -> ServiceError:
    return ServiceError(ErrorReason.ERROR_REASON_DRAINING, "the server is shutting down")
