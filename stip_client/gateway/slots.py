"""How many replies may be under way at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stip_client.gateway.errors import ApiError
from stip_client.gateway.fields import invalid


class ReplySlots:
    """A bound on the choices of all requests together; what does not fit is refused at once."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken = 0

    @contextmanager
    def reserve(self, choices: int) -> Iterator[None]:
        """Hold so many. Raises ApiError."""
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
