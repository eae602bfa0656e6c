"""Fixtures of the audit's attacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.attack.scenes import Model, random_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where masked models are kept, and made once."""
    return tmp_path_factory.mktemp("attacks")


@pytest.fixture(scope="session")
def random(folder: Path) -> Model:
    """A random checkpoint."""
    return random_model(folder / "random")
