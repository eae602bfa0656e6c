"""The KV caches of all sessions, by the sessions' ids. Only the engine's thread changes them."""

from __future__ import annotations

from collections.abc import Iterator

from stip_model.cache.kv_cache import KVCache
from stip_model.decoder import Model


class SessionCaches:
    """A session's cache begins with its first step, or as a fork, and ends when it is dropped."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._caches: dict[bytes, KVCache] = {}

    @property
    def nbytes(self) -> int:
        """Bytes that all caches have allocated."""
        return sum(cache.nbytes for cache in self._caches.values())

    def of(self, session_id: bytes) -> KVCache:
        """Return the session's cache, a new one where it has none."""
        cache = self._caches.get(session_id)
        if cache is None:
            cache = self._caches[session_id] = self._model.new_cache()
        return cache

    def length(self, session_id: bytes) -> int:
        """Return the number of tokens that a session's cache holds. Any thread may call this."""
        cache = self._caches.get(session_id)
        return 0 if cache is None else cache.length

    def fork(self, source_id: bytes, session_id: bytes, length: int) -> None:
        """Let a session's cache begin with the first `length` tokens of another's."""
        if length == 0:
            return
        source = self._caches.get(source_id)
        if source is None or source.length < length:
            # the source was lost a moment ago: the first step of the fork fails
            cache = self._model.new_cache()
            cache.lose()
        else:
            cache = source.fork(length)
        self._caches[session_id] = cache

    def bytes_to_copy(self, session_id: bytes, position: int, rows: int) -> int:
        """Return how many bytes `ensure_capacity` would copy."""
        cache = self._caches.get(session_id)
        return 0 if cache is None else cache.bytes_to_copy(position, rows)

    def ensure_capacity(self, session_id: bytes, position: int, rows: int) -> Iterator[None]:
        """Allow a session to write `rows` rows from a position on. Yields after each copied
        layer."""
        cache = self._caches.get(session_id)
        if cache is not None:
            yield from cache.ensure_capacity(position, rows)

    def drop(self, session_id: bytes) -> Iterator[None]:
        """Free a session's cache, if it has one. Yields after each layer copied for a fork."""
        cache = self._caches.pop(session_id, None)
        if cache is not None:
            yield from cache.release()
            if not self._caches:
                self._model.operations.clear_cache()  # nobody is about to need the buffers again
