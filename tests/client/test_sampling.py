"""Sampling from whole rows, and from the largest logits of a row where they decide it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stip_client.errors import RequestError, ServerError
from stip_client.sampling.exact_draw import LogitsRow, choose
from stip_client.sampling.parameters import SamplingParameters
from stip_client.sampling.sampler import Sampler
from stip_client.transport.wire_tensors import LogitsArrays


def row(*values: float) -> LogitsArrays:
    return LogitsArrays(np.array([values], np.float32))


def largest(logits: LogitsArrays, k: int) -> LogitsArrays:
    """What a server answers when it is asked for the top k: as the whole row where k is 0."""
    if k == 0:
        return logits
    values = logits.values
    indices = np.argsort(-values, axis=-1, kind="stable")[:, :k].astype(np.int32)
    sums = np.log(np.exp(values.astype(np.float64)).sum(axis=-1)).astype(np.float32)
    return LogitsArrays(np.take_along_axis(values, indices, -1), indices, sums)


def sampler_of(logits: LogitsArrays, tokens: Sequence[int] = (), **parameters: object) -> Sampler:
    return Sampler(SamplingParameters(**parameters), logits.values.shape[1], tokens)  # type: ignore[arg-type]


def choose_as_asked(sampler: Sampler, logits: LogitsArrays) -> int:
    """A token, from answers as small as the sampler asks for."""
    for _ in range(3):
        if (choice := sampler.sample(largest(logits, sampler.top_k))) is not None:
            return choice.token_id
    raise AssertionError("not even the whole row decides it")


def draws(logits: LogitsArrays, count: int = 20_000, **parameters: object) -> Counter[int]:
    sampler = sampler_of(logits, **parameters)
    return Counter(choose_as_asked(sampler, logits) for _ in range(count))


def shares(counter: Counter[int], size: int) -> NDArray[np.float64]:
    return np.array([counter[token] for token in range(size)]) / counter.total()


def softmax(values: NDArray[np.float32]) -> NDArray[np.float64]:
    powers = np.exp(values.astype(np.float64))
    return powers / powers.sum()


def test_greedy_takes_the_largest_and_tells_its_log_probability() -> None:
    logits = row(0.5, 3.0, -1.0)
    for answer in (logits, largest(logits, 1)):
        choice = sampler_of(logits).sample(answer)
        assert choice is not None
        assert choice.token_id == 1
        assert choice.logprob == pytest.approx(np.log(softmax(logits.values[0])[1]), abs=1e-6)


def test_the_likeliest_tokens_are_told_in_order() -> None:
    logits = row(0.5, 3.0, -1.0, 2.0)
    for answer in (logits, largest(logits, 3)):
        choice = sampler_of(logits, top_logprobs=3).sample(answer)
        assert choice is not None
        assert [token for token, _ in choice.top_logprobs] == [1, 3, 0]
        logprobs = np.array([logprob for _, logprob in choice.top_logprobs])
        expected = np.log(softmax(logits.values[0]))[[1, 3, 0]]
        np.testing.assert_allclose(logprobs, expected, atol=1e-6)


def test_temperature_sampling_follows_the_distribution() -> None:
    logits = row(1.0, 2.0, 0.0, -1.0)
    found = shares(draws(logits, temperature=0.7, seed=1), 4)
    np.testing.assert_allclose(found, softmax(logits.values[0] / 0.7), atol=0.015)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = row(*np.log([0.5, 0.3, 0.15, 0.05]))
    found = draws(logits, temperature=1.0, top_p=0.79, seed=5)
    assert set(found) == {0, 1}
    assert shares(found, 4)[0] == pytest.approx(0.625, abs=0.015)


def test_min_p_drops_what_is_far_below_the_most_likely() -> None:
    logits = row(*np.log([0.5, 0.3, 0.15, 0.05]))
    assert set(draws(logits, temperature=1.0, min_p=0.31, seed=6)) == {0, 1}


@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.0, 0.3, 1.0, 4.0, 30.0]),
    step=st.sampled_from([0.0, 0.0, 0.25]),  # logits that are multiples of it are often equal
    k=st.sampled_from([1, 2, 7, 40, 299]),
    temperature=st.sampled_from([0.2, 0.7, 1.0, 1.5, 4.0]),
    top_k=st.sampled_from([0, 0, 3, 40, 100, 1000]),
    top_p=st.sampled_from([1.0, 1.0, 0.951, 0.507, 0.053]),
    min_p=st.sampled_from([0.0, 0.0, 0.021, 0.6]),
)
@settings(max_examples=300, deadline=None)
def test_what_the_largest_logits_decide_is_what_the_whole_row_gives(
    seed: int,
    spread: float,
    step: float,
    k: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
) -> None:
    draw = np.random.default_rng(seed)
    logits = (spread * draw.standard_normal((1, 300))).astype(np.float32)
    if step:
        logits = (logits / step).round() * np.float32(step)
    truncation = SamplingParameters(temperature, top_k, top_p, min_p)
    # which of equal logits are among the largest is the server's choice
    ordered = np.sort(logits[0])[::-1]
    arbitrary = 0 < top_k <= k and ordered[top_k - 1] == ordered[k]
    answer = largest(LogitsArrays(logits), k)
    assert answer.indices is not None and answer.log_sum_exp is not None
    known = LogitsRow.of_largest(
        answer.values[0], answer.indices[0], 300 - k, float(answer.log_sum_exp[0])
    )
    for number in draw.random(20):
        place = choose(known, truncation, number)
        expected = reference(logits[0].astype(np.float64), truncation, number)
        if place is not None and not arbitrary:
            assert known.token_ids[place] == expected
        for count in (50, 300):
            whole = LogitsRow.of(logits[0], count)
            place = choose(whole, truncation, number)
            assert place is not None or count < 300
            assert place is None or whole.token_ids[place] == expected


def reference(logits: NDArray[np.float64], truncation: SamplingParameters, draw: float) -> int:
    """The definition, word for word, from all logits."""
    scaled = logits / truncation.temperature
    order = np.argsort(-scaled, kind="stable")
    if truncation.top_k:
        order = order[: truncation.top_k]
    probabilities = np.exp(scaled[order] - scaled[order[0]])
    probabilities /= probabilities.sum()
    before = np.cumsum(probabilities) - probabilities
    if truncation.top_p < 1.0:
        probabilities = np.where(before < truncation.top_p, probabilities, 0.0)
    floor = truncation.min_p * probabilities[0]
    probabilities = np.where(probabilities >= floor, probabilities, 0.0)
    cumulative = np.cumsum(probabilities)
    return int(order[np.searchsorted(cumulative, draw * cumulative[-1], "right")])


def test_few_logits_decide_most_draws() -> None:
    """Else every token would cost the whole row after all."""
    logits = LogitsArrays(
        (5 * np.random.default_rng(2).standard_normal((1, 5000))).astype(np.float32)
    )
    for parameters in ({"temperature": 0.7}, {"temperature": 1.0, "top_p": 0.9}):
        sampler = sampler_of(logits, seed=1, **parameters)
        widths = []
        for _ in range(400):
            widths.append(sampler.top_k)
            choose_as_asked(sampler, logits)
        decided = sum(0 < width <= 1024 for width in widths)
        assert decided > 380 and sorted(widths)[200] <= 256


def test_more_is_asked_for_twice_at_most_and_more_at_once_the_next_time() -> None:
    flat = LogitsArrays(np.zeros((1, 150_000), np.float32))
    sampler = sampler_of(flat, temperature=1.0, seed=1)
    asked = []
    for _ in range(2):
        while True:
            asked.append(sampler.top_k)
            if sampler.sample(largest(flat, sampler.top_k)) is not None:
                break
    assert asked == [128, 2048, 0, 512, 8192, 0]


def test_less_is_asked_for_where_little_decides_for_long() -> None:
    peaked = row(*np.linspace(500, 0, 1000))
    sampler = sampler_of(peaked, temperature=1.0, seed=1)
    for _ in range(200):
        choose_as_asked(sampler, peaked)
    assert sampler.top_k == 32


def test_a_reply_from_the_largest_logits_equals_one_from_whole_rows() -> None:
    rows = 2 * np.random.default_rng(2).standard_normal((300, 1, 3000)).astype(np.float32)
    for parameters in ({}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 50}, {"top_k": 2900}):
        small = Sampler(SamplingParameters(temperature=0.9, seed=3, **parameters), 3000)  # type: ignore[arg-type]
        whole = Sampler(SamplingParameters(temperature=0.9, seed=3, **parameters), 3000)  # type: ignore[arg-type]
        for each in map(LogitsArrays, rows):
            choice = whole.sample(each)
            assert choice is not None and choose_as_asked(small, each) == choice.token_id


def test_repetition_penalty_lowers_tokens_seen_before() -> None:
    for logits in (row(3.0, 2.0, -5.0), row(-3.0, -4.0)):
        choice = sampler_of(logits, [0], repetition_penalty=2.0).sample(logits)
        assert choice is not None and choice.token_id == 1


def test_what_was_chosen_counts_as_seen() -> None:
    logits = row(3.0, 2.0, -5.0)
    sampler = sampler_of(logits, repetition_penalty=2.0)
    assert [choose_as_asked(sampler, logits) for _ in range(2)] == [0, 1]


def test_logits_processors_see_the_session_and_change_the_choice() -> None:
    seen = []

    def forbid(tokens: Sequence[int], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(tuple(tokens))
        logits[list(tokens)] = -np.inf
        return logits

    logits = row(3.0, 2.0, 1.0)
    before = logits.values.copy()
    for temperature in (0.0, 0.5):
        sampler = sampler_of(logits, [0], logits_processors=[forbid], temperature=temperature)
        assert {choose_as_asked(sampler, logits) for _ in range(2)} == {1, 2}
    assert seen[:2] == [(0,), (0, 1)]
    np.testing.assert_array_equal(logits.values, before)


@pytest.mark.parametrize("value", [np.full(3, -np.inf), np.full(3, np.nan), np.zeros(2)], ids=str)
def test_a_processor_that_leaves_nothing_to_choose_is_refused(value: NDArray[np.float64]) -> None:
    logits = row(3.0, 2.0, 1.0)
    sampler = sampler_of(logits, logits_processors=[lambda _tokens, _logits: value])
    with pytest.raises(RequestError, match="logits processor"):
        sampler.sample(logits)


def test_a_whole_row_that_decides_nothing_is_an_error() -> None:
    """Else it would be asked for again and again."""
    logits = row(float("nan"), 1.0)
    with pytest.raises(ServerError):
        sampler_of(logits, temperature=1.0).sample(logits)


def test_a_seed_repeats_the_draws() -> None:
    logits = row(*np.zeros(100))

    def first(seed: int) -> int:
        return choose_as_asked(sampler_of(logits, temperature=1.0, seed=seed), logits)

    assert len({first(7) for _ in range(3)}) == 1
    assert len({first(seed) for seed in range(20)}) > 5


def test_each_setting_asks_the_server_for_the_least_it_needs() -> None:
    def asks(vocab_size: int = 1000, **parameters: object) -> tuple[int, str]:
        sampler = Sampler(SamplingParameters(**parameters), vocab_size)  # type: ignore[arg-type]
        return sampler.top_k, sampler.dtype

    assert asks() == (1, "float32")
    assert asks(top_logprobs=5) == (5, "float32")
    assert asks(temperature=1.0, top_k=40) == (40, "float32")
    assert asks(10, temperature=1.0, top_k=40) == (0, "float32")
    assert asks(temperature=1.0, top_p=0.9) == (128, "float32")
    assert asks(repetition_penalty=1.1) == (0, "float32")
    assert asks(repetition_penalty=1.1, temperature=1.0) == (0, "float16")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("temperature", 1e-309),
        ("repetition_penalty", 1e-320),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
        ("seed", -1),
        ("top_logprobs", -1),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(RequestError, match=name):
        SamplingParameters(**{name: value})  # type: ignore[arg-type]
