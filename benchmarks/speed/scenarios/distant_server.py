"""Scenarios about a server that is far away: guesses that save round trips, and what replies weigh.

The proxy of the robustness tests adds 25 ms in each direction to a server on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import numpy as np

from benchmarks.speed.compared_programs import float32_server
from benchmarks.speed.figures import UNSTEADY, Figure, Series, Target
from benchmarks.speed.models import QWEN_0_5B
from benchmarks.speed.scenarios.decode_and_prefill import PACKAGED_DEMO
from benchmarks.speed.workspace import Workspace
from stip_client import Client
from stip_client.session.generation import Piece
from tests.support.wire.proxy import proxy

DELAY = 0.025
QUOTATIONS = (
    "Repeat: one two three four five six seven eight nine ten",
    "Copy this: the sun rises in the east and sets in the west",
    "Repeat this: red green blue yellow black white brown pink",
    "Repeat after me: I like tea and you like coffee and we like bread",
)
# No token that has occurred is chosen again.
RESTLESS = {"repetition_penalty": 100.0, "ignore_eos": True, "max_new_tokens": 48}
SAMPLED = {"temperature": 0.8, "top_p": 0.95, "ignore_eos": True, "max_new_tokens": 64}


@contextmanager
def far_client(workspace: Workspace) -> Iterator[Client]:
    """A client of the demo model, 50 ms away."""
    bundles = workspace.bundles(PACKAGED_DEMO)
    with (
        float32_server(bundles) as server,
        proxy(server.address, delay=DELAY) as far,
        Client(far.address, bundle=bundles / "client") as client,
    ):
        yield client


def quotation(workspace: Workspace, repeats: int) -> Iterator[Figure]:
    """Tokens a round trip where the reply repeats the prompt, the prompt's own step included."""
    with far_client(workspace) as client:
        runs = [
            [list(client.generate(each, max_new_tokens=64)) for each in QUOTATIONS]
            for _ in range(1 + repeats)
        ][1:]
        plain = [list(client.generate(each, max_new_tokens=64, draft="off")) for each in QUOTATIONS]
    same = [_tokens(each) for each in runs[0]] == [_tokens(each) for each in plain]
    rates = [sum(map(len, run)) / sum(map(_steps, run)) for run in runs]
    yield Figure(
        scenario="quotation",
        name="tokens a round trip at 50 ms, quoting the prompt",
        value=float(np.median(rates)),
        unit="tokens",
        target=Target(">=", 2.5),
        ours=Series("the demo model, four quotations", "tokens a round trip", rates),
        note="the replies are those without guesses" if same else "THE REPLIES DIFFER",
    )


def restless(workspace: Workspace, repeats: int) -> Iterator[Figure]:
    """The time of a reply that repeats nothing, with guesses beside without."""
    for name, delay in (("at 50 ms", DELAY), ("on this machine", 0.0)):
        bundles = workspace.bundles(PACKAGED_DEMO)
        with (
            float32_server(bundles) as server,
            proxy(server.address, delay=delay) as way,
            Client(way.address, bundle=bundles / "client") as client,
        ):
            times: dict[str, list[float]] = {"auto": [], "off": []}
            for _ in range(1 + 2 * repeats):
                for draft, taken in times.items():
                    options = {**RESTLESS, "draft": draft}
                    started = perf_counter()
                    pieces = list(client.generate("Tell me something.", **options))  # type: ignore[arg-type]
                    taken.append((perf_counter() - started) / len(pieces) * 1e3)
        ours, baseline = (
            Series(f"draft {draft}", "ms/token", taken[1:]) for draft, taken in times.items()
        )
        yield Figure(
            scenario="restless",
            name=f"guessing where nothing repeats, {name}",
            value=baseline.median / ours.median,
            unit="x",
            target=Target(">=", 0.95),
            ours=ours,
            baseline=baseline,
            note="" if ours.steady and baseline.steady else UNSTEADY[2:],
        )


def downlink(workspace: Workspace, repeats: int) -> Iterator[Figure]:
    """Bytes that come down with a token of a model with 151,936 words."""
    del repeats
    bundles = workspace.bundles(workspace.checkpoint("0.5b", QWEN_0_5B))
    prompt = np.random.default_rng(0).integers(0, QWEN_0_5B.vocab_size, 16).tolist()
    with (
        float32_server(bundles) as server,
        Client(server.address, bundle=bundles / "client") as client,
    ):
        greedy = list(client.generate(prompt, max_new_tokens=32, ignore_eos=True))
    yield _weight("by default", greedy)
    with far_client(workspace) as client:
        drawn = list(client.generate("Tell me something.", seed=1, **SAMPLED))  # type: ignore[arg-type]
    yield _weight("drawn with temperature 0.8 and top-p 0.95 (the demo model)", drawn)


def _weight(name: str, pieces: list[Piece]) -> Figure:
    profiles = [piece.profile for piece in pieces if piece.profile is not None]
    down = sum(each.bytes_down for each in profiles) / len(pieces)
    up = sum(each.bytes_up for each in profiles[1:]) / len(pieces)
    return Figure(
        scenario="downlink",
        name=f"bytes down a token, {name}",
        value=down,
        unit="B",
        target=Target("<=", 2000),
        ours=Series(f"{len(pieces)} tokens", "B", [down]),
        note=f"{up:.0f} B up a token after the prompt",
    )


def _tokens(pieces: list[Piece]) -> list[int]:
    return [piece.token_id for piece in pieces]


def _steps(pieces: list[Piece]) -> int:
    return sum(piece.profile.round_trips for piece in pieces if piece.profile is not None)
