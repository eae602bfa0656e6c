"""The servers that a client may use, and the one that it uses now."""

from __future__ import annotations

from collections.abc import Sequence

from stip_client.errors import RequestError
from stip_client.transport.credentials import TLS
from stip_client.transport.endpoint import CONNECT_TIMEOUT, Endpoint


class Targets:
    """Servers of the same bundle, in order of preference. If one is lost, the next is used.

    Raises RequestError for an empty list, and what Endpoint raises.
    """

    def __init__(
        self,
        targets: str | Sequence[str],
        *,
        tls: TLS | None = None,
        token: str | None = None,
        insecure: bool = False,
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        """targets: HOST:PORT, or several in a list or with commas between them."""
        names = targets.split(",") if isinstance(targets, str) else list(targets)
        if not names:
            raise RequestError("no server is given")
        self._endpoints = [
            Endpoint(
                name.strip(),
                tls=tls,
                token=token,
                insecure=insecure,
                connect_timeout=connect_timeout,
            )
            for name in names
        ]
        self._place = 0

    def __len__(self) -> int:
        return len(self._endpoints)

    @property
    def current(self) -> Endpoint:
        """The server to use now."""
        return self._endpoints[self._place]

    def leave(self, endpoint: Endpoint) -> None:
        """Use the next server, unless another session has left this one already."""
        if endpoint is self.current:
            self._place = (self._place + 1) % len(self._endpoints)
