"""Bytes of keys and values: what an operator writes, what a machine has, what a session takes."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import psutil
import pytest

from stip.v1.manifest_pb2 import ModelConfig
from stip_model.cache.kv_cache import GROWTH, KVCache, capacity_for, kv_bytes_per_token
from stip_model.operations.mlx import MlxOperations
from stip_server.errors import StartError
from stip_server.sessions import kv_memory as memory
from stip_server.sessions.kv_memory import (
    MemoryAmount,
    readable,
)

CONFIG = ModelConfig(num_hidden_layers=3, num_key_value_heads=2, head_dim=6, num_attention_heads=4)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("1000B", 1000),
        ("512MiB", 512 * 2**20),
        ("512MB", 512 * 2**20),
        ("512m", 512 * 2**20),
        ("1.5K", 1536),
        (" 8 GiB ", 8 * 2**30),
        ("8G", 8 * 2**30),
        ("2T", 2 * 2**40),
    ],
)
def test_a_size_is_read_in_powers_of_1024(text: str, size: int) -> None:
    assert MemoryAmount.parse(text) == MemoryAmount(size=size)


@pytest.mark.parametrize(("text", "fraction"), [("50%", 0.5), ("100 %", 1.0), ("0.5%", 0.005)])
def test_a_percentage_is_a_part_of_what_is_left(text: str, fraction: float) -> None:
    amount = MemoryAmount.parse(text)
    assert amount == MemoryAmount(fraction=fraction)
    assert amount.of(1000) == 1000 * fraction


@pytest.mark.parametrize(
    "text",
    [
        *("", "lots", "nan", "inf", "G", "%"),
        *("-1G", "+1G", "1e9", "1_000", "1,5G", "8X", "8GiBs", "8 G iB"),
        *("0", "0.4", "0%", "100.1%", "9999999T", "1" + "0" * 400),
    ],
)
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is "):
        MemoryAmount.parse(text)


def test_a_size_is_taken_as_it_is_unless_there_is_less() -> None:
    amount = MemoryAmount.parse("1MiB")
    assert amount.of(2**20) == amount.of(2**40) == 2**20
    with pytest.raises(StartError, match=r"1\.0 MiB is more than the 1024\.0 KiB that"):
        amount.of(2**20 - 1)
    assert MemoryAmount.parse("50%").of(0) == 0


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (3 * 2**19, "1.5 MiB"),
        (2**43, "8192.0 GiB"),
    ],
)
def test_a_number_of_bytes_for_people(size: int, text: str) -> None:
    assert readable(size) == text


def test_a_cache_grows_by_whole_pieces() -> None:
    assert [capacity_for(length) for length in (0, 1, GROWTH, GROWTH + 1, 10 * GROWTH)] == [
        *(0, GROWTH, GROWTH, 2 * GROWTH, 10 * GROWTH)
    ]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("length", [1, GROWTH, GROWTH + 1, 3 * GROWTH - 1])
def test_a_full_session_takes_what_was_reserved_for_it(length: int, dtype: mx.Dtype) -> None:
    operations = MlxOperations("cpu", dtype)
    reserved = capacity_for(length) * kv_bytes_per_token(CONFIG, operations.itemsize)

    def grow(cache: KVCache, rows: int) -> None:
        for _ in cache.ensure_capacity(cache.length, rows):
            pass

    at_once, piecemeal = KVCache(CONFIG, operations), KVCache(CONFIG, operations)
    grow(at_once, length)
    assert at_once.nbytes == reserved
    # however it came to its length: in pieces, rolled back, forked
    for end in range(0, length, 100):
        piecemeal.length = max(0, end - 7)
        grow(piecemeal, min(100, length - piecemeal.length))
        piecemeal.length = min(end + 93, length)
        assert piecemeal.nbytes <= reserved
    fork = piecemeal.fork(min(5, length))
    assert fork.nbytes == 0
    grow(fork, length - fork.length)
    assert fork.nbytes == reserved


def test_memory_left_is_the_machines_or_the_containers_whichever_is_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    files = ((str(tmp_path / "none"), str(tmp_path / "none")), (str(limit), str(used)))
    monkeypatch.setattr(memory, "_CGROUP_FILES", files)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    left = memory.host_memory_left()  # without a container
    assert 0 < left <= psutil.virtual_memory().total

    limit.write_text("300000\n")
    used.write_text("100000\n")
    assert memory.host_memory_left() == 200_000
    used.write_text("300001\n")
    assert memory.host_memory_left() == 0
    limit.write_text(f"{2**62}\n")
    assert 0 < memory.host_memory_left() <= psutil.virtual_memory().total
    limit.write_text("max\n")
    assert 0 < memory.host_memory_left() <= psutil.virtual_memory().total
