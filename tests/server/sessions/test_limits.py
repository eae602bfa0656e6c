"""What a server announces, from what its operator wants and what its memory allows."""

from __future__ import annotations

import pytest

from stip.v1.manifest_pb2 import ModelConfig
from stip_model.cache.kv_cache import GROWTH
from stip_server.errors import StartError
from stip_server.sessions.limits import (
    DEFAULT_LENGTH,
    MAX_LOGITS_BYTES,
    MAX_STEP_BYTES,
    MAX_STEPS_IN_FLIGHT,
    announced_limits,
    check_max_length,
)
from stip_server.settings import LimitSettings

MODEL = ModelConfig(max_position_embeddings=10_000, vocab_size=1000)
TOKEN = 1024  # bytes of keys and values
ROW = 4 * 1000  # bytes of a row of logits
AMPLE = 100_000 * TOKEN


def test_a_session_may_be_as_long_as_the_models_context() -> None:
    found = announced_limits(
        LimitSettings(), MODEL, kv_bytes=AMPLE, kv_bytes_per_token=TOKEN, row_bytes=ROW
    )
    assert (found.max_length, found.default_length) == (10_000, DEFAULT_LENGTH)
    assert not found.echo_allowed


def test_a_session_may_be_no_longer_than_the_memory_holds_with_its_growth() -> None:
    almost = (9 * GROWTH + GROWTH - 1) * TOKEN
    found = announced_limits(
        LimitSettings(), MODEL, kv_bytes=almost, kv_bytes_per_token=TOKEN, row_bytes=ROW
    )
    assert (found.max_length, found.default_length) == (9 * GROWTH, 9 * GROWTH)


def test_a_length_that_the_operator_wants_is_taken() -> None:
    wanted = LimitSettings(max_length=300)
    found = announced_limits(
        wanted, MODEL, kv_bytes=2 * GROWTH * TOKEN, kv_bytes_per_token=TOKEN, row_bytes=ROW
    )
    assert (found.max_length, found.default_length) == (300, 300)


@pytest.mark.parametrize(
    ("max_length", "memory", "says"),
    [
        (None, GROWTH * TOKEN - 1, "1 tokens takes 256.0 KiB"),
        (None, 0, "there are 0 bytes"),
        (300, 2 * GROWTH * TOKEN - 1, "300 tokens takes 512.0 KiB"),
    ],
)
def test_a_server_in_which_not_one_session_fits_does_not_start(
    max_length: int | None, memory: int, says: str
) -> None:
    wanted = LimitSettings(max_length=max_length)
    with pytest.raises(StartError) as refused:
        announced_limits(wanted, MODEL, kv_bytes=memory, kv_bytes_per_token=TOKEN, row_bytes=ROW)
    assert says in str(refused.value)
    assert "--kv-memory" in str(refused.value.hint)


def test_a_length_beyond_the_models_context_is_refused_before_loading() -> None:
    check_max_length(LimitSettings(), MODEL)
    check_max_length(LimitSettings(max_length=10_000), MODEL)
    with pytest.raises(StartError, match="10001 is beyond the model's context of 10000"):
        check_max_length(LimitSettings(max_length=10_001), MODEL)


def test_everything_that_holds_for_a_stream_is_announced() -> None:
    wanted = LimitSettings(
        max_sessions=5, max_step_rows=99, session_ttl=1.5, max_open_wait=0.25, allow_echo=True
    )
    found = announced_limits(wanted, MODEL, kv_bytes=AMPLE, kv_bytes_per_token=TOKEN, row_bytes=ROW)
    assert (found.max_sessions, found.max_step_rows) == (5, 99)
    assert (found.session_ttl_millis, found.max_open_wait_millis) == (1500, 250)
    assert (found.kv_bytes, found.kv_bytes_per_token) == (AMPLE, TOKEN)
    assert found.echo_allowed
    assert found.max_step_bytes == MAX_STEP_BYTES
    assert found.max_logits_bytes == MAX_LOGITS_BYTES
    assert found.max_steps_in_flight == MAX_STEPS_IN_FLIGHT


def test_an_answer_may_be_as_large_as_the_memory_for_answers() -> None:
    wanted = LimitSettings(answer_memory=8000)
    found = announced_limits(wanted, MODEL, kv_bytes=AMPLE, kv_bytes_per_token=TOKEN, row_bytes=ROW)
    assert found.max_logits_bytes == 8000


def test_a_server_in_which_not_one_row_of_logits_fits_does_not_start() -> None:
    wanted = LimitSettings(answer_memory=3999)
    with pytest.raises(StartError, match=r"--answer-memory 3.9 KiB .* takes 3.9 KiB"):
        announced_limits(wanted, MODEL, kv_bytes=AMPLE, kv_bytes_per_token=TOKEN, row_bytes=ROW)
