"""Derivation and the algebra of permutations hold for every key, label and size."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stip_keys.masks import derivation
from stip_keys.masks.keys import MasterKey
from stip_keys.masks.permutation import block_diagonal, inverse, relative, turn_planes
from stip_model.bundle.weight_types import WEIGHT_TYPES

keys = st.binary(min_size=32, max_size=32)
labels = st.text("abcdefghijklmnopqrstuvwxyz0123456789/", min_size=1, max_size=40)
sizes = st.integers(1, 3000)


@given(keys, labels, sizes)
def test_derivation_is_a_permutation(key: bytes, label: str, n: int) -> None:
    permutation = derivation.permutation(derivation.subkey(key, label), n)
    assert np.array_equal(np.sort(permutation), np.arange(n))


@given(keys, labels, labels)
def test_labels_and_keys_separate_subkeys(key: bytes, one: str, other: str) -> None:
    assert (derivation.subkey(key, one) == derivation.subkey(key, other)) == (one == other)
    changed = bytes([key[0] ^ 1]) + key[1:]
    assert derivation.subkey(key, one) != derivation.subkey(changed, one)


@given(keys, sizes)
def test_permute_then_inverse_is_identity(key: bytes, n: int) -> None:
    permutation = derivation.permutation(key, n)
    x = np.random.default_rng(0).standard_normal((2, n))
    assert np.array_equal(x[:, permutation][:, inverse(permutation)], x)
    assert np.array_equal(permutation[inverse(permutation)], np.arange(n))


@given(keys, keys, sizes)
def test_relative_takes_one_space_to_the_other(one: bytes, other: bytes, n: int) -> None:
    p, q = derivation.permutation(one, n), derivation.permutation(other, n)
    x = np.random.default_rng(1).standard_normal(n)
    assert np.array_equal(x[p][relative(p, q)], x[q])


@given(keys, st.integers(1, 12), st.integers(1, 40))
def test_blocks_stay_in_their_ranges(key: bytes, blocks: int, size: int) -> None:
    master = MasterKey(key)
    permutation = master.residual_permutation(2, blocks * size, blocks)
    assert np.array_equal(permutation // size, np.repeat(np.arange(blocks), size))
    assert np.array_equal(np.sort(permutation), np.arange(blocks * size))
    assert np.array_equal(block_diagonal([permutation]), permutation)


@given(keys, st.integers(1, 12), st.integers(1, 40))
def test_the_client_key_makes_the_same_input_permutation_as_the_master_key(
    key: bytes, blocks: int, size: int
) -> None:
    master = MasterKey(key)
    client = master.client_key(blocks * size, blocks)
    expected = master.residual_permutation(0, blocks * size, blocks)
    assert np.array_equal(client.input_permutation(), expected)
    assert key.hex() not in repr(master) + repr(client)


@given(keys, st.integers(1, 64), st.integers(0, 10_000))
def test_quarter_turns_commute_with_rope_and_keep_products(
    key: bytes, planes: int, position: int
) -> None:
    gather = turn_planes(derivation.quarter_turns(key, planes))
    assert gather.indices is not None and gather.negate is not None
    sign = np.where(gather.negate, -1.0, 1.0)
    rng = np.random.default_rng(planes)
    query, other = rng.standard_normal((2, 2 * planes))
    angles = position * 10000.0 ** (-np.arange(planes) / planes)

    def rope(x: np.ndarray) -> np.ndarray:
        first, second = x[:planes], x[planes:]
        cosine, sine = np.cos(angles), np.sin(angles)
        return np.concatenate([first * cosine - second * sine, second * cosine + first * sine])

    def turn(x: np.ndarray) -> np.ndarray:
        return sign * x[gather.indices]

    np.testing.assert_allclose(rope(turn(query)), turn(rope(query)), atol=1e-12)
    np.testing.assert_allclose(turn(query) @ turn(other), query @ other, rtol=1e-9, atol=1e-9)
    # read as complex numbers, plane j is multiplied by i**k
    turned = turn(query)
    complex_planes = (query[:planes] + 1j * query[planes:]) * 1j ** derivation.quarter_turns(
        key, planes
    )
    np.testing.assert_allclose(turned[:planes] + 1j * turned[planes:], complex_planes, atol=1e-12)


@given(
    st.sampled_from(sorted(WEIGHT_TYPES)),
    arrays(np.uint32, (5, 3)),
    arrays(np.bool_, (5,)),
)
def test_negation_flips_signs_and_nothing_else(
    name: str, bits: np.ndarray, where: np.ndarray
) -> None:
    dtype = WEIGHT_TYPES[name]
    values = bits.astype(dtype.bits).view(dtype.numpy)
    changed = values.copy()
    dtype.negate(changed, where)
    before, after = values.view(dtype.bits), changed.view(dtype.bits)
    assert np.array_equal(after[~where], before[~where])
    sign = dtype.bits.type(1 << (8 * dtype.bits.itemsize - 1))
    assert np.array_equal(after[where], before[where] ^ sign)


@given(st.sampled_from(sorted(WEIGHT_TYPES)), arrays(np.uint32, (7,)))
def test_all_finite_agrees_with_numpy(name: str, bits: np.ndarray) -> None:
    dtype = WEIGHT_TYPES[name]
    values = bits.astype(dtype.bits).view(dtype.numpy)
    assert dtype.all_finite(values) == bool(np.isfinite(values.astype(np.float64)).all())
