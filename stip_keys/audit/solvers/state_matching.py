"""Decodes hidden states token by token, by running the public model.

A state depends on its token and on the tokens before it. Once those are decoded, the public model
computes the state for any next token, and the most similar state names the token. Candidates are
tried in the order that the model finds likely, so that few are needed.

Source: Thomas et al., Hidden No More (ICML 2025), vocabulary matching.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import Scheme
from stip_keys.audit.attack import (
    UNKNOWN,
    WIDTH,
    Findings,
    PublicModel,
    SeenConversation,
    Tokens,
    View,
)
from stip_keys.audit.evidence.numpy_decoder import rms_norm
from stip_keys.audit.solvers.likeness import InnerProducts, Likeness, SortedValues
from stip_keys.audit.solvers.proposals import Proposals

# Relative distances. Rounding to bfloat16 leaves less than ACCEPTED. A wrong token's distance is
# more than CLEARLY times the right one's. Beyond UNLIKE no token fits.
ACCEPTED, UNLIKE = 0.01, 0.1
CLEARLY = 2.0
# After this many tokens in a row without a similar state, the model is another.
FRUITLESS = 3

Float32 = NDArray[np.float32]
SOURCE = "Thomas et al., Hidden No More (ICML 2025): vocabulary matching"


class Expired(Exception):
    """The time is over."""


class Deadline:
    """Starts when it is created. `seconds` may be infinite."""

    def __init__(self, seconds: float) -> None:
        self._end = monotonic() + seconds

    def check(self) -> None:
        """Raises Expired once the time is over."""
        if monotonic() >= self._end:
            raise Expired


@dataclass
class _Followed:
    """One conversation while it is decoded: states [answered rows, hidden_size] from `start` on."""

    number: int
    conversation: SeenConversation
    states: Float32
    start: int
    likeness: Likeness
    found: list[Tokens] = field(default_factory=list)
    replies: list[Tokens] = field(default_factory=list)
    fruitless: int = 0
    best: Tokens = field(default_factory=lambda: np.empty(0, np.int64))
    distances: Float32 = field(default_factory=lambda: np.empty(0, np.float32))
    state: Float32 = field(default_factory=lambda: np.empty(0, np.float32))  # of the best

    @property
    def goes_on(self) -> bool:
        return self.fruitless < FRUITLESS and len(self.found) < len(self.conversation.sent)

    @property
    def masked(self) -> Float32:
        """The state to decode next."""
        state: Float32 = self.states[len(self.found) - self.start]
        return state

    @property
    def sent(self) -> NDArray[np.float16]:
        row: NDArray[np.float16] = self.conversation.sent[len(self.found)]
        return row

    @property
    def is_decided(self) -> bool:
        """Whether the best candidate is within the rounding error, and no other is near."""
        if not len(self.distances) or self.distances[0] > ACCEPTED:
            return False
        return len(self.distances) == 1 or self.distances[1] > CLEARLY * self.distances[0]


class _Matching:
    """Decodes conversations together, so that a layer is read once for all of them."""

    def __init__(self, view: View, depth: int, is_normalised: bool) -> None:
        assert view.public is not None
        self._public: PublicModel = view.public
        self._decoder = view.public.decoder
        self._depth = depth
        self._is_normalised = is_normalised
        self._deadline = Deadline(view.time_limit)
        self._proposals = Proposals(view.public, view.language, len(view.conversations))

    def run(self, followed: Sequence[_Followed], given: Sequence[Tokens]) -> None:
        """Decode all of `followed`; `given` are the candidates of the first rows.

        Stops when the view's time is over, and keeps what is decoded by then.
        """
        for each, tokens in zip(followed, given, strict=True):
            each.found = list(tokens)
        self._proposals.extend(
            [each.number for each in followed], [tokens[:, 0] for tokens in given]
        )
        try:
            while active := [each for each in followed if each.goes_on]:
                self._search(active)
                self._accept(active)
        except Expired:
            if decided := [each for each in active if each.is_decided]:
                self._accept(decided)

    def _search(self, active: Sequence[_Followed]) -> None:
        for each in active:
            each.best, each.distances = np.empty(0, np.int64), np.empty(0, np.float32)
        batches = {each.number: self._proposals.batches(each.number) for each in active}
        while True:
            tried = [
                (each, batch)
                for each in active
                if not each.is_decided and (batch := next(batches[each.number], None)) is not None
            ]
            if not tried:
                return
            rows = [self._rows(batch) for _, batch in tried]
            states = self._decoder.alternatives(
                [self._proposals.prefixes[each.number] for each, _ in tried],
                rows,
                self._depth,
                self._deadline.check,
            )
            for (each, batch), embedded, of_batch in zip(tried, rows, states, strict=True):
                distances = each.likeness.distances(
                    self._compared(of_batch), embedded, each.masked, each.sent
                )
                tokens = np.concatenate([each.best, batch])
                distances = np.concatenate([each.distances, distances])
                order = np.argsort(distances, kind="stable")[:WIDTH]
                if (place := order[0] - len(each.best)) >= 0:
                    each.state = of_batch[place].copy()
                each.best, each.distances = tokens[order], distances[order]

    def _accept(self, active: Sequence[_Followed]) -> None:
        chosen = [each.best[:1] for each in active]
        self._proposals.extend([each.number for each in active], chosen)
        for each, token in zip(active, chosen, strict=True):
            is_like = each.distances[0] < UNLIKE
            each.fruitless = 0 if is_like else each.fruitless + 1
            state, embedded = self._compared(each.state[None])[0], self._rows(token)[0]
            each.likeness.learn(state, embedded, each.masked, each.sent)
            each.found.append(each.best)
            if len(each.found) >= len(each.conversation.sent) - len(each.conversation.answers) + 1:
                each.replies.append(self._proposals.likeliest(each.number, WIDTH))

    def _rows(self, tokens: Tokens) -> Float32:
        return self._public.embedding[tokens].astype(np.float32)

    def _compared(self, states: Float32) -> Float32:
        if not self._is_normalised:
            return states
        return rms_norm(states, None, self._public.config.rms_norm_eps)


def decode_states(
    view: View,
    depth: int,
    states: Sequence[NDArray[np.float32] | NDArray[np.float16]],
    given: Sequence[Tokens],
    is_normalised: bool = False,
) -> Findings:
    """The tokens of each conversation's last rows, from their states after `depth` layers.

    `given` are the candidates of the rows before those: int64 [rows, candidates].
    """
    assert view.public is not None
    matching = _Matching(view, depth, is_normalised)
    rotated = view.scheme == Scheme.SCHEME_ROTATION
    followed = [
        _Followed(
            number,
            conversation,
            np.asarray(states[number], np.float32),
            len(conversation.sent) - len(states[number]),
            InnerProducts() if rotated else SortedValues(),
        )
        for number, conversation in enumerate(view.conversations)
    ]
    matching.run(followed, given)
    reason, stopped = _ending(view, followed)
    return Findings(
        [_rectangle(each.found, len(each.conversation.sent)) for each in followed],
        [_rectangle(each.replies, len(each.conversation.answers)) for each in followed],
        reason=reason,
        stopped=stopped,
    )


def _ending(view: View, followed: Sequence[_Followed]) -> tuple[str, bool]:
    """Why it did not find everything, and whether it ran out of time."""
    if all(each.fruitless >= FRUITLESS for each in followed):
        return "no token's state is like those seen", False
    if any(each.goes_on for each in followed):
        total = sum(len(each.conversation.sent) for each in followed)
        decoded = sum(len(each.found) for each in followed)
        return f"stopped after {view.time_limit:g} s, with {decoded} of {total} tokens tried", True
    return "", False


def _rectangle(candidates: Sequence[Tokens], rows: int) -> Tokens:
    table = np.full((rows, WIDTH), UNKNOWN, np.int64)
    for row, tokens in enumerate(candidates):
        table[row, : len(tokens)] = tokens[:WIDTH]
    return table


def decode_activations(view: View, depth: int) -> Findings:
    """Every row's token, from the states after `depth` layers, which a host has."""
    assert view.activations is not None
    states = [each.hidden_states[depth - 1] for each in view.activations]
    return decode_states(view, depth, states, [np.empty((0, 1), np.int64)] * len(states))


def num_layers(view: View) -> int:
    """num_hidden_layers of the public model."""
    assert view.public is not None
    return int(view.public.config.num_hidden_layers)
