"""The gateway's routes and middleware."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stip_client.errors import ClientError
from stip_client.gateway.access_log import AccessLog, LogWriter
from stip_client.gateway.caller_check import CallerCheck
from stip_client.gateway.errors import ApiError, from_client_error, invalid
from stip_client.gateway.http_connection import ClientGone, read_body, send_events, while_connected
from stip_client.gateway.openai_objects import ChatObjects, CompletionObjects, Json
from stip_client.gateway.requests import CompletionRequest, parse_chat, parse_completion
from stip_client.gateway.running_request import RunningRequest
from stip_client.gateway.served_model import ServedModel
from stip_client.gateway.settings import GatewaySettings


def make_app(model: ServedModel, settings: GatewaySettings, log: LogWriter) -> Starlette:
    """The ASGI application."""
    slots = ReplySlots(settings.max_concurrent)
    chats = _Completions(model, slots, parse_chat, ChatObjects)
    completions = _Completions(model, slots, parse_completion, CompletionObjects)
    routes = [
        *_model_routes(model),
        Route("/v1/chat/completions", chats, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
    ]
    middleware = [
        Middleware(AccessLog, log=log),
        Middleware(CallerCheck, key=settings.key, origins=settings.origins),
    ]
    if settings.origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
        middleware.append(cors)
    return Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={
            ApiError: _on_api_error,
            ClientError: _on_client_error,
            HTTPException: _on_http_exception,
            Exception: _on_unforeseen_error,
        },
    )


class ReplySlots:
    """Limits the choices that all requests generate at once. Refuses what exceeds the limit."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken = 0

    @contextmanager
    def reserve(self, choices: int) -> Iterator[None]:
        """Hold slots for some choices. Raises ApiError."""
        if choices > self._count:
            invalid("n", f"{choices} choices at once; this gateway makes at most {self._count}")
        if self._taken + choices > self._count:
            raise ApiError(
                429,
                f"{self._taken} replies are under way; this gateway makes at most {self._count} "
                "at once",
                code="too_many_requests",
                headers={"Retry-After": "1"},
            )
        self._taken += choices
        try:
            yield
        finally:
            self._taken -= choices


class _Completions:
    """POST /v1/chat/completions or /v1/completions; an ASGI application."""

    def __init__(
        self,
        model: ServedModel,
        slots: ReplySlots,
        parse: Callable[[bytes], CompletionRequest],
        objects: type[ChatObjects],
    ) -> None:
        self._model = model
        self._slots = slots
        self._parse = parse
        self._objects = objects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = self._parse(await read_body(receive))
            self._model.check_name(request.model)
            await while_connected(receive, self._answer(request, scope, receive, send))
        except ClientGone:
            pass

    async def _answer(
        self, request: CompletionRequest, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if request.stream:
            await send_events(self._chunks(request), send)
            return
        # release the slots before the answer arrives: the application may send its next request
        with self._slots.reserve(request.choices):
            whole = await (await self._prepare(request)).whole()
        await JSONResponse(whole)(scope, receive, send)

    async def _chunks(self, request: CompletionRequest) -> AsyncGenerator[Json, None]:
        with self._slots.reserve(request.choices):
            running = await self._prepare(request)
            async with aclosing(running.chunks()) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def _prepare(self, request: CompletionRequest) -> RunningRequest:
        objects = self._objects(
            self._model.name, self._model.token_text, include_usage=request.include_usage
        )
        return await RunningRequest.prepare(self._model, request, objects)


def _model_routes(model: ServedModel) -> list[Route]:
    described = {"id": model.name, "object": "model", "created": model.created, "owned_by": "stip"}

    async def health(_: Request) -> Response:
        """Report whether the STIP server answers."""
        try:
            await model.client.model_info()
        except ClientError as error:
            raise ApiError(503, str(error), code="server_unreachable") from error
        return JSONResponse({"status": "ok"})

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [described]})

    async def one(request: Request) -> Response:
        model.check_name(request.path_params["name"])
        return JSONResponse(described)

    paths = {"/health": health, "/v1/models": models, "/v1/models/{name:path}": one}
    return [Route(path, endpoint, methods=["GET"]) for path, endpoint in paths.items()]


async def _on_api_error(_: Request, error: Exception) -> Response:
    return cast(ApiError, error).response()


async def _on_client_error(_: Request, error: Exception) -> Response:
    return from_client_error(cast(ClientError, error)).response()


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Answer Starlette's own errors: no such path, or no such method."""
    error = cast(HTTPException, error)
    status = error.status_code
    if status == 405:
        message = f"{request.method} is not allowed here"
    else:
        message = "there is nothing at this path"
    return ApiError(status, message, headers=error.headers).response()


async def _on_unforeseen_error(_: Request, __: Exception) -> Response:
    return ApiError(500, "the gateway failed; its log says where", code="internal_error").response()
