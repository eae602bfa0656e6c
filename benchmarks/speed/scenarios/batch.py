"""Scenarios about many sessions at once: their speed together, beside one alone and beside mlx-lm.

All sessions are open before the first prompt is sent. All prompts are then sent together, and how
their steps fall into the engine's iterations is left to the server. What is compared is decoding:
timing.Batch says from when to when.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

import numpy as np

from benchmarks.speed.compared_programs import BatchSide, mlx_lm_batch, stip_batch
from benchmarks.speed.figures import UNSTEADY, Curve, Figure, Point, Series, Target, agreeing
from benchmarks.speed.models import QWEN_0_5B
from benchmarks.speed.timing import Batch
from benchmarks.speed.workspace import Workspace

SESSIONS = 8
NEW_TOKENS = 32
CURVE_SESSIONS = (1, 2, 4, 8, 12, 16)
CURVE_NEW_TOKENS = 16
PROMPT_LENGTHS = (16, 40)  # the shortest and the longest


def batch(workspace: Workspace, repeats: int) -> Iterator[Figure]:
    """Eight sessions that decode at once at 0.5B: beside one session, and beside mlx-lm's eight."""
    checkpoint = workspace.checkpoint("0.5b", QWEN_0_5B)
    prompts = _prompts(SESSIONS)
    with stip_batch(workspace.bundles(checkpoint)) as ours, mlx_lm_batch(checkpoint) as mlx_lm:
        turns = ((ours, prompts), (ours, prompts[:1]), (mlx_lm, prompts))
        rounds = [
            [side.generate(each, NEW_TOKENS) for side, each in turns] for _ in range(1 + repeats)
        ]
        client_cores = median(ours.client_cores[2::2])  # those of the eight, after the warm-up
    together, alone, theirs = (list(runs) for runs in zip(*rounds[1:], strict=True))
    eight = _rates(ours, together, SESSIONS)
    yield _ratio(
        f"decode of {SESSIONS} sessions at 0.5B, to one session",
        3.5,
        eight,
        _rates(ours, alone, 1),
        f"the clients kept {client_cores:.2g} of a core busy",
    )
    same = min(
        agreeing(a.token_ids, b.token_ids)
        for a, b in zip(together[0].streams, theirs[0].streams, strict=True)
    )
    yield _ratio(
        f"decode of {SESSIONS} sessions at 0.5B, same type and BLAS",
        1.0,
        eight,
        _rates(mlx_lm, theirs, SESSIONS),
        f"in every session {same} or more of {NEW_TOKENS} tokens agree from the first on",
    )


def curve(workspace: Workspace, repeats: int) -> Iterator[Curve]:
    """Speed over the number of sessions at 0.5B; the numbers take turns."""
    checkpoint = workspace.checkpoint("0.5b", QWEN_0_5B)
    prompts = _prompts(max(CURVE_SESSIONS))
    runs: dict[int, list[Batch]] = {count: [] for count in CURVE_SESSIONS}
    with stip_batch(workspace.bundles(checkpoint)) as ours:
        ours.generate(prompts, CURVE_NEW_TOKENS)
        for _ in range(repeats):
            for count in CURVE_SESSIONS:
                runs[count].append(ours.generate(prompts[:count], CURVE_NEW_TOKENS))
    yield Curve(
        scenario="curve",
        name=f"Decode of concurrent sessions at 0.5B, {ours.name}",
        points=[
            Point(count, _rates(ours, each, count), _between(ours, each, count))
            for count, each in runs.items()
        ],
    )


def _prompts(count: int) -> list[list[int]]:
    """Different prompts of different lengths; fewer of them are the first of more."""
    rng = np.random.default_rng(0)
    shortest, longest = PROMPT_LENGTHS
    lengths = [shortest + 7 * number % (longest - shortest + 1) for number in range(count)]
    return [rng.integers(0, QWEN_0_5B.vocab_size, length).tolist() for length in lengths]


def _rates(side: BatchSide, runs: Sequence[Batch], count: int) -> Series:
    values = [run.tokens_per_second for run in runs]
    return Series(f"{side.name}, {_sessions(count)}", "tokens/s", values)


def _between(side: BatchSide, runs: Sequence[Batch], count: int) -> Series:
    values = [median(run.gaps) * 1e3 for run in runs]
    return Series(f"{side.name}, {_sessions(count)}", "ms between tokens", values)


def _sessions(count: int) -> str:
    return "1 session" if count == 1 else f"{count} sessions"


def _ratio(name: str, target: float, ours: Series, baseline: Series, note: str) -> Figure:
    ratios = [a / b for a, b in zip(ours.values, baseline.values, strict=True)]
    return Figure(
        scenario="batch",
        name=name,
        value=ours.median / baseline.median,
        unit="x",
        target=Target(">=", target),
        ours=ours,
        baseline=baseline,
        spread=(min(ratios), max(ratios)),
        note=note + ("" if ours.steady and baseline.steady else UNSTEADY),
    )
