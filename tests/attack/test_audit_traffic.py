"""The audit's traffic is what a client and a server exchange; a view holds what a party has."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from benchmarks.audit_tables.modes import DEMO_MODEL
from stip_client import Client
from stip_client.bundle.client_bundle import ClientBundle
from stip_keys.audit.attack import Attacker, View
from stip_keys.audit.evidence.prompt_text import REPLY, TEMPLATE, USER
from stip_keys.audit.evidence.prompts import make_prompts
from stip_keys.audit.evidence.subject import Subject
from stip_keys.audit.evidence.traffic import Dialogue, Traffic, hold_dialogues, record
from stip_keys.convert.checkpoint import Checkpoint
from tests.support.models.oracle import Oracle
from tests.support.parties import convert, server_process

HELD, OTHERS = 4, 12
EVERYONE = {"scheme", "head", "conversations", "template", "language", "time_limit"}
MODEL, SERVER = {"public"}, {"bundle", "config", "activations"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO_MODEL, tmp_path_factory.mktemp("traffic") / "bundles")


@pytest.fixture(scope="module")
def dialogues(bundles: Path) -> list[Dialogue]:
    subject = Subject(bundles, Checkpoint(DEMO_MODEL))
    prompts = make_prompts(subject.checkpoint, None)[: HELD + OTHERS]
    return hold_dialogues(subject.public, prompts, 12, subject.eos_token_ids)


@pytest.fixture(scope="module")
def traffic(bundles: Path, dialogues: list[Dialogue]) -> Traffic:
    subject = Subject(bundles, Checkpoint(DEMO_MODEL))
    return record(subject, dialogues[:HELD], dialogues[HELD:])


def test_replies_are_the_oracles(dialogues: list[Dialogue]) -> None:
    oracle = Oracle(DEMO_MODEL)
    for each in dialogues:
        expected = oracle.greedy(each.prompt.tokens.tolist(), len(each.reply))
        assert each.reply.tolist() == expected
        assert len(each.reply) == 12 or each.reply[-1] in (1533, 1535)


def test_rows_are_those_that_the_client_sends(bundles: Path, traffic: Traffic) -> None:
    client = ClientBundle(bundles / "client")
    for each, dialogue in zip(traffic.conversations, traffic.dialogues, strict=True):
        assert each.sent.dtype == np.float16
        np.testing.assert_array_equal(each.sent, client.masked_embeddings(dialogue.sent))
        assert each.prompt_rows == len(dialogue.prompt.tokens)


def test_answers_are_the_servers(bundles: Path, traffic: Traffic) -> None:
    with server_process(bundles / "server") as server:
        for each, dialogue in zip(traffic.conversations, traffic.dialogues, strict=True):
            client = Client(server.address, bundle=bundles / "client")
            with client, client.session() as session:
                logits = session.forward(dialogue.sent.tolist())
            expected = logits[each.prompt_rows - 1 :]
            assert each.answers.dtype == np.float16
            # the server computes in float16, as the bundle is stored
            np.testing.assert_allclose(each.answers, expected, atol=0.02 * np.abs(expected).max())
            np.testing.assert_array_equal(each.answers.argmax(axis=1), dialogue.reply)


def test_every_row_is_of_one_kind(traffic: Traffic) -> None:
    for dialogue in traffic.dialogues:
        kinds = dialogue.kinds
        assert len(kinds) == len(dialogue.sent)
        assert set(kinds[: len(dialogue.prompt.tokens)].tolist()) == {TEMPLATE, USER}
        assert set(kinds[len(dialogue.prompt.tokens) :].tolist()) == {REPLY}


def test_the_language_is_that_of_the_other_conversations(
    traffic: Traffic, dialogues: list[Dialogue]
) -> None:
    """And not of those that are attacked."""
    tokens: list[int] = []
    pairs: list[tuple[int, int]] = []
    for each in dialogues[HELD:]:
        text = [*each.prompt.tokens.tolist(), *each.reply.tolist()]
        tokens += text
        pairs += [(text[k], text[k + 1]) for k in range(len(text) - 1)]
    language = traffic.language
    assert language.unigrams.tolist() == [tokens.count(token) for token in range(1536)]
    assert dict(language.bigrams) == {pair: pairs.count(pair) for pair in pairs}


@pytest.mark.parametrize(
    ("attacker", "known"),
    [
        (Attacker.OBSERVER, EVERYONE),
        (Attacker.WIRE, EVERYONE | MODEL),
        (Attacker.HOST_WITHOUT_MODEL, EVERYONE | SERVER),
        (Attacker.HOST, EVERYONE | MODEL | SERVER),
    ],
)
def test_what_an_attacker_does_not_know_is_not_there(
    traffic: Traffic, attacker: Attacker, known: set[str]
) -> None:
    view = traffic.view(attacker)
    there = {each.name for each in fields(View) if getattr(view, each.name) is not None}
    assert there == known


def test_no_view_leads_to_the_key_or_the_text(traffic: Traffic) -> None:
    """An attack gets only a view, which holds neither the subject nor the dialogues."""
    for attacker in Attacker:
        view = traffic.view(attacker)
        held = {id(getattr(view, each.name)) for each in fields(View)}
        assert not held & {id(traffic), id(traffic.subject), id(traffic.dialogues)}
        if view.bundle is not None:
            assert not any("embed" in name for name in view.bundle)


def test_activations_are_of_every_layer_and_row(traffic: Traffic) -> None:
    config = traffic.subject.manifest.model
    for each, conversation in zip(traffic.activations, traffic.conversations, strict=True):
        rows = len(conversation.sent)
        shapes = [states.shape for states in each.hidden_states]
        assert shapes == [(rows, config.hidden_size)] * config.num_hidden_layers
        assert each.scores.shape == (config.num_attention_heads, rows, rows)
