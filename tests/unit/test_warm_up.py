"""What a device cannot compute shows at start, not to the first client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stip_server.bundle import ServerBundle
from stip_server.engine import Engine, EngineSettings
from stip_server.errors import StartError
from stip_server.metrics import Metrics
from stip_server.model import Model


def test_a_model_that_the_device_cannot_run_is_an_error_at_start(
    tiny_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(*_: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(Model, "__call__", unable)
    engine = Engine(ServerBundle(tiny_bundles / "server"), EngineSettings(cpu=True), Metrics())
    engine.start()
    engine.stop(timeout=60)
    with pytest.raises(StartError, match="cannot run the model: no such kernel"):
        engine.loaded()
