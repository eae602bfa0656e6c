"""What a device cannot compute shows at start, not to the first client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stip_model.bundle.manifest import ServerBundle
from stip_model.decoder import Model
from stip_server.engine.engine import Engine
from stip_server.engine.iteration import WARM_UP_ROWS
from stip_server.errors import StartError
from stip_server.observe.metrics import Metrics
from stip_server.settings import EngineSettings
from tests.support.waiting import PATIENCE


def test_a_model_that_the_device_cannot_run_is_an_error_at_start(
    tiny_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(*_: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(Model, "__call__", unable)
    engine = Engine(ServerBundle(tiny_bundles / "server"), EngineSettings(cpu=True), Metrics())
    engine.start()
    engine.stop(timeout=PATIENCE)
    with pytest.raises(StartError, match="cannot run the model: no such kernel"):
        engine.loaded()


def test_on_a_slow_device_iterations_are_kept_short(
    tiny_bundles: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a BLAS that would keep the heartbeat silent for longer than a stuck engine's."""
    monkeypatch.setattr("stip_server.engine.loaded_model.warm_up", lambda _: 0.1 * WARM_UP_ROWS[-1])
    engine = Engine(ServerBundle(tiny_bundles / "server"), EngineSettings(cpu=True), Metrics())
    engine.start()
    engine.stop(timeout=PATIENCE)
    layers = engine.manifest.model.num_hidden_layers
    assert engine._scheduler.max_batch_rows == round(2.0 * layers / 0.1)
    assert "iterations are kept short" in caplog.text


def test_on_a_quick_device_iterations_are_as_long_as_they_were_asked_to_be(
    tiny_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stip_server.engine.loaded_model.warm_up", lambda _: 1e-3)
    engine = Engine(ServerBundle(tiny_bundles / "server"), EngineSettings(cpu=True), Metrics())
    engine.start()
    engine.stop(timeout=PATIENCE)
    assert engine._scheduler.max_batch_rows == EngineSettings().max_batch_rows
