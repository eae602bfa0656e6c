"""What the server accepts, from its settings and its model."""

from __future__ import annotations

from dataclasses import dataclass

from stip.v1.inference_pb2 import Limits
from stip.v1.manifest_pb2 import ModelConfig
from stip_server.errors import StartError

MAX_STEP_BYTES = 1024 * 1024
MAX_LOGITS_BYTES = 64 * 1024 * 1024
MAX_STEPS_IN_FLIGHT = 4
# a message is a step's bytes and some framing
MESSAGE_OVERHEAD = 64 * 1024


@dataclass(frozen=True)
class LimitSettings:
    """The limits an operator sets. `max_length` None is the model's own context length."""

    max_sessions: int = 64
    max_length: int | None = None
    max_step_rows: int = 2048
    session_ttl: float = 300.0
    allow_echo: bool = False


def limits(settings: LimitSettings, model: ModelConfig) -> Limits:
    """The limits announced to clients. Raises StartError for a length beyond the model's."""
    length = settings.max_length or model.max_position_embeddings
    if length > model.max_position_embeddings:
        raise StartError(
            f"--max-length {length} is beyond the model's context of "
            f"{model.max_position_embeddings} tokens"
        )
    return Limits(
        max_sessions=settings.max_sessions,
        max_length=length,
        max_step_rows=settings.max_step_rows,
        max_step_bytes=MAX_STEP_BYTES,
        max_logits_bytes=MAX_LOGITS_BYTES,
        max_steps_in_flight=MAX_STEPS_IN_FLIGHT,
        session_ttl_millis=round(settings.session_ttl * 1000),
        echo_allowed=settings.allow_echo,
    )
