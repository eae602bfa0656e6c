"""The scheduler as a state machine: whatever comes in whatever order, its promises hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence, Sized

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from stip_server.engine.scheduler import DELAY_SHARE, MAX_DELAY, SHORT_ROWS, Scheduler
from stip_server.engine.step import Chunk, LogitsForm, Step, WantedRows

NAMES = (b"a", b"b", b"c", b"d", b"e")
SESSIONS = st.sampled_from(NAMES)
# of decode steps, drafts up to the longest, and prompts from the shortest
STEP_ROWS = st.one_of(
    st.just(1),
    st.integers(1, SHORT_ROWS),
    st.integers(SHORT_ROWS + 1, SHORT_ROWS + 4),
    st.integers(SHORT_ROWS + 1, 150),
)
# Smaller than a draft, smaller than its share for prompts, and ample.
BUDGETS = st.one_of(st.integers(1, 4), st.integers(1, SHORT_ROWS + 2), st.integers(1, 200))
PAUSES = st.sampled_from([0.0001, 0.001, 0.004, 0.009, 0.02, 1.0])
ITERATION_SECONDS = st.sampled_from([0.001, 0.02, 0.1, 0.3, 30.0])


class Expected:
    """What a right scheduler knows of a session: the steps that wait, and whose turn it is."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.begun = 0  # rows of the first step that were handed out
        self.started = 0.0  # when the first of them were
        self.patience = 0  # iterations within which it must have a turn

    @property
    def is_short(self) -> bool:
        return self.steps[0].num_rows <= SHORT_ROWS


class SchedulerMachine(RuleBasedStateMachine):
    """Sessions send steps, and are cancelled; an engine computes, and fails now and then."""

    @initialize(budget=BUDGETS)
    def start(self, budget: int) -> None:
        self.now = 0.0
        self.budget = budget
        self.scheduler = Scheduler(budget, clock=lambda: self.now)
        self.sessions: defaultdict[bytes, Expected] = defaultdict(Expected)
        self.running: Sequence[Chunk] | None = None
        self.prompts_ran = False
        self.last_seconds = 0.0
        self.last_answer = 0.0
        # sessions that were answered and have not come back since, and when that was
        self.away: dict[bytes, float] = {}
        # seconds that a session took to come back the last time
        self.slowness: dict[bytes, float] = {}

    @property
    def waiting(self) -> dict[bytes, Expected]:
        return {name: each for name, each in self.sessions.items() if each.steps}

    @rule(session=SESSIONS, steps=st.lists(STEP_ROWS, min_size=1, max_size=8))
    def submit(self, session: bytes, steps: list[int]) -> None:
        for rows in steps:
            self.submit_one(session, rows)

    def submit_one(self, session: bytes, rows: int) -> None:
        step = Step(
            session_id=session,
            position=0,
            hidden_states=np.zeros((rows, 1), np.float16),
            form=LogitsForm(WantedRows.LAST, top_k=0, half_precision=True),
            deliver=lambda _: None,
        )
        self.scheduler.submit(step)
        assert step.submitted == self.now
        expected = self.sessions[session]
        expected.steps.append(step)
        if len(expected.steps) == 1:
            self.goes_to_the_back(session)
        if session in self.away:
            self.slowness[session] = self.now - self.away.pop(session)

    @precondition(lambda self: self.running is None)
    @rule(without=st.just(()) | st.lists(SESSIONS))
    def begin_iteration(self, without: Sequence[bytes] = ()) -> None:
        """Some sessions may not be ready, and are skipped."""
        ready = {name: each for name, each in self.waiting.items() if name not in without}
        rest = [(each.step.session_id, each.start) for each in self.scheduler.remaining_chunks()]
        assert dict(rest) == {name: each.begun for name, each in self.waiting.items()}
        short_ready = any(each.is_short for each in ready.values())
        prompt_ready = any(not each.is_short for each in ready.values())
        batch = self.scheduler.next_chunks(without)
        assert bool(batch) == bool(ready)
        assert not {chunk.step.session_id for chunk in batch} & set(without)
        self.check_budget(batch)
        served = [chunk.step.session_id for chunk in batch]
        assert len(set(served)) == len(served)
        prompts_run = any(chunk.step.num_rows > SHORT_ROWS for chunk in batch)
        if short_ready and self.prompts_ran:
            assert not prompts_run, "short steps wait behind one iteration with prompt rows"
        elif prompt_ready:
            assert prompts_run, "prompts get every second iteration"
        self.prompts_ran = prompts_run
        for chunk in batch:
            self.take(chunk)
        for name, each in self.waiting.items():
            if name not in served and name not in without:
                each.patience -= 1
                assert each.patience > 0, f"{name!r} is starved"
        if batch:
            self.running = batch

    def check_budget(self, batch: Sequence[Chunk]) -> None:
        rows = sum(chunk.num_rows for chunk in batch)
        # a draft that no iteration could hold runs alone
        alone = len(batch) == 1 and batch[0].step.num_rows <= SHORT_ROWS
        assert rows <= self.budget or alone

    def take(self, chunk: Chunk) -> None:
        """The chunk is the next rows of its session's first step."""
        session = chunk.step.session_id
        expected = self.sessions[session]
        assert chunk.step is expected.steps[0]
        assert chunk.start == expected.begun
        assert chunk.start < chunk.stop <= chunk.step.num_rows
        if expected.is_short:
            assert (chunk.start, chunk.stop) == (0, chunk.step.num_rows)
        if chunk.start == 0:
            expected.started = self.now
        assert chunk.step.started == expected.started
        expected.begun = chunk.stop
        if chunk.is_last:
            self.ends(expected)
        self.goes_to_the_back(session)

    def ends(self, expected: Expected) -> None:
        expected.steps.pop(0)
        expected.begun = 0

    def goes_to_the_back(self, session: bytes) -> None:
        # every second iteration serves the first one of its kind, short or prompt
        self.sessions[session].patience = 2 * len({*self.waiting, session})

    @precondition(lambda self: self.running)
    @rule(seconds=ITERATION_SECONDS)
    def end_iteration(self, seconds: float) -> None:
        self.now += seconds
        self.scheduler.record_iteration(self.running, seconds)
        self.last_seconds = seconds
        self.last_answer = self.now
        for chunk in self.running:
            if chunk.is_last and chunk.step.session_id not in self.waiting:
                self.away[chunk.step.session_id] = self.now
        self.running = None

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 4))
    def fail(self, which: int) -> None:
        """A chunk of the iteration fails; the others count."""
        failed = self.running[which % len(self.running)]
        dropped = self.scheduler.discard(failed.step)
        expected = self.sessions[failed.step.session_id]
        assert dropped == bool(expected.steps and expected.steps[0] is failed.step)
        if dropped:
            self.ends(expected)
            self.goes_to_the_back(failed.step.session_id)
        self.running = [chunk for chunk in self.running if chunk is not failed] or None

    @rule(session=SESSIONS)
    def cancel(self, session: bytes) -> None:
        cancelled = self.scheduler.cancel(session)
        expected = self.sessions.pop(session, Expected())
        assert cancelled == expected.steps
        self.away.pop(session, None)
        self.slowness.pop(session, None)

    @rule(session=SESSIONS)
    def stop_expecting(self, session: bytes) -> None:
        self.scheduler.stop_expecting(session)
        self.away.pop(session, None)
        self.slowness.pop(session, None)

    @precondition(lambda self: self.running is None and self.waiting)
    @rule()
    def drain(self) -> None:
        """Nobody sends more, and what waits comes to its end."""
        while self.waiting:
            self.begin_iteration()
            self.end_iteration(0.02)
        assert self.scheduler.next_chunks() == []
        self.prompts_ran = False

    @precondition(lambda self: self.running is None)
    @rule()
    def everyone_leaves(self) -> None:
        """Nothing is kept of a session that has ended, as it does once no step of it runs."""
        for session in NAMES:
            self.cancel(session)
        kept = {
            name: each for name, each in vars(self.scheduler).items() if isinstance(each, Sized)
        }
        assert not any(kept.values()), kept

    @rule(seconds=PAUSES)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def nothing_is_lost_or_invented(self) -> None:
        assert len(self.scheduler) == sum(len(each.steps) for each in self.waiting.values())

    @invariant()
    def an_iteration_is_delayed_seldom_and_never_for_long(self) -> None:
        delay = self.scheduler.delay()
        longest = min(MAX_DELAY, DELAY_SHARE * self.last_seconds)
        # the last answer may lie back by a rounding error more
        assert 0 <= delay <= max(0.0, self.last_answer + longest - self.now) + 1e-9
        quick = [name for name in self.away if self.slowness.get(name, 0.0) <= longest]
        if not self.waiting or not quick:
            assert delay == 0


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=150, stateful_step_count=40)
