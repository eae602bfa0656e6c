"""The messages to systemd."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from stip_server.observe import systemd
from tests.support.waiting import PATIENCE


@pytest.mark.parametrize("abstract", [False, True])
def test_a_state_reaches_the_socket_that_systemd_names(
    abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"@stip-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(PATIENCE)
        receiver.bind(name.replace("@", "\0") if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        systemd.notify(systemd.READY)
        assert receiver.recv(100) == b"READY=1"


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify(systemd.ALIVE)


def test_a_socket_that_is_full_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(PATIENCE)
        receiver.bind(name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        sent = 10_000  # more than the kernel keeps
        for _ in range(sent):
            systemd.notify(systemd.ALIVE)
        receiver.setblocking(False)
        kept = 0
        with suppress(BlockingIOError):
            while receiver.recv(100):
                kept += 1
        assert 0 < kept < sent
        systemd.notify(systemd.ALIVE)
        assert receiver.recv(100) == b"READY=1\nWATCHDOG=1"
    assert not caplog.records


def test_a_socket_that_is_gone_is_logged_once_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    with caplog.at_level(logging.WARNING):
        systemd.notify(systemd.ALIVE)
        systemd.notify(systemd.ALIVE)
    assert len(caplog.records) == 1 and "WATCHDOG=1" in caplog.text
