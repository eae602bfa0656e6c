"""How much an iteration may compute on devices of different speeds."""

from __future__ import annotations

import pytest

from stip_server.engine.iteration_pace import (
    HEAD_ROWS,
    HEAD_SHARE,
    LONG_ROWS,
    LONG_SECONDS,
    LONGEST_LAYER,
    pace_of,
)

ROWS, LAYERS = 16, 24


@pytest.mark.parametrize("seconds", [0.001, 0.19, 0.21, 5.0, 1000.0])
def test_no_layer_takes_longer_than_the_longest(seconds: float) -> None:
    pace = pace_of(seconds, ROWS, LAYERS)
    a_row = seconds / ROWS / LAYERS
    assert pace.max_rows * a_row <= LONGEST_LAYER or pace.max_rows == 1
    assert (pace.max_rows + 1) * a_row > LONGEST_LAYER
    assert pace.head_rows == min(HEAD_ROWS, max(1, pace.max_rows // HEAD_SHARE))


def test_every_iteration_of_a_slow_device_shows_its_progress() -> None:
    assert pace_of(LONG_SECONDS * 0.9, ROWS, LAYERS).long_rows == LONG_ROWS
    assert pace_of(LONG_SECONDS * 1.1, ROWS, LAYERS).long_rows == 1
