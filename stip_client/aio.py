"""The asynchronous client. Its twin is client.py; both run the core in session/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self, Unpack

from stip_client.session.async_session import AsyncSession
from stip_client.session.client_core import ClientCore, ClientSettings
from stip_client.transport.asynchronous import AsyncTransport

__all__ = ["AsyncClient", "AsyncSession"]


class AsyncClient(ClientCore):
    """`Client` for asyncio: the same methods, awaited.

    >>> async with AsyncClient("localhost:50051", bundle="bundles/client") as client:
    ...     async for piece in client.generate("Hello, how are you?", max_new_tokens=32):
    ...         print(piece.text, end="")
    """

    def __init__(
        self,
        target: str | Sequence[str],
        bundle: str | Path,
        **settings: Unpack[ClientSettings],
    ) -> None:
        super().__init__(AsyncTransport(), target, bundle, **settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
