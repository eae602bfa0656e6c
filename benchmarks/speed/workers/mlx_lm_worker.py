"""A process that holds a model in mlx-lm and generates on command, on the CPU.

Prints {"blas": NAME} when it is ready. Then each line of standard input,
{"prompt": [token ids], "max_tokens": N}, is answered by a line {"token_ids": [...], "arrivals":
[seconds]}. Between commands it waits for input and computes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.speed.timing import time_tokens
from stip_model.operations.blas import CHOICES, load_blas


def main() -> None:
    """Serve commands until standard input ends."""
    serve("benchmarks.speed.workers.mlx_lm_worker", _timed)


def serve(module: str, answer: Callable[[Any, dict[str, Any]], Any]) -> None:
    """Load the model of the command line, then answer(model, command) until the input ends."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--dtype", choices=("checkpoint", "float32"), required=True)
    parser.add_argument("--blas", choices=CHOICES, required=True)
    arguments = parser.parse_args()
    blas = load_blas(arguments.blas)
    model = _load(arguments.checkpoint, arguments.dtype)
    print(json.dumps({"blas": blas.name}), flush=True)
    for line in sys.stdin:
        answered = answer(model, json.loads(line))
        _wait_until_idle()
        print(json.dumps(answered), flush=True)


def _timed(model: Any, command: dict[str, Any]) -> dict[str, Any]:
    return asdict(time_tokens(_generate(model, command["prompt"], command["max_tokens"])))


# MLX is imported only below, behind the BLAS, and mlx-lm only once the device is chosen.


def _load(checkpoint: Path, dtype: str) -> Any:
    import mlx.core as mx
    from mlx.utils import tree_map

    mx.set_default_device(mx.cpu)
    from mlx_lm.utils import load_model

    model, _ = load_model(checkpoint)
    if dtype == "float32":
        model.update(tree_map(lambda weight: weight.astype(mx.float32), model.parameters()))
        mx.eval(model.parameters())
    return model


def _generate(model: Any, prompt: Sequence[int], max_tokens: int) -> Iterator[int]:
    """mlx-lm's own greedy loop, which computes one token ahead of the one it yields."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    for token, _ in generate_step(mx.array(list(prompt)), model, max_tokens=max_tokens):
        yield int(token)


def _wait_until_idle() -> None:
    """Wait for the token computed ahead, which nobody takes."""
    import mlx.core as mx
    from mlx_lm.generate import generation_stream

    mx.synchronize(generation_stream)


if __name__ == "__main__":
    main()
