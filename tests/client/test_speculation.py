"""Guesses change how fast a reply comes, and nothing of what it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from stip_client.bundle.client_bundle import ClientBundle
from stip_client.errors import RequestError
from stip_client.sampling.drafting import DraftLength, NgramIndex
from stip_client.sampling.parameters import SamplingParameters
from stip_client.session.generation import Generation, NextStep
from stip_client.session.generation_options import GenerationParameters
from stip_client.transport.step_profile import StepProfile
from tests.support.scripted_model import Cost, answer, drive, free

VOCAB = 512


@pytest.fixture
def bundle(tmp_path: Path) -> ClientBundle:
    """What a generation takes of a bundle: no tokenizer, and no token that ends a reply."""
    model = SimpleNamespace(vocab_size=VOCAB)
    manifest = SimpleNamespace(model=model)
    parts = {"manifest": manifest, "head": None, "eos_token_ids": (), "folder": tmp_path}
    return cast(ClientBundle, SimpleNamespace(**parts))


def cycle(*tokens: int) -> NDArray[np.float32]:
    """Logits after which each token is followed by the next, mostly: [vocab_size, vocab_size]."""
    table = np.random.default_rng(1).normal(0, 1, (VOCAB, VOCAB)).astype(np.float32)
    for token, following in zip(tokens, (*tokens[1:], tokens[0]), strict=True):
        table[token, following] += 14
    return table


def generation_of(
    bundle: ClientBundle,
    prompt: Sequence[int],
    *,
    tokens: int = 60,
    draft: str | int = "auto",
    **sampling: object,
) -> Generation:
    parameters = GenerationParameters(
        tokens,
        SamplingParameters(**sampling),  # type: ignore[arg-type]
        ignore_eos=True,
        draft=draft,  # type: ignore[arg-type]
    )
    return Generation(bundle, prompt, parameters)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 4}, {"temperature": 0.3}])
@pytest.mark.parametrize("draft", ["auto", 1, 5, 24])
def test_a_reply_is_the_same_with_and_without_guesses(
    bundle: ClientBundle, draft: str | int, sampling: dict[str, object]
) -> None:
    table = cycle(3, 1, 4, 15, 9, 2, 6)
    sampling = {"seed": 5, **sampling}
    replies = []
    for each in (draft, "off"):
        generation = generation_of(bundle, [3, 1, 4, 15, 9, 2, 6, 3, 1, 4], draft=each, **sampling)
        replies.append(drive(generation, lambda tokens: table[tokens[-1]]))
    (guessed, fewer), (plain, steps) = replies
    assert [(each.token_id, each.logprob) for each in guessed] == [
        (each.token_id, each.logprob) for each in plain
    ]
    assert len(steps) >= 60 and not any(step.drafted for step in steps)
    assert len(fewer) < (0.75 if draft == 1 else 0.6) * len(steps)


def test_where_nothing_repeats_nothing_is_guessed(bundle: ClientBundle) -> None:
    table = cycle(*range(200))
    generation = generation_of(bundle, [0], draft=8)
    _, steps = drive(generation, lambda tokens: table[tokens[-1]])
    assert not any(step.drafted for step in steps)


def test_the_distribution_of_sampled_tokens_is_the_model_s(bundle: ClientBundle) -> None:
    """Chi-square of three tokens after a prompt that invites guesses, right and wrong ones."""
    draw = np.random.default_rng(8)
    table = np.full((VOCAB, VOCAB), -30.0, np.float32)
    table[:, :4] = draw.normal(0, 1, (VOCAB, 4))  # only four tokens ever come

    def chances(token: int) -> NDArray[np.float64]:
        powers = np.exp(table[token, :4].astype(np.float64) / 0.8)
        return powers / powers.sum()

    expected = {
        (a, b, c): chances(1)[a] * chances(a)[b] * chances(b)[c]
        for a in range(4)
        for b in range(4)
        for c in range(4)
    }
    found: Counter[tuple[int, ...]] = Counter()
    count, guesses = 4000, 0
    for seed in range(count):
        generation = generation_of(
            bundle, [2, 1, 3, 0, 2, 1, 3, 2, 1], tokens=3, draft=3, temperature=0.8, seed=seed
        )
        pieces, steps = drive(generation, lambda tokens: table[tokens[-1]])
        found[tuple(piece.token_id for piece in pieces)] += 1
        guesses += any(step.drafted for step in steps)
    assert guesses > count / 2
    assert set(found) <= set(expected)
    statistic = sum((found[key] - count * p) ** 2 / (count * p) for key, p in expected.items())
    # 63 degrees of freedom: 103.4 is the 99.9th percentile, and the seeds are fixed
    assert statistic < 103.4


def test_a_draw_that_the_largest_logits_do_not_decide_asks_for_the_same_position_again(
    bundle: ClientBundle,
) -> None:
    flat = np.zeros((VOCAB, VOCAB), np.float32)
    flat += 0.01 * np.random.default_rng(2).normal(size=flat.shape).astype(np.float32)
    replies = []
    for processors in ((), (lambda _tokens, logits: logits,)):  # the largest, and whole rows
        generation = generation_of(
            bundle,
            [1, 2, 3],
            draft=2,
            temperature=1.0,
            top_p=0.99,
            seed=1,
            logits_processors=processors,
        )
        replies.append(drive(generation, lambda tokens: flat[tokens[-1]]))
    (pieces, steps), (_, whole) = replies
    assert len(pieces) == 60
    assert {step.form.top_k for step in steps} >= {0, 128}
    assert {step.form.top_k for step in whole} == {0}
    assert any(step.form.top_k == 0 and len(step.token_ids) == 1 for step in steps)
    for piece in pieces:  # what a token took is told with it
        assert piece.profile is None or piece.profile.rows >= 1


def test_nothing_is_guessed_where_the_same_position_is_asked_for_again(
    bundle: ClientBundle,
) -> None:
    """Each guess would weigh as much as the larger answer."""
    flat = np.zeros((VOCAB, VOCAB), np.float32)
    prompt = [*range(VOCAB), *range(VOCAB)]  # whatever comes has come before
    generation = generation_of(bundle, prompt, tokens=30, draft=4, temperature=1.0, seed=1)
    tokens: list[int] = []
    again, guesses = 0, 0
    undecided = False
    while (step := generation.next_step(len(tokens), 10**6)) is not None:
        again += undecided
        guesses += step.drafted
        assert not (undecided and step.drafted)
        pieces, kept = generation.add_result(answer(lambda tokens: flat[tokens[-1]], tokens, step))
        undecided = len(pieces) < step.drafted + 1 and generation._sampler.undecided
        tokens += step.token_ids[:kept]
    assert again and guesses


def test_guesses_do_not_go_beyond_what_the_reply_or_the_session_may_hold(
    bundle: ClientBundle,
) -> None:
    table = cycle(3, 1, 4)
    prompt = [3, 1, 4, 3, 1, 4]
    generation = generation_of(bundle, prompt, tokens=5, draft=24)
    pieces, steps = drive(generation, lambda tokens: table[tokens[-1]])
    assert len(pieces) == 5 and max(step.drafted for step in steps) <= 3
    parameters = GenerationParameters(50, ignore_eos=True, draft=24)
    small = Generation(bundle, prompt, parameters)
    pieces, _ = drive(small, lambda tokens: table[tokens[-1]], room=16)
    assert len(pieces) == 11 and pieces[-1].finish_reason == "length"


def costing(base: float, extra: float) -> Cost:
    def cost(step: NextStep) -> StepProfile:
        seconds = base + extra * step.drafted
        return StepProfile(len(step.token_ids), 0.0, seconds, 0.0, 0.0)

    return cost


@pytest.mark.parametrize("extra", [0.01, 0.1, 0.5, 1.0])
def test_guesses_that_never_come_true_cost_at_most_a_twentieth(
    bundle: ClientBundle, extra: float
) -> None:
    """The prompt promises repetition with every token, and the reply never keeps it."""
    draw = np.random.default_rng(3)
    order = draw.permutation(VOCAB).tolist()
    table = cycle(*order)
    # every pair of the reply occurs in the prompt, followed by something else
    prompt = [each for one, two in pairwise(order) for each in (one, two, order[0])]
    cost = costing(0.05, extra * 0.05)
    totals = []
    for draft in ("off", "auto"):
        generation = generation_of(bundle, [*prompt, order[0]], tokens=300, draft=draft)
        pieces, steps = drive(generation, lambda tokens: table[tokens[-1]], cost=cost)
        assert len(pieces) == 300
        totals.append((sum(cost(step).wire for step in steps), sum(s.drafted for s in steps)))
    assert totals[1][1] > 0  # it has tried
    assert totals[1][0] <= 1.05 * totals[0][0]


def test_many_tokens_come_with_a_round_trip_where_the_reply_repeats(bundle: ClientBundle) -> None:
    table = cycle(*range(40))
    generation = generation_of(bundle, list(range(40)), tokens=200)
    _, steps = drive(generation, lambda tokens: table[tokens[-1]], cost=costing(0.05, 0.002))
    assert 200 / len(steps) > 5


def test_a_reply_that_begins_to_repeat_late_is_guessed_all_the_same(bundle: ClientBundle) -> None:
    order = np.random.default_rng(3).permutation(VOCAB).tolist()[:150]
    # every pair of the reply's first part occurs in the prompt, followed by something else
    prompt = [e for one, two in pairwise(order) for e in (one, two, order[0])]
    text = [*prompt, *order, *(order[100:110] * 10)]

    def model(tokens: Sequence[int]) -> NDArray[np.float32]:
        logits = np.zeros(VOCAB, np.float32)
        logits[text[len(tokens)]] = 9.0
        return logits

    generation = generation_of(bundle, prompt, tokens=250)
    _, steps = drive(generation, model, cost=costing(0.05, 0.002))
    assert len(steps) < 190


def test_no_more_is_guessed_than_pays() -> None:
    lengths = DraftLength("auto")
    assert lengths.choose(3) == 0  # nothing is known of what a step costs
    lengths.count_prompt_step(profile(1.0))
    lengths.count_step(profile(0.1), 0, 0)
    guesses = 0
    for _ in range(40):
        drafted = lengths.choose(3)
        # a guess costs more than a step of its own: it cannot pay
        lengths.count_step(profile(0.1 + 0.12 * drafted), drafted, drafted, 3)
        lengths.count_guesses(3, 1, 1)
        guesses += drafted
    assert guesses < 120  # of 960
    for _ in range(90):
        drafted = lengths.choose(3)
        lengths.count_step(profile(0.1), drafted, drafted, 3)  # it is free, and right
        lengths.count_guesses(3, 1, 1)
    assert lengths.choose(3) > 10


@pytest.mark.parametrize("measured", [False, True])
def test_a_guess_costs_what_the_client_s_head_takes_for_it(*, measured: bool) -> None:
    """Right ones do not pay either where a row of the head takes longer than all else."""
    sent = []
    for head in (0.0, 0.1):
        lengths = DraftLength("auto")
        lengths.count_prompt_step(profile(0.01, head))
        if measured:
            lengths.count_step(profile(0.01, head), 0, 0)
        guesses = 0
        for _ in range(40):
            drafted = lengths.choose(3)
            # each further row takes the head more than a step of its own does
            lengths.count_step(profile(0.01, head * (1 + 1.2 * drafted)), drafted, drafted, 3)
            lengths.count_guesses(3, 1, 1)
            guesses += drafted
        sent.append(guesses)
    assert sent[0] > 600 and sent[1] < 200  # of 960


def test_what_a_guess_is_presumed_to_cost_is_a_share_of_the_head_as_well() -> None:
    """As of the layers, while nothing has been measured of it."""
    chosen = []
    for head in (0.0, 0.1, 10.0):
        lengths = DraftLength("auto")
        lengths.count_prompt_step(profile(0.1, head))
        before = lengths.choose(6)
        lengths.count_step(profile(0.1, head), 0, 0)
        chosen.append((before, lengths.choose(6)))
    assert chosen[0] > chosen[1] > chosen[2] and min(chosen[2]) > 0


def profile(seconds: float, head: float = 0.0) -> StepProfile:
    return StepProfile(1, 0.0, seconds, 0.0, 0.0, head=head)


def proposed(tokens: Sequence[int], count: int) -> list[int]:
    index = NgramIndex(tokens)
    match = index.match()
    return [] if match is None else index.propose(match, count)


def test_the_latest_of_the_longest_matches_is_proposed() -> None:
    assert proposed([1, 2, 3, 9, 1, 2, 4, 5, 1, 2], 3) == [4, 5, 1]
    assert proposed([1, 2, 3, 9, 1, 2, 4, 5, 1, 2, 3], 2) == [9, 1]
    assert proposed([1, 2, 3, 1], 2) == [2, 3]
    assert proposed([1, 2, 3], 4) == proposed([], 4) == []


def test_what_repeats_is_proposed_to_go_on_repeating() -> None:
    assert proposed([7, 5, 6, 5, 6, 5, 6], 5) == [5, 6, 5, 6, 5]


@pytest.mark.parametrize("draft", [-1, "on", "", 1.5, None])
def test_a_draft_of_another_kind_is_refused(draft: object) -> None:
    with pytest.raises(RequestError, match="draft"):
        GenerationParameters(draft=draft)  # type: ignore[arg-type]


def test_a_step_without_a_token_is_counted_with_the_next(bundle: ClientBundle) -> None:
    flat = np.zeros((VOCAB, VOCAB), np.float32)
    generation = generation_of(bundle, [1], tokens=40, temperature=1.0, seed=2)
    pieces, steps = drive(generation, lambda tokens: flat[tokens[-1]])
    profiles = [piece.profile for piece in pieces if piece.profile is not None]
    assert len(profiles) < len(steps)
    assert sum(each.rows for each in profiles) == sum(free(step).rows for step in steps)
    assert sum(each.round_trips for each in profiles) == len(steps)
