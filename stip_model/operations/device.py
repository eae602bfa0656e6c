"""The device that MLX computes on, and what it has left. Used on the engine's thread only."""

from __future__ import annotations

import mlx.core as mx

from stip_server.errors import StartError
from stip_server.sessions import kv_memory as memory


def choose_device(*, cpu: bool) -> str:
    """Make a GPU the default where there is one and `cpu` is false: "cpu", "metal" or "cuda"."""
    on_cpu = cpu or not (mx.metal.is_available() or mx.cuda.is_available())
    mx.set_default_device(mx.cpu if on_cpu else mx.gpu)
    return "cpu" if on_cpu else "metal" if mx.metal.is_available() else "cuda"


def set_wired_limit(size: int) -> None:
    """Let MLX keep so many bytes wired, on macOS. Raises StartError."""
    try:
        mx.set_wired_limit(size)
    except (RuntimeError, ValueError) as error:
        raise StartError(f"--wired-limit {memory.readable(size)}: {error}") from error


def memory_left(device: str) -> int:
    """Bytes that a device has left, the weights being loaded."""
    if device == "cpu":
        return memory.host_memory_left()
    info = mx.device_info()
    if device == "metal":  # unified memory: what macOS lets the GPU have
        most = int(info["max_recommended_working_set_size"])
        return max(0, min(most - mx.get_active_memory(), memory.host_memory_left()))
    return int(info.get("free_memory", int(info["total_memory"]) - mx.get_active_memory()))
