"""How many sessions there may be, and how many bytes of keys and values they may reserve.

Plain arithmetic: knows no time and no stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stip.v1.errors_pb2 import ErrorReason
from stip_server.sessions.session import Session


class Shortage(NamedTuple):
    """The quota that does not admit a new session."""

    reason: ErrorReason
    message: str
    identity: str | None  # whose sessions use the quota up; None: anybody's
    permanent: bool  # whether the session would not fit even if all others ended


@dataclass(frozen=True)
class Quotas:
    """What all sessions together, and those of one identity, may take. None is no limit."""

    max_sessions: int
    kv_bytes: int
    max_sessions_per_identity: int | None = None
    kv_bytes_per_identity: int | None = None

    def shortage(
        self, identity: str, kv_bytes: int, sessions: Sequence[Session]
    ) -> Shortage | None:
        """The quota that does not admit a session of kv_bytes next to `sessions`; None if all do.

        The caller's own quotas come first.
        """
        theirs = [each for each in sessions if each.identity == identity]
        for whose, owner, existing, max_sessions, sessions_reason, max_bytes, memory_reason in (
            (
                "the caller",
                identity,
                theirs,
                self.max_sessions_per_identity,
                ErrorReason.ERROR_REASON_CALLER_SESSIONS,
                self.kv_bytes_per_identity,
                ErrorReason.ERROR_REASON_CALLER_KV_MEMORY,
            ),
            (
                "the server",
                None,
                sessions,
                self.max_sessions,
                ErrorReason.ERROR_REASON_TOO_MANY_SESSIONS,
                self.kv_bytes,
                ErrorReason.ERROR_REASON_KV_MEMORY,
            ),
        ):
            if max_sessions is not None and len(existing) >= max_sessions:
                message = f"{whose} has as many sessions as it may: {max_sessions}"
                return Shortage(sessions_reason, message, owner, permanent=False)
            if max_bytes is not None:
                free = max_bytes - sum(each.kv_bytes for each in existing)
                if kv_bytes > free:
                    message = (
                        f"the session takes {kv_bytes} bytes of keys and values; {whose} has "
                        f"{free} of {max_bytes} left"
                    )
                    return Shortage(memory_reason, message, owner, permanent=kv_bytes > max_bytes)
        return None
