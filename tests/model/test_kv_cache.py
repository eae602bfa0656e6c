"""The cache of one session, compared with rows kept in NumPy."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import ModelConfig
from stip_model.cache.kv_cache import GROWTH, KVCache, kv_bytes_per_token
from stip_model.operations.mlx import MlxOperations

LAYERS, HEADS, HEAD_DIM = 2, 3, 4
CONFIG = ModelConfig(num_hidden_layers=LAYERS, num_key_value_heads=HEADS, head_dim=HEAD_DIM)
OPERATIONS = MlxOperations("cpu", mx.float32)
ROW_BYTES = kv_bytes_per_token(CONFIG, OPERATIONS.itemsize)
BLOCK = GROWTH * ROW_BYTES
Rows = NDArray[np.float32]  # [layers, 2, heads, rows, head_dim]


@pytest.fixture(autouse=True)
def on_cpu() -> None:
    mx.set_default_device(mx.cpu)


def new_cache() -> KVCache:
    return KVCache(CONFIG, OPERATIONS)


def rows_of(count: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((LAYERS, 2, HEADS, count, HEAD_DIM)).astype(np.float32)


NOTHING = rows_of(0, 0)


def release(cache: KVCache) -> int:
    """Release a cache; the number of layers that were copied for it."""
    return len(list(cache.release()))


def write(cache: KVCache, rows: Rows, position: int, *, commit: bool = True) -> Rows:
    """Write rows as a step at a position does; what attention sees of them and of all before."""
    cache.length = position
    for _ in cache.ensure_capacity(position, rows.shape[3]):
        pass
    seen = []
    for layer in range(LAYERS):
        keys, values = (mx.array(each.swapaxes(0, 1)) for each in rows[layer])
        storage = cache.write(layer, OPERATIONS.join_keys_values(keys, values))
        seen.append(storage[:, :, : position + rows.shape[3]])
    mx.eval(seen, cache.layers)
    if commit:
        cache.length += rows.shape[3]
    return np.stack([np.array(each) for each in seen])


def filled(count: int, seed: int = 1) -> tuple[KVCache, Rows]:
    cache, rows = new_cache(), rows_of(count, seed)
    write(cache, rows, 0)
    return cache, rows


def assert_holds(cache: KVCache, rows: Rows) -> None:
    """One more row sees these before it."""
    more = rows_of(1, 99)
    assert cache.length == rows.shape[3]
    seen = write(cache, more, cache.length, commit=False)
    assert np.array_equal(seen, np.concatenate([rows, more], axis=3))


def test_a_step_sees_all_rows_up_to_its_own_however_they_came() -> None:
    cache, rows = new_cache(), NOTHING
    for index, count in enumerate((5, 1, 1, 300, 1, 256, 700)):
        more = rows_of(count, index)
        rows = np.concatenate([rows, more], axis=3)
        assert np.array_equal(write(cache, more, cache.length), rows)


@pytest.mark.parametrize("position", [0, 1, 255, 256, 299])
def test_a_rollback_keeps_what_precedes_it_and_overwrites_what_follows(position: int) -> None:
    cache, rows = filled(300)
    more = rows_of(7, 2)
    seen = write(cache, more, position)
    assert np.array_equal(seen, np.concatenate([rows[:, :, :, :position], more], axis=3))


def test_what_was_not_committed_is_overwritten() -> None:
    cache, rows = filled(10)
    write(cache, rows_of(5, 2), 10, commit=False)
    assert_holds(cache, rows)


def test_memory_is_taken_in_blocks_and_kept_over_rollbacks() -> None:
    cache = new_cache()
    assert cache.nbytes == 0
    for position, count, blocks in (
        (0, 1, 1),
        (1, GROWTH - 1, 1),
        (GROWTH, 1, 2),
        (3, 5, 2),
        (8, 3 * GROWTH, 4),
    ):
        write(cache, rows_of(count, 1), position)
        assert cache.nbytes == blocks * BLOCK


def test_a_fork_takes_no_memory_until_it_is_written_to() -> None:
    source, rows = filled(300)
    fork = source.fork(200)
    of_fork = fork.fork(100)
    assert (fork.length, fork.nbytes, of_fork.length, of_fork.nbytes) == (200, 0, 100, 0)
    write(source, rows_of(1, 2), 300)
    assert fork.nbytes == of_fork.nbytes == 0
    assert_holds(of_fork, rows[:, :, :, :100])
    assert (fork.nbytes, of_fork.nbytes) == (0, BLOCK)
    write(fork, rows_of(100, 3), 200)
    assert fork.nbytes == 2 * BLOCK


def test_a_written_fork_and_its_source_share_nothing() -> None:
    source, rows = filled(300)
    fork = source.fork(300)
    of_fork = rows_of(9, 2)
    write(fork, of_fork, 50)
    assert_holds(source, rows)
    write(source, rows_of(9, 3), 0)
    assert_holds(fork, np.concatenate([rows[:, :, :, :50], of_fork], axis=3))


def test_a_source_that_is_overwritten_leaves_its_forks_what_they_had() -> None:
    source, rows = filled(300)
    forks = short, exact, long, longest = [source.fork(each) for each in (100, 150, 151, 160)]
    write(source, rows_of(400, 2), 150)
    # one has copied, for those that are affected
    assert [each.nbytes for each in forks] == [0, 0, 0, BLOCK]
    write(source, rows_of(1, 3), 120)
    assert [each.nbytes for each in forks] == [0, BLOCK, 0, BLOCK]
    for fork in (longest, short, exact, long):
        assert_holds(fork, rows[:, :, :, : fork.length])


def test_the_longest_fork_inherits_what_a_source_leaves_without_a_copy() -> None:
    source, rows = filled(300)
    forks = longest, *_ = [source.fork(length) for length in (290, 290, 200)]
    assert release(source) == 0
    assert (source.nbytes, *(each.nbytes for each in forks)) == (0, 2 * BLOCK, 0, 0)
    write(longest, rows_of(1, 2), 290)
    for each in forks[1:]:
        assert_holds(each, rows[:, :, :, : each.length])


def test_a_fork_much_shorter_than_its_source_inherits_no_more_memory_than_it_needs() -> None:
    source, rows = filled(300)
    fork = source.fork(200)
    of_fork = fork.fork(100)
    assert release(source) == LAYERS
    assert [each.nbytes for each in (source, fork, of_fork)] == [0, BLOCK, 0]
    for each in (fork, of_fork):
        assert_holds(each, rows[:, :, :, : each.length])


def test_capacity_can_be_ensured_before_it_is_needed_and_changes_nothing() -> None:
    source, rows = filled(250)
    fork, short = source.fork(200), source.fork(100)
    for cache, position, count, copied in (
        (source, 250, 6, 0),
        (source, 250, 7, 250),
        (source, 199, 1, 200),
        (fork, 200, 1, 0),
        (short, 100, 1, 100),
    ):
        assert cache.bytes_to_copy(position, count) == copied * ROW_BYTES
        assert len(list(cache.ensure_capacity(position, count))) == (LAYERS if copied else 0)
        assert cache.bytes_to_copy(position, count) == 0
    assert_holds(source, rows)
    assert_holds(fork, rows[:, :, :, :200])


def test_a_copy_that_fails_leaves_the_cache_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    source, rows = filled(250)
    fork = source.fork(200)
    enlarge, calls = MlxOperations.enlarge, 0

    def fails_at_the_second_layer(*arguments: Any) -> mx.array:
        nonlocal calls
        calls += 1
        if calls % 2 == 0:
            raise RuntimeError("injected")
        return enlarge(*arguments)

    monkeypatch.setattr(MlxOperations, "enlarge", fails_at_the_second_layer)
    for cache, length in ((source, 250), (fork, 200)):
        with pytest.raises(RuntimeError):
            list(cache.ensure_capacity(length, 100))
    monkeypatch.undo()
    assert_holds(fork, rows[:, :, :, :200])
    assert_holds(source, rows)
    write(source, rows_of(100, 2), 250)


def test_a_fork_that_is_released_is_copied_no_more() -> None:
    source, rows = filled(300)
    gone, stays = source.fork(200), source.fork(200)
    release(gone)
    write(source, rows_of(1, 2), 0)
    assert (gone.nbytes, stays.nbytes) == (0, BLOCK)
    assert_holds(stays, rows[:, :, :, :200])


def test_what_is_lost_is_lost_to_those_who_borrow_it_and_to_no_other() -> None:
    source, rows = filled(300)
    written, borrowing = source.fork(200), source.fork(200)
    of_borrowing = borrowing.fork(100)
    write(written, rows_of(1, 2), 200, commit=False)
    source.lose()
    assert [each.lost for each in (source, borrowing, of_borrowing)] == [True] * 3
    assert [each.nbytes for each in (source, borrowing, of_borrowing)] == [0] * 3
    assert not written.lost
    assert_holds(written, rows[:, :, :, :200])


def test_a_copy_that_fails_loses_the_fork_alone() -> None:
    source, _ = filled(300)
    fork = source.fork(200)
    # a matrix without an inverse: evaluating it raises
    broken = mx.linalg.inv(mx.zeros((2, 2)), stream=mx.cpu)
    source._layers = [mx.broadcast_to(broken[0, 0], each.shape) for each in source.layers]
    release(source)
    assert fork.lost
    assert not source.lost


class Caches(RuleBasedStateMachine):
    """Any number of caches that are written to, rolled back, forked and released in any order."""

    @initialize()
    def begin(self) -> None:
        mx.set_default_device(mx.cpu)
        self.caches: list[tuple[KVCache, Rows]] = [(new_cache(), NOTHING)]
        self.seed = 0

    def _pick(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.caches) - 1))

    @rule(data=st.data(), count=st.sampled_from((1, 2, 100, 300)))
    def write(self, data: st.DataObject, count: int) -> None:
        index = self._pick(data)
        cache, rows = self.caches[index]
        position = data.draw(st.integers(0, cache.length))
        self.seed += 1
        more = rows_of(count, self.seed)
        rows = np.concatenate([rows[:, :, :, :position], more], axis=3)
        assert np.array_equal(write(cache, more, position), rows)
        self.caches[index] = cache, rows

    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        cache, rows = self.caches[self._pick(data)]
        length = data.draw(st.integers(0, cache.length))
        self.caches.append((cache.fork(length), rows[:, :, :, :length]))

    @precondition(lambda self: len(self.caches) > 1)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        cache, _ = self.caches.pop(self._pick(data))
        release(cache)
        assert cache.nbytes == 0

    def teardown(self) -> None:
        for cache, rows in self.caches:
            assert_holds(cache, rows)


Caches.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestCaches = Caches.TestCase
