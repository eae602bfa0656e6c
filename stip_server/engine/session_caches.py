"""The KV caches of all sessions, by the sessions' ids. Changed by the engine's thread only."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from stip_model.cache.kv_cache import KVCache, lost_cache
from stip_model.decoder import Model


class SessionCaches:
    """A session's cache begins with its first step, or as a fork, and ends when it is dropped."""

    def __init__(self) -> None:
        self._caches: dict[bytes, KVCache] = {}

    @property
    def nbytes(self) -> int:
        """Bytes that all of them have allocated."""
        return sum(cache.nbytes for cache in self._caches.values())

    def of(self, session_id: bytes, model: Model) -> KVCache:
        """The session's cache; a new one where it has none."""
        cache = self._caches.get(session_id)
        if cache is None:
            cache = self._caches[session_id] = model.new_cache()
        return cache

    def length(self, session_id: bytes) -> int:
        """The tokens that a session's cache holds. From any thread."""
        cache = self._caches.get(session_id)
        return 0 if cache is None else cache.length

    def fork(self, source_id: bytes, session_id: bytes, length: int) -> None:
        """Let a session's cache begin with the first `length` tokens of another's."""
        if length == 0:
            return
        source = self._caches.get(source_id)
        if source is None or source.length < length:
            # lost just now, and so is the fork: its first step finds out
            self._caches[session_id] = lost_cache()
        else:
            self._caches[session_id] = source.fork(length)

    def copying(self, session_id: bytes, position: int, rows: int) -> int:
        """Bytes that are copied before a session can write `rows` rows from a position on."""
        cache = self._caches.get(session_id)
        return 0 if cache is None else cache.copying(position, rows)

    def make_room(self, session_id: bytes, position: int, rows: int) -> Iterator[None]:
        """Copy what must be copied for that; stops after each layer."""
        cache = self._caches.get(session_id)
        if cache is not None:
            yield from cache.make_room(position, rows)

    def drop(self, session_id: bytes) -> Iterator[None]:
        """Free a session's cache, if it has one; stops after each layer that others inherit."""
        cache = self._caches.pop(session_id, None)
        if cache is not None:
            yield from cache.release()
            if not self._caches:
                mx.clear_cache()  # nobody is about to need the buffers again
