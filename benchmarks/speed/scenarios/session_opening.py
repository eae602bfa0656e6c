"""Scenarios about the beginning of a session: opening one, and forking one that holds a prefix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import perf_counter

import numpy as np

from benchmarks.speed.compared_programs import float32_server
from benchmarks.speed.figures import UNSTEADY, Figure, Series, Target
from benchmarks.speed.models import QWEN_0_5B
from benchmarks.speed.workspace import Workspace
from stip_client import Client, Session
from stip_client.session.forward_call import LogitsForm

OPENS = 200
OPEN_LENGTH = 256
WARM_UPS = 10
PREFIX = 1024
# what generation asks for when it is greedy
WANTED = LogitsForm("last", top_k=1)


def open_session(workspace: Workspace, _: int) -> Iterator[Figure]:
    """From the open request to its answer, on a connection that stands."""
    bundles = workspace.bundles(workspace.checkpoint("0.5b", QWEN_0_5B))
    with (
        float32_server(bundles) as server,
        Client(server.address, bundle=bundles / "client") as client,
    ):
        taken = [_open_and_close(client) * 1e3 for _ in range(WARM_UPS + OPENS)][WARM_UPS:]
    series = Series(f"{OPENS} opens, one after the other", "ms", taken)
    yield Figure(
        scenario="open",
        name="opening a session at 0.5B",
        value=series.median,
        unit="ms",
        target=Target("<", 5),
        ours=series,
        note=f"the 95th percentile is {np.percentile(taken, 95):.2g} ms",
    )


def fork(workspace: Workspace, repeats: int) -> Iterator[Figure]:
    """The time to the first token after 1,024 and one more: as a fork of a session that holds the
    1,024, beside a session that is opened and sent them all."""
    bundles = workspace.bundles(workspace.checkpoint("0.5b", QWEN_0_5B))
    rng = np.random.default_rng(0)
    token_ids = rng.integers(0, QWEN_0_5B.vocab_size, PREFIX + 1).tolist()
    with (
        float32_server(bundles) as server,
        Client(server.address, bundle=bundles / "client") as client,
        client.session(max_length=PREFIX + 1) as parent,
    ):
        parent.step(token_ids[:PREFIX], LogitsForm("none"))

        def forked() -> tuple[float, int]:
            started = perf_counter()
            with parent.fork(max_length=PREFIX + 1) as child:
                return _first_token(child, token_ids[PREFIX:], started)

        def opened() -> tuple[float, int]:
            started = perf_counter()
            with client.session(max_length=PREFIX + 1) as session:
                return _first_token(session, token_ids, started)

        pairs = [(forked(), opened()) for _ in range(1 + repeats)][1:]
    ours = Series("fork and 1 token", "s", [seconds for (seconds, _), _ in pairs])
    baseline = Series(
        f"open and {PREFIX + 1:,} tokens", "s", [seconds for _, (seconds, _) in pairs]
    )
    ratios = [b / a for a, b in zip(ours.values, baseline.values, strict=True)]
    same = all(token == other for (_, token), (_, other) in pairs)
    yield Figure(
        scenario="fork",
        name=f"first token after a shared prefix of {PREFIX:,} at 0.5B",
        value=baseline.median / ours.median,
        unit="x",
        target=Target(">=", 20),
        ours=ours,
        baseline=baseline,
        spread=(min(ratios), max(ratios)),
        note=("both chose the same token" if same else "THEY CHOSE DIFFERENT TOKENS")
        + ("" if ours.steady and baseline.steady else UNSTEADY),
    )


def _open_and_close(client: Client) -> float:
    started = perf_counter()
    session = client.session(max_length=OPEN_LENGTH)
    seconds = perf_counter() - started
    session.close()
    return seconds


def _first_token(session: Session, token_ids: Sequence[int], started: float) -> tuple[float, int]:
    """Seconds since started until the answer to the tokens, and the token that it chooses."""
    reply = session.step(token_ids, WANTED)
    seconds = perf_counter() - started
    if reply.logits is None or reply.logits.indices is None:
        raise RuntimeError("the server sent no logits")
    return seconds, int(reply.logits.indices[-1, 0])
