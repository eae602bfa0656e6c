"""The scheduler, without MLX, threads or time."""

from __future__ import annotations

import numpy as np

from stip_server.scheduler import Scheduler
from stip_server.steps import Rows, Step


def step(session: str, rows: int = 1, position: int = 0) -> Step:
    return Step(
        session_id=session.encode(),
        position=position,
        hidden_states=np.zeros((rows, 2), np.float16),
        rows=Rows.LAST,
        half_precision=True,
        top_k=0,
        submitted=0.0,
        deliver=lambda _: None,
    )


def names(batch: list[Step]) -> list[tuple[str, int]]:
    return [(each.session_id.decode(), each.position) for each in batch]


def test_nothing_waits_at_first() -> None:
    assert Scheduler(8).next_batch() == []


def test_steps_of_one_session_run_one_an_iteration_in_order() -> None:
    scheduler = Scheduler(8)
    for position in range(3):
        scheduler.submit(step("a", position=position))
    assert len(scheduler) == 3
    assert [names(scheduler.next_batch()) for _ in range(4)] == [
        [("a", 0)],
        [("a", 1)],
        [("a", 2)],
        [],
    ]


def test_sessions_share_an_iteration() -> None:
    scheduler = Scheduler(8)
    for session in "abc":
        scheduler.submit(step(session))
    assert names(scheduler.next_batch()) == [("a", 0), ("b", 0), ("c", 0)]


def test_decode_steps_come_before_prompts() -> None:
    scheduler = Scheduler(8)
    scheduler.submit(step("prompt", rows=7))
    scheduler.submit(step("decode"))
    assert names(scheduler.next_batch()) == [("decode", 0), ("prompt", 0)]


def test_a_prompt_beyond_the_budget_waits_for_the_next_iteration() -> None:
    scheduler = Scheduler(8)
    scheduler.submit(step("first", rows=6))
    scheduler.submit(step("second", rows=6))
    assert names(scheduler.next_batch()) == [("first", 0)]
    assert names(scheduler.next_batch()) == [("second", 0)]


def test_a_step_larger_than_the_budget_runs_alone() -> None:
    scheduler = Scheduler(8)
    scheduler.submit(step("large", rows=20))
    assert names(scheduler.next_batch()) == [("large", 0)]


def test_prompts_take_turns() -> None:
    scheduler = Scheduler(4)
    for position in range(2):
        for session in "ab":
            scheduler.submit(step(session, rows=4, position=position))
    order = [names(scheduler.next_batch())[0] for _ in range(4)]
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_cancelled_steps_never_run_and_others_do() -> None:
    scheduler = Scheduler(8)
    scheduler.submit(step("a"))
    scheduler.submit(step("b"))
    scheduler.submit(step("a", position=1))
    assert names(scheduler.cancel(b"a")) == [("a", 0), ("a", 1)]
    assert scheduler.cancel(b"a") == []
    assert names(scheduler.next_batch()) == [("b", 0)]
    assert scheduler.next_batch() == []


def test_running_sessions_do_not_keep_a_large_prompt_waiting() -> None:
    scheduler = Scheduler(8)
    scheduler.submit(step("prompt", rows=8))
    scheduler.submit(step("decode"))
    assert names(scheduler.next_batch()) == [("decode", 0), ("prompt", 0)]
