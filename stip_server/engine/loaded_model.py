"""Loads a bundle for the engine, and finds out how fast and how large its device is."""

from __future__ import annotations

from dataclasses import dataclass

from stip_model.bundle.manifest import ServerBundle
from stip_model.bundle.weight_types import data_type_name
from stip_model.decoder import Model
from stip_model.loading import load_model
from stip_model.operations.device import open_operations
from stip_server.engine.iteration import WARM_UP_ROWS, warm_up
from stip_server.engine.iteration_pace import Pace, pace_of
from stip_server.errors import StartError
from stip_server.sessions.kv_memory import host_memory_left, readable
from stip_server.settings import EngineSettings


@dataclass(frozen=True)
class LoadedModel:
    """A model that has computed its first steps.

    `kv_bytes` is the memory for the keys and values of all sessions.
    """

    model: Model
    pace: Pace
    kv_bytes: int


def load(bundle: ServerBundle, settings: EngineSettings) -> LoadedModel:
    """Load a bundle on the thread that will compute. Raises StartError and BundleError."""
    operations = open_operations(
        cpu=settings.cpu,
        dtype=settings.dtype,
        bundle_dtype=data_type_name(bundle.manifest.dtype),
        fused=settings.compile_decode,
    )
    if (limit := settings.wired_limit) is not None:
        try:
            operations.set_wired_limit(limit)
        except ValueError as error:
            raise StartError(f"--wired-limit {readable(limit)}: {error}") from error
    model = load_model(bundle, operations)
    pace = pace_of(warm_up(model), WARM_UP_ROWS[-1], len(model.layers))
    operations.clear_cache()
    left = operations.memory_left(host_memory_left())
    return LoadedModel(model, pace, settings.kv_memory.of(left))
