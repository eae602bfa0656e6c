"""The scheduler, without MLX, threads or time."""

from __future__ import annotations

import numpy as np
import pytest

from stip_server.engine.scheduler import SHORT_ROWS, Scheduler
from stip_server.engine.step import Chunk, LogitsForm, Step, WantedRows

LONG = SHORT_ROWS + 1
BUDGET = 40


def scheduler_of(budget: int = BUDGET) -> Scheduler:
    return Scheduler(budget, clock=lambda: 0.0)


def step(session: str, rows: int = 1, position: int = 0) -> Step:
    return Step(
        session_id=session.encode(),
        position=position,
        hidden_states=np.zeros((rows, 2), np.float16),
        form=LogitsForm(WantedRows.LAST, top_k=0, half_precision=True),
        deliver=lambda _: None,
    )


def names(batch: list[Chunk]) -> list[tuple[str, int, int]]:
    """Each chunk's session, position and rows."""
    return [(each.step.session_id.decode(), each.position, each.num_rows) for each in batch]


def drained(scheduler: Scheduler) -> list[list[tuple[str, int, int]]]:
    """Every iteration until nothing waits."""
    return [names(batch) for batch in iter(scheduler.next_chunks, [])]


def test_nothing_waits_at_first() -> None:
    assert scheduler_of().next_chunks() == []


def test_steps_of_one_session_run_one_an_iteration_in_order() -> None:
    scheduler = scheduler_of()
    for position in range(3):
        scheduler.submit(step("a", position=position))
    assert len(scheduler) == 3
    assert drained(scheduler) == [[("a", 0, 1)], [("a", 1, 1)], [("a", 2, 1)]]


def test_sessions_share_an_iteration() -> None:
    scheduler = scheduler_of()
    for session in "abc":
        scheduler.submit(step(session))
    assert drained(scheduler) == [[("a", 0, 1), ("b", 0, 1), ("c", 0, 1)]]


def test_decode_steps_come_before_prompts() -> None:
    scheduler = scheduler_of()
    scheduler.submit(step("prompt", rows=LONG))
    scheduler.submit(step("decode"))
    assert drained(scheduler) == [[("decode", 0, 1), ("prompt", 0, LONG)]]


def test_a_draft_runs_whole_like_a_decode_step() -> None:
    scheduler = scheduler_of()
    scheduler.submit(step("prompt", rows=100))
    scheduler.submit(step("draft", rows=SHORT_ROWS))
    assert ("draft", 0, SHORT_ROWS) in names(scheduler.next_chunks())


def test_a_prompt_is_cut_into_chunks_of_about_one_size() -> None:
    scheduler = scheduler_of()
    scheduler.submit(step("a", rows=BUDGET + 1, position=7))
    assert drained(scheduler) == [[("a", 7, 21)], [("a", 28, 20)]]


def test_between_two_tokens_of_a_running_session_lies_at_most_one_chunk() -> None:
    scheduler = scheduler_of()
    scheduler.submit(step("prompt", rows=10 * BUDGET))
    scheduler.next_chunks()
    seen = []
    for position in range(4):
        # the session sends its next step while a chunk is computed
        scheduler.submit(step("decode", position=position))
        seen.append(names(scheduler.next_chunks()))
        assert [name for name, _, _ in names(scheduler.next_chunks())] == ["prompt"]
    assert seen == [[("decode", position, 1)] for position in range(4)]


def test_prompts_get_at_least_every_second_iteration() -> None:
    scheduler = scheduler_of()
    scheduler.submit(step("prompt", rows=4 * BUDGET))
    for position in range(100):
        scheduler.submit(step("decode", position=position))
    with_prompt = [any(name == "prompt" for name, _, _ in batch) for batch in drained(scheduler)]
    assert with_prompt[:6] == [True, False] * 3


def test_many_decodes_leave_a_share_to_prompts() -> None:
    scheduler = scheduler_of(8)
    scheduler.submit(step("prompt", rows=LONG))
    for session in range(20):
        scheduler.submit(step(f"d{session}"))
    batch = names(scheduler.next_chunks())
    assert sum(rows for _, _, rows in batch) <= 8
    assert sum(rows for name, _, rows in batch if name == "prompt") == 2


def test_prompts_take_turns_and_share_what_is_left() -> None:
    scheduler = scheduler_of()
    for session in "ab":
        scheduler.submit(step(session, rows=60))
    assert drained(scheduler) == [
        [("a", 0, 30), ("b", 0, 10)],
        [("a", 30, 30), ("b", 10, 10)],
        [("b", 20, 40)],
    ]


def test_cancelled_steps_never_run_and_others_do() -> None:
    scheduler = scheduler_of()
    scheduler.submit(step("a"))
    scheduler.submit(step("b"))
    scheduler.submit(step("a", position=1))
    assert [each.position for each in scheduler.cancel(b"a")] == [0, 1]
    assert scheduler.cancel(b"a") == []
    assert drained(scheduler) == [[("b", 0, 1)]]


def test_a_step_cancelled_half_way_leaves_no_trace() -> None:
    scheduler = scheduler_of()
    begun = step("a", rows=2 * BUDGET)
    scheduler.submit(begun)
    scheduler.next_chunks()
    assert scheduler.cancel(b"a") == [begun]
    scheduler.submit(step("a", rows=LONG))
    assert drained(scheduler) == [[("a", 0, LONG)]]


def test_what_is_left_of_a_failed_step_is_dropped_and_the_next_one_runs() -> None:
    scheduler = scheduler_of()
    failing, following = step("a", rows=2 * BUDGET), step("a", position=3)
    scheduler.submit(failing)
    scheduler.submit(following)
    scheduler.next_chunks()
    scheduler.discard(failing)
    scheduler.discard(failing)  # once is enough
    assert drained(scheduler) == [[("a", 3, 1)]]


def test_the_clock_stamps_when_a_step_came_and_when_it_began() -> None:
    now = [5.0]
    scheduler = Scheduler(BUDGET, clock=lambda: now[0])
    waiting = step("a", rows=BUDGET + 1)
    scheduler.submit(waiting)
    now[0] = 8.0
    scheduler.next_chunks()
    now[0] = 9.0
    scheduler.next_chunks()
    assert (waiting.submitted, waiting.started) == (5.0, 8.0)


def delaying_scheduler(now: list[float]) -> Scheduler:
    """Two sessions were answered together at 1.0, after an iteration of 0.1 s: a delay of 5 ms."""
    scheduler = Scheduler(BUDGET, clock=lambda: now[0])
    for session in "ab":
        scheduler.submit(step(session))
    batch = scheduler.next_chunks()
    now[0] = 1.0
    scheduler.record_iteration(batch, 0.1)
    assert scheduler.delay() == 0.0  # nothing waits
    return scheduler


def test_an_iteration_is_delayed_for_a_session_that_was_answered_with_the_first_one_back() -> None:
    scheduler = delaying_scheduler(now := [0.0])
    now[0] = 1.001
    scheduler.submit(step("a", position=1))
    assert scheduler.delay() == pytest.approx(0.004)
    now[0] = 1.002
    scheduler.submit(step("b", position=1))
    assert scheduler.delay() == 0.0
    assert len(scheduler.next_chunks()) == 2


def test_it_is_not_delayed_for_longer_than_a_part_of_the_iteration() -> None:
    scheduler = delaying_scheduler(now := [0.0])
    scheduler.submit(step("a", position=1))
    now[0] = 1.0051
    assert scheduler.delay() == 0.0


def test_it_is_not_delayed_for_a_session_that_was_slow_last_time_nor_for_one_that_left() -> None:
    scheduler = delaying_scheduler(now := [0.0])
    scheduler.submit(step("a", position=1))
    now[0] = 1.05
    scheduler.submit(step("b", position=1))
    scheduler.record_iteration(scheduler.next_chunks(), 0.1)
    scheduler.submit(step("a", position=2))
    assert scheduler.delay() == 0.0  # b took 50 ms
    scheduler = delaying_scheduler([0.0])
    scheduler.submit(step("a", position=1))
    scheduler.cancel(b"b")
    assert scheduler.delay() == 0.0


def test_sessions_that_are_skipped_keep_their_places() -> None:
    scheduler = scheduler_of()
    for session in "abc":
        scheduler.submit(step(session))
    assert names(scheduler.next_chunks(without=[b"a", b"c"])) == [("b", 0, 1)]
    assert drained(scheduler) == [[("a", 0, 1), ("c", 0, 1)]]


def test_what_remains_of_first_steps_is_listed_and_stays_queued() -> None:
    scheduler = scheduler_of()
    scheduler.submit(step("a", rows=100, position=7))
    scheduler.submit(step("b"))
    scheduler.submit(step("b", position=1))
    assert names(scheduler.remaining_chunks()) == [("a", 7, 100), ("b", 0, 1)]
    taken = names(scheduler.next_chunks())
    assert taken[0] == ("b", 0, 1)
    rows = taken[1][2]
    assert names(scheduler.remaining_chunks()) == [("b", 1, 1), ("a", 7 + rows, 100 - rows)]
