"""Works out the limits that clients see, from the settings, the model and the memory."""

from __future__ import annotations

from stip.v1.inference_pb2 import Limits
from stip.v1.manifest_pb2 import Manifest, ModelConfig
from stip_model.bundle.modes import output_width
from stip_model.cache.kv_cache import GROWTH, capacity_for
from stip_server.errors import StartError
from stip_server.sessions.kv_memory import readable
from stip_server.settings import LimitSettings

MAX_STEP_BYTES = 1024 * 1024
MAX_LOGITS_BYTES = 64 * 1024 * 1024
MAX_STEPS_IN_FLIGHT = 4
# bytes of a message beyond those of its step
MESSAGE_OVERHEAD = 64 * 1024
# tokens of a session whose client states no maximum
DEFAULT_LENGTH = 4096


def check_max_length(settings: LimitSettings, model: ModelConfig) -> None:
    """Raise StartError if the settings ask for more tokens than the model's context."""
    if (settings.max_length or 0) > model.max_position_embeddings:
        raise StartError(
            f"--max-length {settings.max_length} is beyond the model's context of "
            f"{model.max_position_embeddings} tokens"
        )


def announced_limits(
    settings: LimitSettings,
    model: ModelConfig,
    *,
    kv_bytes: int,
    kv_bytes_per_token: int,
    row_bytes: int,
) -> Limits:
    """The limits announced to clients.

    `kv_bytes` is the memory for the keys and values of all sessions. `row_bytes` is the size of
    the largest answer to one token. Raises StartError if the memory is too small for one session
    or one answer.
    """
    fitting = kv_bytes // (GROWTH * kv_bytes_per_token) * GROWTH
    length = settings.max_length or min(model.max_position_embeddings, fitting)
    if not 1 <= length <= fitting:
        raise StartError(
            f"a session of {max(1, length)} tokens takes "
            f"{readable(capacity_for(max(1, length)) * kv_bytes_per_token)} of keys and values; "
            f"there are {readable(kv_bytes)}",
            hint="raise --kv-memory, or lower --max-length",
        )
    if settings.answer_memory < row_bytes:
        raise StartError(
            f"--answer-memory {readable(settings.answer_memory)} has no room for one answer, "
            f"which takes {readable(row_bytes)}"
        )
    return Limits(
        max_sessions=settings.max_sessions,
        max_length=length,
        max_step_rows=settings.max_step_rows,
        max_step_bytes=MAX_STEP_BYTES,
        max_logits_bytes=min(MAX_LOGITS_BYTES, settings.answer_memory),
        max_steps_in_flight=MAX_STEPS_IN_FLIGHT,
        session_ttl_millis=round(settings.session_ttl * 1000),
        echo_allowed=settings.allow_echo,
        default_length=min(DEFAULT_LENGTH, length),
        kv_bytes=kv_bytes,
        kv_bytes_per_token=kv_bytes_per_token,
        max_open_wait_millis=round(settings.max_open_wait * 1000),
    )


def row_bytes(manifest: Manifest) -> int:
    """Bytes of the largest answer to one token: a row in float32."""
    return 4 * output_width(manifest)
