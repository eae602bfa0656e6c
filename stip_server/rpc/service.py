"""The gRPC methods of InferenceService, and errors as statuses."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from stip.v1 import inference_pb2
from stip.v1.errors_pb2 import ErrorReason
from stip.v1.inference_pb2 import GetModelInfoRequest, GetModelInfoResponse, InferRequest, Load
from stip_model.bundle.weight_types import WEIGHT_TYPES
from stip_server import __version__
from stip_server.auth.callers import Authenticator
from stip_server.errors import ServiceError, reason_name
from stip_server.observe.logs import event, session_label
from stip_server.rpc.call_messages import read, write
from stip_server.rpc.grpc_status import to_grpc_status
from stip_server.rpc.open_streams import OpenStreams
from stip_server.rpc.stream import Stream, StreamContext
from stip_server.sessions.admission import Admission

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
SERVICE: str = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name


class InferenceService:
    """Serves one engine. All of it runs on the event loop's thread."""

    def __init__(
        self,
        context: StreamContext,
        admission: Admission,
        authenticator: Authenticator,
        streams: OpenStreams,
    ) -> None:
        self._context = context
        self._admission = admission
        self._authenticator = authenticator
        self._streams = streams

    def add_to(self, server: Any) -> None:
        """Register the methods.

        The generated registration would answer a malformed message with UNKNOWN and the name of a
        Python exception. With this one the methods answer it.
        """
        handlers = {
            "GetModelInfo": grpc.unary_unary_rpc_method_handler(
                self.get_model_info,
                request_deserializer=partial(_parsed_or_none, GetModelInfoRequest),
                response_serializer=GetModelInfoResponse.SerializeToString,
            ),
            "Infer": grpc.stream_stream_rpc_method_handler(
                self.infer,
                request_deserializer=partial(_parsed_or_none, InferRequest),
                response_serializer=None,  # bytes, so that gRPC keeps no message next to them
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
        engine, sessions = self._context.engine, self._context.sessions
        manifest = engine.manifest
        return GetModelInfoResponse(
            model=manifest.model,
            scheme=manifest.scheme,
            head=manifest.head,
            key_id=manifest.key_id,
            bundle_id=manifest.bundle_id,
            dtype=manifest.dtype,
            compute_dtype=WEIGHT_TYPES[engine.operations.dtype].wire,
            limits=self._context.limits,
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
        self._context.metrics.streams_opened.inc()
        stream = None
        try:
            caller = self._authenticator.identify(context)
            stream = self._streams.add(caller, context.peer())
            await stream.run(partial(read, context), partial(write, context))
        except ServiceError as error:
            await self._refuse(error, context, stream)
        finally:
            if stream is not None:
                self._streams.remove(stream)

    async def _refuse(self, error: ServiceError, context: Any, stream: Stream | None) -> None:
        """End a call with the status of an error."""
        self._context.metrics.rejected(error.reason)
        session = stream.session if stream is not None else None
        event(
            log,
            logging.ERROR if error.code is grpc.StatusCode.INTERNAL else logging.INFO,
            "call refused" if session is None else "stream ended",
            peer=context.peer(),
            identity=stream.caller.identity if stream is not None else None,
            session=session_label(session.id) if session is not None else None,
            status=error.code.name,
            reason=reason_name(error.reason),
            detail=str(error),
        )
        await context.abort_with_status(to_grpc_status(error))


def _parsed_or_none(message_type: type[M], message: bytes) -> M | None:
    try:
        return message_type.FromString(message)
    except DecodeError:
        return None
