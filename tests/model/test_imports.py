"""MLX is one set of operations: the decoder, its cache and the engine are imported without it."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import stip_model
import stip_server.engine

PROGRAM = "import sys, {}; print([name for name in sys.modules if name.split('.')[0] == 'mlx'])"


def modules(package: object) -> list[str]:
    """The names of all modules of a package."""
    path, name = list(package.__path__), package.__name__  # type: ignore[attr-defined]
    return [each.name for each in pkgutil.walk_packages(path, f"{name}.")]


ENGINE = modules(stip_server.engine)
MODEL = [each for each in modules(stip_model) if not each.startswith("stip_model.operations.mlx")]


def test_the_lists_hold_what_they_should() -> None:
    assert {"stip_model.decoder", "stip_model.loading", "stip_model.cache.kv_cache"} < {*MODEL}
    assert {"stip_server.engine.engine", "stip_server.engine.session_caches"} < {*ENGINE}


@pytest.mark.parametrize("names", [MODEL, ENGINE], ids=["stip_model", "stip_server.engine"])
def test_importing_what_computes_brings_no_mlx(names: list[str]) -> None:
    command = [sys.executable, "-c", PROGRAM.format(", ".join(names))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_mlx_is_named_in_no_other_file() -> None:
    """Nor imported inside a function."""
    packages = [Path(stip_model.__file__).parent, Path(stip_server.__file__).parent]
    packages += [packages[0].parent / name for name in ("stip_keys", "stip_client")]
    naming = {
        file.name
        for package in packages
        for file in package.rglob("*.py")
        for line in file.read_text().splitlines()
        if line.strip().startswith(("import mlx", "from mlx"))
    }
    assert naming == {"mlx.py", "mlx_host.py"}
