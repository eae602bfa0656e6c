"""Sessions that come, go, roll back, fork, break and resume beside each other are answered like
unmodified mlx-lm that runs alone on the tokens of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import grpc
import pytest

from stip.v1.inference_pb2 import GetModelInfoRequest
from stip.v1.inference_pb2_grpc import InferenceServiceStub
from stip_client.bundle.client_bundle import ClientBundle
from tests.support.models.oracle import Oracle
from tests.support.models.random_models import MODELS
from tests.support.parties import make_model
from tests.support.servers.engine_trace import Trace, TracedChunk
from tests.support.servers.failpoints import faulty_server
from tests.support.sessions.ledger import Ledger
from tests.support.sessions.random_session import CUTS, LONGEST_PROMPT, RandomSession
from tests.support.wire.wire_session import House

SESSIONS = 8
ACTIONS = 12
FORKS = 2  # that each may leave behind, and these half as many
# a model's iteration on a CPU, which a tiny one would not take: sessions meet in batches
ITERATION = 0.004

TIED, UNTIED, ONE_KEY_VALUE_HEAD = (
    "qwen2-tied-odd-heads",
    "llama-untied-llama3-scaling-head-dim",
    "qwen2-untied-bfloat16-shards",
)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a model's checkpoint/ and bundles/, made when it is first asked for."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("many")
            make_model(made[name], MODELS[name])
        return made[name]

    return folder


class Threads:
    """Runs everything that is started at once, and waits for all of it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=100)
        self._running: SimpleQueue[Future[None]] = SimpleQueue()

    def start(self, run: Callable[[], None]) -> None:
        self._running.put(self._pool.submit(run))

    def join(self) -> None:
        """Return when nothing runs, or raise what one of them raised."""
        while not self._running.empty():
            self._running.get().result()


@pytest.mark.parametrize(
    ("name", "seed", "max_batch_rows", "faults"),
    [
        (TIED, 1, 512, []),
        pytest.param(TIED, 2, 24, [], marks=pytest.mark.long),
        (UNTIED, 3, 40, []),
        pytest.param(UNTIED, 4, 512, [], marks=pytest.mark.long),
        pytest.param(ONE_KEY_VALUE_HEAD, 5, 64, [], marks=pytest.mark.long),
        # what sessions long enough would have copied between iterations
        pytest.param(TIED, 6, 64, ["copies"], marks=pytest.mark.long),
    ],
)
def test_each_of_many_sessions_is_answered_as_alone(
    name: str,
    seed: int,
    max_batch_rows: int,
    faults: list[str],
    folder_of: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder = folder_of(name)
    ledger, threads, trace = Ledger(), Threads(), Trace(tmp_path / "trace")
    with faulty_server(
        folder / "bundles" / "server",
        [f"slow={ITERATION}", f"trace={tmp_path / 'trace'}", *faults],
        *("--dtype", "float32", "--max-batch-rows", max_batch_rows),
    ) as server:
        bundle = ClientBundle(folder / "bundles" / "client")
        house = House(server.address, bundle, ledger, threads.start)
        for index in range(SESSIONS):
            threads.start(RandomSession(house, f"{seed}/{index}", actions=ACTIONS, forks=FORKS).run)
        threads.join()
        with grpc.insecure_channel(server.address) as channel:
            load = InferenceServiceStub(channel).GetModelInfo(GetModelInfoRequest()).load
    ledger.compare(Oracle(folder / "checkpoint"))
    assert (load.sessions, load.kv_bytes_reserved, load.waiting_steps) == (0, 0, 0)
    assert_eventful(ledger.done)
    assert_batched(trace.read(), chunked=max_batch_rows < LONGEST_PROMPT)


def assert_eventful(done: Counter[str]) -> None:
    """The sessions did all that they are to be compared after."""
    assert done["fork"] and done["fork under way"]
    assert done["fork"] + done["fork under way"] >= SESSIONS
    assert done["rollback"] >= 5 * SESSIONS
    assert done["drop under way"] >= 2 * SESSIONS
    assert all(done[cut] for cut in CUTS)
    assert done["resumed elsewhere"] >= SESSIONS
    assert done["resumed where it stood"]


def assert_batched(iterations: list[list[TracedChunk]], *, chunked: bool) -> None:
    """The sessions were computed together: an iteration is what one of them holds."""

    def count(holds: Callable[[list[TracedChunk]], bool]) -> int:
        return sum(map(holds, iterations))

    assert count(lambda each: len(each) >= SESSIONS // 2) >= 10
    assert (
        count(lambda each: any(c.is_token for c in each) and any(c.is_prompt for c in each)) >= 10
    )
    assert count(lambda each: len(each) > 1 and any(c.rolls_back for c in each)) >= 10
    if chunked:
        assert count(lambda each: len(each) > 1 and any(c.is_part for c in each)) >= 10
