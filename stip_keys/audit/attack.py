"""What an attack is: who runs it, what that party sees and knows, and what it claims to find.

An attack is given only a View, so it cannot use what its attacker does not know: such a field is
None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import Head, ModelConfig, Scheme

if TYPE_CHECKING:
    from stip_keys.audit.evidence.numpy_decoder import Decoder

# Candidates that a guess may name for one token: top-10 is measured.
WIDTH = 10
UNKNOWN = -1

Tokens = NDArray[np.int64]


class Attacker(Enum):
    """The parties that may run an attack. Those that know most come last."""

    OBSERVER = "observer"  # sees the traffic and knows nothing of the model
    WIRE = "wire"  # sees the traffic, knows the public model
    HOST_WITHOUT_MODEL = "host without the model"  # has traffic, bundle and every activation
    HOST = "host"  # has all that, and knows the public model

    @property
    def knows_model(self) -> bool:
        """Whether the attacker has the public checkpoint."""
        return self in (Attacker.WIRE, Attacker.HOST)

    @property
    def is_host(self) -> bool:
        """Whether the attacker has the server's bundle and activations."""
        return self in (Attacker.HOST, Attacker.HOST_WITHOUT_MODEL)


@dataclass(frozen=True)
class SeenConversation:
    """One prompt and its reply, as they cross the wire.

    `answers` are the server's answers to the last `len(answers)` rows sent: logits [.., vocab_size]
    in the order they are sent in, or, with a head on the client's side, final hidden states
    [.., hidden_size]; as float16 in both cases.
    """

    sent: NDArray[np.float16]  # [rows, hidden_size]: masked rows of the prompt and of the reply
    answers: NDArray[np.float16]
    prompt_rows: int  # the first rows are the prompt's


@dataclass(frozen=True)
class Activations:
    """What the server computed for one conversation, in its own space."""

    hidden_states: Sequence[NDArray[np.float32]]  # after layer 0, 1, …: [rows, hidden_size]
    # of the first layer, before the softmax and the causal mask: [num_attention_heads, rows, rows]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class PublicModel:
    """The checkpoint as anyone can download it."""

    config: ModelConfig
    decoder: Decoder
    embedding: NDArray[np.float16]  # [vocab_size, hidden_size], as a client sends its rows
    tensors: Mapping[str, NDArray[np.float32]]  # by the checkpoint's names; read when asked for


@dataclass(frozen=True)
class Language:
    """What is known of the text: how often tokens and pairs of tokens occur elsewhere.

    `unigrams` [vocab_size]; `bigrams` counts (token, next token).
    """

    unigrams: NDArray[np.int64]
    bigrams: Mapping[tuple[int, int], int]


@dataclass(frozen=True)
class View:
    """All that one attacker sees and knows.

    A search ends after `time_limit` seconds and reports what it has found by then.
    """

    scheme: Scheme
    head: Head
    conversations: Sequence[SeenConversation]
    public: PublicModel | None = None
    # the server bundle's tensors by name, and its dimensions
    bundle: Mapping[str, NDArray[np.float32]] | None = None
    config: ModelConfig | None = None
    activations: Sequence[Activations] | None = None
    # the chat template's tokens before and after the user's text: how every prompt begins and ends
    template: tuple[Tokens, Tokens] | None = None
    language: Language | None = None
    time_limit: float = inf


@dataclass(frozen=True)
class Findings:
    """What an attack claims.

    `tokens`: for every conversation the candidates of each row sent, best first: int64
    [rows, ≤ WIDTH], UNKNOWN where there is no candidate. `replies`: the same for the token that
    each answer chooses. `key`: permutations and quarter-turns that it recovered, by SPEC.md's
    labels, whole ones where they are made of blocks ("residual/0"), int64; under "rotation" the
    matrix that rows are multiplied by from the right, float32 [hidden_size, hidden_size]. `reason`
    says why it found nothing or not everything. `stopped`: it ran out of time.
    """

    tokens: Sequence[Tokens] = ()
    replies: Sequence[Tokens] = ()
    key: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    reason: str = ""
    stopped: bool = False


@dataclass(frozen=True)
class Attack:
    """One attack. `fails` says why it cannot succeed against a scheme and head, "" where it can.

    The report shows that reason, and a test checks that the attack does fail there. An audit runs
    the attack anyway, as far as its input exists.
    """

    name: str
    attacker: Attacker
    source: str
    run: Callable[[View], Findings]
    fails: Callable[[Scheme, Head], str] = lambda _scheme, _head: ""
