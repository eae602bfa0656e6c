"""A server whose log nobody reads: it answers, and ends when it is told to."""

from __future__ import annotations

import subprocess
from pathlib import Path

import grpc

from stip.v1.manifest_pb2 import Manifest
from tests.parties import server_process
from tests.robustness.guarded import model_info
from tests.robustness.wire import WireStream, connection, open_request

# Each of them is a line of more than a hundred bytes: far more than a pipe holds.
CALLS = 2000
PATIENCE = 60.0


def test_a_log_that_nobody_reads_holds_up_nobody(model: Path, manifest: Manifest) -> None:
    with (
        server_process(model / "server", stderr=subprocess.PIPE) as server,
        connection(server.address) as channel,
    ):
        for _ in range(CALLS):
            told = WireStream(channel).send(open_request(manifest, key_id="another")).refusal()
            assert told.code is grpc.StatusCode.FAILED_PRECONDITION
        assert model_info(channel).key_id == manifest.key_id
        server.process.terminate()
        assert server.process.wait(PATIENCE) == 0
