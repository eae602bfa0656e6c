"""What an operator can set, with every default. The options and `--help` read them from here.

Each field is an option of the same name.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, fields
from typing import Self

from stip_server.sessions.kv_memory import MemoryAmount


@dataclass(frozen=True)
class _Settings:
    @classmethod
    def of(cls, arguments: Namespace) -> Self:
        """The settings that a command line gives."""
        return cls(**{field.name: getattr(arguments, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class ProcessSettings(_Settings):
    """What holds for the whole process. `blas` is one of stip_model.operations.blas.CHOICES."""

    log_level: str = "info"
    log_format: str = "text"
    blas: str = "auto"


@dataclass(frozen=True)
class EngineSettings(_Settings):
    """How to compute. `dtype` is "auto", "float16", "bfloat16" or "float32"."""

    cpu: bool = False
    dtype: str = "auto"
    compile_decode: bool = False  # fuse the elementwise operations of a layer
    max_batch_rows: int = 512
    kv_memory: MemoryAmount = MemoryAmount(fraction=0.5)  # noqa: RUF009 - it is frozen
    wired_limit: int | None = None  # bytes; None: macOS decides


@dataclass(frozen=True)
class LimitSettings(_Settings):
    """Limits in tokens, seconds and bytes.

    If `max_length` is None, the model's context and the memory for keys and values decide.
    `answer_memory` holds unread answers, beyond one row of logits for each session.
    The last three limit each identity; None is no limit.
    """

    max_sessions: int = 64
    max_length: int | None = None
    max_step_rows: int = 2048
    answer_memory: int = 256 * 1024 * 1024
    session_ttl: float = 300.0
    max_open_wait: float = 60.0
    allow_echo: bool = False
    max_sessions_per_identity: int | None = None
    kv_memory_per_identity: int | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True)
class ServerSettings(_Settings):
    """Where to listen, and what to accept from the network.

    `grace` is the time in seconds for running steps at shutdown. At most `max_connections` may
    have streams at once, each at most `max_streams`. Metrics are served if `metrics_port` is set.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    grace: float = 30.0
    max_connections: int = 256
    max_streams: int = 100
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
