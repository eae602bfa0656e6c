"""The stream of one session: opening, resuming, exchanging steps and closing, without recovery."""

from __future__ import annotations

from itertools import islice
from time import monotonic

from stip_client.errors import ClientError, ConnectionLostError, SessionLostError
from stip_client.session.forward_call import ForwardCall, ForwardResult
from stip_client.session.session_core import CLOSE_REQUEST, SessionCore
from stip_client.transport.endpoint import CLOSE_TIMEOUT, Endpoint
from stip_client.transport.interface import Stream, Transport


class SessionStream:
    """At most one Infer call at a time, for one session.

    `endpoint` is the server that the session is on, or a fork's source.
    """

    def __init__(
        self, core: SessionCore, transport: Transport, timeout: float, endpoint: Endpoint | None
    ) -> None:
        """timeout: seconds that one answer may take."""
        self.endpoint = endpoint
        self._core = core
        self._transport = transport
        self._timeout = timeout
        self._call: Stream | None = None
        self._settled = True  # every request on the call has been answered
        self._reachable = True

    async def attach(self, endpoint: Endpoint, wait: float = 0.0) -> None:
        """Open or resume the session on a new call; nothing if it is open.

        The server then holds all its tokens. wait: seconds for which the server may look for room
        for a new session.
        """
        if self._call is not None and self._settled:
            return
        self.drop()
        wait = 0.0 if self._core.session_id else wait
        call = self._transport.open_stream(endpoint)
        try:
            timeout = endpoint.connect_timeout
            await call.send(self._core.open_request(wait), timeout)
            self._core.accept_opened(await call.receive(timeout + wait))
        except BaseException:
            call.cancel()
            raise
        # not settled before the server holds every token
        self._settled = False
        self._call, self.endpoint, self._reachable = call, endpoint, True
        if self._core.held < self._core.position:
            await self.exchange(self._core.replay())
        self._settled = True

    async def exchange(self, forward: ForwardCall) -> ForwardResult:
        """Send a forward call's steps and receive their results. Raises ClientError."""
        call, timeout = self._call, self._timeout
        assert call is not None  # attached
        self._settled = False
        try:
            requests = forward.requests()
            in_flight = 0
            for request in islice(requests, self._core.steps_in_flight):
                await call.send(request, timeout)
                in_flight += 1
            while in_flight:
                forward.add_response(await call.receive(timeout))
                in_flight -= 1
                for request in islice(requests, 1):
                    await call.send(request, timeout)
                    in_flight += 1
            if self._core.bundle.head is not None:
                await self._transport.compute(lambda: forward.logits)
            result = self._core.finish(forward)
        except ClientError as error:
            # a lost server and a lost session have nothing to close
            self._reachable = not isinstance(error, (ConnectionLostError, SessionLostError))
            self.drop()
            raise
        self._settled = True
        return result

    async def close(self) -> None:
        """End the session on the server, if the server can be reached within a short time."""
        try:
            if not self._settled:
                self.drop()
            if self._call is None and self._reachable:
                await self._resume_to_close()
            if (call := self._call) is not None:
                deadline = monotonic() + CLOSE_TIMEOUT
                await call.send(CLOSE_REQUEST, CLOSE_TIMEOUT)
                while True:  # unread results may come before the end
                    await call.receive(max(0.0, deadline - monotonic()))
        except ClientError:
            pass  # the stream has ended, or there is no session left to close
        finally:
            self._reachable = False
            self.drop()

    def drop(self) -> None:
        """Give up the call, if there is one."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._settled = True

    async def _resume_to_close(self) -> None:
        if self.endpoint is None or not self._core.session_id:
            return
        call = self._transport.open_stream(self.endpoint)
        try:
            await call.send(self._core.open_request(), CLOSE_TIMEOUT)
            await call.receive(CLOSE_TIMEOUT)
        except BaseException:
            call.cancel()
            raise
        self._call = call
