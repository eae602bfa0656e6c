"""Attacks that know only the language.

Each succeeds where it is known to, and fails where it says it does, over three seeds: other
prompts, other keys. A wrong model is another checkpoint of the same shape: with it, an attack is
right about as often as chance is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stip.v1.manifest_pb2 import Head
from stip_keys.audit.attacks import (
    known_plaintext,
    repeated_rows,
    sealed_vocabulary_by_bigrams,
)
from tests.support.attack.demo_scenes import seen_of_the_demo
from tests.support.attack.languages import frequencies_differ, pairs_matter, sealed_conversations
from tests.support.attack.scenes import (
    CLIENT,
    PERMUTATION,
    SEALED,
    SEEDS,
    SERVER,
    replies_found,
    rows_found,
    template,
)


@pytest.mark.parametrize("seed", SEEDS)
def test_frequencies_name_tokens_where_they_differ_much(seed: int) -> None:
    rng = np.random.default_rng(seed)
    seen, said = sealed_conversations(frequencies_differ(10, 0.6), rng, count=10, length=1000)
    assert rows_found(repeated_rows.run(seen), said) > 0.95
    assert "language" in repeated_rows.run(replace(seen, language=None)).reason


@pytest.mark.parametrize("seed", SEEDS)
def test_frequencies_alone_name_few_tokens_of_a_chat(folder: Path, seed: int) -> None:
    seen, said = seen_of_the_demo(repeated_rows.ATTACK, folder, PERMUTATION, SERVER, seed)
    found = repeated_rows.run(seen)
    assert 0.1 < rows_found(found, said) < 0.5
    assert rows_found(found, said, width=10) > rows_found(found, said)


@pytest.mark.parametrize("seed", SEEDS)
def test_pairs_of_tokens_unseal_a_vocabulary(seed: int) -> None:
    attack = sealed_vocabulary_by_bigrams.ATTACK
    rng = np.random.default_rng(seed)
    seen, said = sealed_conversations(pairs_matter(rng, 100, 5), rng, count=4, length=200)
    found = attack.run(seen)
    assert rows_found(found, said) > 0.95
    assert replies_found(found, said) > 0.95
    assert rows_found(repeated_rows.run(seen), said) < 0.5  # frequencies are not enough
    another, _ = sealed_conversations(pairs_matter(rng, 100, 5), rng, count=1, length=4)
    assert rows_found(attack.run(replace(seen, language=another.language)), said) < 0.2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("head", [CLIENT, SEALED])
def test_pairs_add_to_what_the_template_tells_of_a_short_chat(
    folder: Path, head: Head, seed: int
) -> None:
    """A hundred tokens are too few for more: the reply stays all but sealed."""
    attack = sealed_vocabulary_by_bigrams.ATTACK
    seen, said = seen_of_the_demo(attack, folder, PERMUTATION, head, seed, template=template())
    found = attack.run(seen)
    assert rows_found(found, said) >= rows_found(known_plaintext.ATTACK.run(seen), said) > 0.3
    assert bool(found.replies) == (head == SEALED)
