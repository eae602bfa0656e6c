"""Engines that are stopped after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.running_engine import RunningEngine


@pytest.fixture
def start(
    tiny_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., RunningEngine]]:
    """Starts a real engine of tiny_bundles."""
    engines: list[RunningEngine] = []

    def start(**options: Any) -> RunningEngine:
        engines.append(RunningEngine(tiny_bundles, monkeypatch, **options))
        return engines[-1]

    yield start
    for each in engines:
        each.stop()
