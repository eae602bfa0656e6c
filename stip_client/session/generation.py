"""The generation of a reply, as a state machine without any I/O.

while (step := generation.next_step(<tokens in the session>, <its maximum>)) is not None:
    pieces, kept = generation.add_result(<forward step.token_ids in step.form>)
    <roll back to `kept` of those tokens>
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from stip_client.bundle.client_bundle import ClientBundle
from stip_client.errors import RequestError, ServerError
from stip_client.sampling.detokenizer import TextStream
from stip_client.sampling.drafting import DraftLength, NgramIndex, NgramMatch
from stip_client.sampling.sampler import SampledToken, Sampler
from stip_client.session.forward_call import ForwardResult, LogitsForm
from stip_client.session.generation_options import GenerationParameters
from stip_client.transport.step_profile import StepProfile

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """One generated token and the text that became certain with it, which may be empty.

    text: empty if the bundle has no tokenizer. logprob: the token's natural log-probability under
    the unmodified logits; top_logprobs: those of the likeliest tokens, if asked for, the likeliest
    first. profile: of the call that brought the token; None for the other tokens of the same call,
    which were guessed right. finish_reason: set on the last piece, "stop" for an end token or a
    stop string, else "length". received: the first ten floats that the server reports to have
    received for this token, if asked for.
    """

    text: str
    token_id: int
    logprob: float
    profile: StepProfile | None
    finish_reason: FinishReason | None = None
    received: tuple[float, ...] = ()
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class NextStep:
    """The tokens to forward next, the last `drafted` of them guesses, and the logits to ask for."""

    token_ids: list[int]
    drafted: int
    form: LogitsForm


class Generation:
    """One reply, step by step."""

    def __init__(
        self,
        bundle: ClientBundle,
        prompt: Sequence[int],
        parameters: GenerationParameters,
    ) -> None:
        """prompt: every token of the session before the reply.

        Raises RequestError for stop strings if the bundle has no tokenizer.
        """
        self._parameters = parameters
        self._bundle = bundle
        self._eos = frozenset() if parameters.ignore_eos else bundle.eos_token_ids
        self._sampler = Sampler(parameters.sampling, bundle.manifest.model.vocab_size, prompt)
        has_text = (bundle.folder / "tokenizer.json").exists()
        self._text = TextStream(bundle.tokenizer, parameters.stop) if has_text else None
        if parameters.stop and not has_text:
            raise RequestError("stop strings need a tokenizer, and this bundle has none")
        self._lengths = DraftLength(parameters.draft)
        self._ngrams = None if self._lengths.off else NgramIndex(prompt)
        self._prompt: list[int] = list(prompt)
        # tokens to send next, None once the reply is finished
        self._pending: list[int] | None = []
        self._step: NextStep | None = None
        self._match: NgramMatch | None = None
        # a guess that was not worth sending; its outcome still counts
        self._unsent: int | None = None
        self._first = True
        self._unspent: StepProfile | None = None  # of calls that brought no token
        self._generated = 0
        self._budget = parameters.max_new_tokens

    @property
    def echo(self) -> bool:
        """Whether to ask for the first floats that the server receives."""
        return self._parameters.echo

    def next_step(self, position: int, max_length: int) -> NextStep | None:
        """What to forward next; None when the reply is finished.

        position: the number of tokens that the session holds; at first fewer than the prompt's.
        max_length: the number that it may hold.
        """
        if self._pending is None:
            return None
        if self._step is None:
            self._pending = self._prompt[position:]
            # the last token is never sent, so the reply has one more than the session can hold
            self._budget = min(self._budget, max_length - len(self._prompt) + 1)
        guesses: list[int] = []
        self._unsent = None
        if self._ngrams is not None and not (self._first or self._sampler.undecided):
            left = min(
                max_length - position - len(self._pending), self._budget - self._generated - 1
            )
            match = self._match = self._ngrams.match()
            if match is not None:
                guesses = self._ngrams.propose(match, min(self._lengths.choose(match.n), left))
                self._unsent = None if guesses else self._ngrams.propose(match, 1)[0]
        sampler = self._sampler
        # final hidden states need no more precision than the rows sent
        dtype = sampler.dtype if self._bundle.head is None else "float16"
        form = LogitsForm("all" if guesses else "last", dtype, sampler.top_k)
        self._step = NextStep(self._pending + guesses, len(guesses), form)
        return self._step

    def add_result(self, result: ForwardResult) -> tuple[list[Piece], int]:
        """The pieces that a step brings, and how many of its tokens to keep in the session.

        A guess is kept if the logits before it choose the same token. Every token is drawn from the
        model's own distribution, so this is rejection sampling (Leviathan et al., 2023) for a draft
        that is certain of its guesses. With a seed, the tokens equal those of a run without
        guesses.
        """
        step, logits = self._step, result.logits
        if step is None or logits is None or len(logits.values) != step.drafted + 1:
            raise ServerError("the server did not send the logits that were asked for")
        profile = replace(result.profile, drafted=step.drafted)
        given = len(step.token_ids) - step.drafted
        pieces: list[Piece] = []
        for row in range(step.drafted + 1):
            choice = self._sampler.sample(logits, row)
            if choice is None:  # ask again for this position, with more of its logits
                kept = given + row - 1
                self._pending = step.token_ids[kept : kept + 1]
                break
            pieces.append(self._piece(choice, result.received if not row else ()))
            kept = given + row
            if self._pending is None:
                break
            if row == step.drafted or choice.token_id != step.token_ids[kept]:
                break
        self._count(profile, pieces)
        if not pieces:
            self._unspent = profile if self._unspent is None else self._unspent + profile
        else:
            total = profile if self._unspent is None else self._unspent + profile
            pieces[0], self._unspent = replace(pieces[0], profile=total), None
        return pieces, kept

    def _count(self, profile: StepProfile, pieces: Sequence[Piece]) -> None:
        if self._first or not pieces:
            self._lengths.count_prompt_step(profile)
        else:
            n = self._match.n if self._match is not None else 1
            self._lengths.count_step(profile, profile.drafted, len(pieces) - 1, n)
            if self._unsent is not None:
                self._lengths.count_guesses(n, 1, int(pieces[0].token_id == self._unsent))
        self._first = False

    def _piece(self, choice: SampledToken, received: tuple[float, ...]) -> Piece:
        """The piece of a chosen token. The token is sent next unless it ends the reply."""
        token = choice.token_id
        self._generated += 1
        if self._ngrams is not None:
            self._ngrams.extend([token])
        text, finish = "", self._finish_reason(token)
        if self._text is not None and token not in self._eos:
            text = self._text.push(token)
            if self._text.stopped:
                finish = "stop"
        if finish is not None and self._text is not None:
            text += self._text.flush()
        self._pending = None if finish else [token]
        return Piece(text, token, choice.logprob, None, finish, received, choice.top_logprobs)

    def _finish_reason(self, token: int) -> FinishReason | None:
        if token in self._eos:
            return "stop"
        return "length" if self._generated >= self._budget else None
