"""A process that holds a model in mlx-lm and generates several replies at once, on the CPU.

As mlx_lm_worker.py, but a command is {"prompts": [[token ids], ...], "max_tokens": N}, and its
answer {"streams": [{"token_ids": [...], "arrivals": [seconds]}, ...]}. The batching is mlx-lm's.
"""

from __future__ import annotations

from dataclasses import asdict
from time import perf_counter
from typing import Any

from benchmarks.speed.timing import Batch, Timing
from benchmarks.speed.workers.mlx_lm_worker import serve


def main() -> None:
    """Serve commands until standard input ends."""
    serve("benchmarks.speed.workers.mlx_lm_batch_worker", _timed)


def _timed(model: Any, command: dict[str, Any]) -> dict[str, Any]:
    """BatchGenerator as it comes: greedy, all prompts prefilled together, no stop tokens."""
    # only now: behind the BLAS, and once the device is chosen
    from mlx_lm.generate import BatchGenerator

    prompts = command["prompts"]
    started = perf_counter()
    generator = BatchGenerator(
        model,
        max_tokens=command["max_tokens"],
        completion_batch_size=len(prompts),
        prefill_batch_size=len(prompts),
    )
    streams = {uid: Timing([], []) for uid in generator.insert(prompts)}
    while responses := generator.next_generated():
        arrived = perf_counter() - started
        for response in responses:
            streams[response.uid].token_ids.append(response.token)
            streams[response.uid].arrivals.append(arrived)
    generator.close()
    return asdict(Batch(list(streams.values())))


if __name__ == "__main__":
    main()
