"""Sampling from whole rows and from the top k of a row."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from stip_client.errors import RequestError
from stip_client.protocol import LogitsWanted
from stip_client.sampling import Sampler, SamplingParameters
from stip_client.tensors import LogitsArrays


def row(*values: float) -> LogitsArrays:
    return LogitsArrays(np.array([values], np.float32))


def top_k(logits: LogitsArrays, k: int) -> LogitsArrays:
    values = logits.values
    indices = np.argsort(-values, axis=-1, kind="stable")[:, :k].astype(np.int32)
    sums = np.log(np.exp(values.astype(np.float64)).sum(axis=-1)).astype(np.float32)
    return LogitsArrays(np.take_along_axis(values, indices, -1), indices, sums)


def draws(
    parameters: SamplingParameters, logits: LogitsArrays, count: int = 20_000
) -> Counter[int]:
    sampler = Sampler(parameters)
    return Counter(sampler.sample(logits, [])[0] for _ in range(count))


def shares(counter: Counter[int], size: int) -> NDArray[np.float64]:
    return np.array([counter[token] for token in range(size)]) / counter.total()


def softmax(values: NDArray[np.float32]) -> NDArray[np.float64]:
    powers = np.exp(values.astype(np.float64))
    return powers / powers.sum()


def test_greedy_takes_the_largest_and_tells_its_log_probability() -> None:
    logits = row(0.5, 3.0, -1.0)
    for given in (logits, top_k(logits, 1)):
        token, logprob = Sampler(SamplingParameters()).sample(given, [])
        assert token == 1
        assert logprob == pytest.approx(np.log(softmax(logits.values[0])[1]), abs=1e-6)


def test_temperature_sampling_follows_the_distribution() -> None:
    logits = row(1.0, 2.0, 0.0, -1.0)
    found = shares(draws(SamplingParameters(temperature=0.7, seed=1), logits), 4)
    np.testing.assert_allclose(found, softmax(logits.values[0] / 0.7), atol=0.015)


def test_top_k_from_the_top_k_equals_top_k_from_the_whole_row() -> None:
    logits = row(*np.random.default_rng(3).standard_normal(50))
    parameters = SamplingParameters(temperature=1.3, top_k=5, top_p=0.9, seed=4)
    assert draws(parameters, logits, 500) == draws(parameters, top_k(logits, 5), 500)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = row(*np.log([0.5, 0.3, 0.15, 0.05]))
    found = draws(SamplingParameters(temperature=1.0, top_p=0.79, seed=5), logits)
    assert set(found) == {0, 1}
    assert shares(found, 4)[0] == pytest.approx(0.625, abs=0.015)


def test_min_p_drops_what_is_far_below_the_most_likely() -> None:
    logits = row(*np.log([0.5, 0.3, 0.15, 0.05]))
    found = draws(SamplingParameters(temperature=1.0, min_p=0.31, seed=6), logits)
    assert set(found) == {0, 1}


def test_repetition_penalty_lowers_tokens_seen_before() -> None:
    sampler = Sampler(SamplingParameters(repetition_penalty=2.0))
    assert sampler.sample(row(3.0, 2.0, -5.0), [0])[0] == 1
    assert sampler.sample(row(-3.0, -4.0), [0])[0] == 1


def test_a_seed_repeats_the_draws() -> None:
    logits = row(*np.zeros(100))
    parameters = SamplingParameters(temperature=1.0, seed=7)
    first = [Sampler(parameters).sample(logits, [])[0] for _ in range(3)]
    assert len(set(first)) == 1
    other = [
        Sampler(SamplingParameters(temperature=1.0, seed=seed)).sample(logits, [])[0]
        for seed in range(20)
    ]
    assert len(set(other)) > 5


def test_each_setting_asks_the_server_for_the_least_it_needs() -> None:
    assert SamplingParameters().wanted(1000) == LogitsWanted("last", "float32", 1)
    top = SamplingParameters(temperature=1.0, top_k=40)
    assert top.wanted(1000) == LogitsWanted("last", "float32", 40)
    assert top.wanted(10) == LogitsWanted("last", "float32", 10)
    whole = SamplingParameters(temperature=1.0, top_p=0.9)
    assert whole.wanted(1000) == LogitsWanted("last", "float16")
    penalised = SamplingParameters(repetition_penalty=1.1)
    assert penalised.wanted(1000) == LogitsWanted("last", "float32")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
        ("seed", -1),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(RequestError, match=name):
        SamplingParameters(**{name: value})
