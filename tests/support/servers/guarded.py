"""Servers that require TLS or tokens, and the credentials of their callers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from stip.v1.inference_pb2 import GetModelInfoRequest, GetModelInfoResponse
from stip.v1.inference_pb2_grpc import InferenceServiceStub
from tests.support.certificates import Issued
from tests.support.parties import Server, server_process
from tests.support.servers.watched import settled
from tests.support.waiting import PATIENCE
from tests.support.wire.requests import Metadata, Refusal, refusal_of

# How often a fault is tried that costs next to nothing.
TIMES = 20


@dataclass(frozen=True)
class Guarded:
    """A running server and everything that it has said on stderr."""

    server: Server
    stderr: Path

    @property
    def port(self) -> str:
        return self.server.address.rpartition(":")[2]

    @property
    def address(self) -> str:
        """By a name that the certificates of tests hold."""
        return f"localhost:{self.port}"

    @property
    def said(self) -> str:
        return settled(self.stderr)


@contextmanager
def guarded_server(bundle: Path, folder: Path, *arguments: object) -> Iterator[Guarded]:
    """A server that logs all that it can."""
    path = folder / "stderr.txt"
    with (
        path.open("w") as stderr,
        server_process(bundle, "--log-level", "debug", *arguments, stderr=stderr) as server,
    ):
        yield Guarded(server, path)


def trusting(*authorities: Path, client: Issued | None = None) -> grpc.ChannelCredentials:
    """TLS for a caller that trusts CAs, and may show a certificate."""
    return grpc.ssl_channel_credentials(
        b"".join(each.read_bytes() for each in authorities),
        client.key.read_bytes() if client else None,
        client.cert.read_bytes() if client else None,
    )


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def model_info(channel: grpc.Channel, metadata: Metadata = ()) -> GetModelInfoResponse:
    stub: Any = InferenceServiceStub(channel)
    info: GetModelInfoResponse = stub.GetModelInfo(
        GetModelInfoRequest(), timeout=PATIENCE, metadata=tuple(metadata)
    )
    return info


def info_refusal(channel: grpc.Channel, metadata: Metadata = ()) -> Refusal:
    """How the server refuses to tell what it serves."""
    try:
        model_info(channel, metadata)
    except grpc.RpcError as error:
        return refusal_of(error)
    raise AssertionError("the server has answered")


def write_tokens(path: Path, content: str | bytes) -> Path:
    """Write a token file beside an old one, and rename it into its place."""
    new = path.with_suffix(".new")
    new.touch(0o600)
    new.write_bytes(content if isinstance(content, bytes) else content.encode())
    return new.replace(path)
