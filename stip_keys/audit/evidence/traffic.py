"""The traffic that attacks run on, the truth about it, and each attacker's view of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import Head
from stip_keys.audit.attack import (
    Activations,
    Attacker,
    Language,
    PublicModel,
    SeenConversation,
    Tokens,
    View,
)
from stip_keys.audit.evidence.prompt_text import REPLY, USER, Prompt, common_template
from stip_keys.audit.evidence.subject import Subject

# Called with the number of reply tokens that were just generated.
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Dialogue:
    """One prompt and the reply that the model gives it, as tokens."""

    prompt: Prompt
    reply: Tokens

    @property
    def sent(self) -> Tokens:
        """The tokens whose rows the client sends: all but the last, which ends the reply."""
        return np.concatenate([self.prompt.tokens, self.reply[:-1]])

    @property
    def kinds(self) -> NDArray[np.int64]:
        """What each row sent stands for."""
        return np.concatenate([self.prompt.kinds, np.full(len(self.reply) - 1, REPLY)])


@dataclass(frozen=True)
class Traffic:
    """Conversations as parties see them, and the truth about them: `dialogues`."""

    subject: Subject
    dialogues: Sequence[Dialogue]
    conversations: Sequence[SeenConversation]
    activations: Sequence[Activations]
    template: tuple[Tokens, Tokens] | None
    language: Language

    def view(self, attacker: Attacker, public: PublicModel | None = None) -> View:
        """What an attacker sees and knows; `public` replaces the model that it knows."""
        subject = self.subject
        is_host = attacker.is_host
        return View(
            scheme=subject.scheme,
            head=subject.head,
            conversations=self.conversations,
            public=(public or subject.public) if attacker.knows_model else None,
            bundle=subject.bundle if is_host else None,
            config=subject.manifest.model if is_host else None,
            activations=self.activations if is_host else None,
            template=self.template,
            language=self.language,
        )


def hold_dialogues(
    model: PublicModel,
    prompts: Sequence[Prompt],
    reply_tokens: int,
    eos_token_ids: Sequence[int],
    progress: Progress = lambda _: None,
) -> list[Dialogue]:
    """Let the checkpoint answer every prompt greedily, by 1 to `reply_tokens` tokens.

    A reply ends with the first of `eos_token_ids`. All prompts are answered at once.
    """
    decoder, head = model.decoder, model.decoder.head()
    prefixes = [decoder.prefix() for _ in prompts]
    replies: list[list[int]] = [[] for _ in prompts]
    due = [each.tokens for each in prompts]
    running = list(range(len(prompts)))
    for _ in range(reply_tokens):
        rows = [model.embedding[tokens].astype(np.float32) for tokens in due]
        states = decoder.extend([prefixes[k] for k in running], rows)
        last = decoder.normalised(np.stack([each[-1] for each in states]))
        chosen = np.argmax(last @ head.T, axis=1)
        for k, token in zip(running, chosen, strict=True):
            replies[k].append(int(token))
        progress(len(running))
        going_on = ~np.isin(chosen, list(eos_token_ids))
        running = [k for k, on in zip(running, going_on, strict=True) if on]
        due = [chosen[k : k + 1] for k in np.flatnonzero(going_on)]
        if not running:
            break
    return [
        Dialogue(prompt, np.array(reply)) for prompt, reply in zip(prompts, replies, strict=True)
    ]


def record(subject: Subject, dialogues: Sequence[Dialogue], others: Sequence[Dialogue]) -> Traffic:
    """What crosses the wire, and what the server computes, when `dialogues` are held.

    Attackers learn from `others` what such text is like, and the template's tokens.
    """
    rows = subject.masked_rows([each.sent for each in dialogues])
    decoder = subject.decoder
    after = list(decoder.hidden_states(rows))
    scores = decoder.scores(rows)
    answered = [
        states[-len(each.reply) :] for states, each in zip(after[-1], dialogues, strict=True)
    ]
    last = decoder.normalised(np.concatenate(answered))
    answers = last if subject.head == Head.HEAD_CLIENT else last @ decoder.head().T
    cuts = np.cumsum([len(each) for each in answered])[:-1]
    conversations = [
        SeenConversation(sent, answer, len(each.prompt.tokens))
        for sent, answer, each in zip(
            rows, np.split(answers.astype(np.float16), cuts), dialogues, strict=True
        )
    ]
    activations = [
        Activations([states[k] for states in after], scores[k]) for k in range(len(rows))
    ]
    return Traffic(
        subject,
        dialogues,
        conversations,
        activations,
        _template([each.prompt for each in others]),
        _language(others, subject.manifest.model.vocab_size),
    )


def _template(prompts: Sequence[Prompt]) -> tuple[Tokens, Tokens] | None:
    """The template's tokens; None where prompts have no template."""
    with_user = [each for each in prompts if (each.kinds == USER).any()]
    if not with_user:
        return None
    before, after = common_template(with_user)
    return (before, after) if len(before) or len(after) else None


def _language(dialogues: Sequence[Dialogue], vocab_size: int) -> Language:
    texts = [np.concatenate([each.prompt.tokens, each.reply]) for each in dialogues]
    unigrams = np.bincount(
        np.concatenate(texts) if texts else np.empty(0, np.int64), minlength=vocab_size
    )
    bigrams = Counter(pair for text in texts for pair in pairwise(text.tolist()))
    return Language(unigrams, bigrams)
