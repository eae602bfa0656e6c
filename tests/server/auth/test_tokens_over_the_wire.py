"""Tokens and their identities, at a server that requires a token for every call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import sleep

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from stip.v1.inference_pb2 import ForkPoint, LogitsRequest, LogitsRows
from stip.v1.manifest_pb2 import Manifest
from stip.v1.tensor_pb2 import DataType
from stip_client import Client, UnauthenticatedError
from stip_server import server as server_module
from tests.support.certificates import Authority
from tests.support.command_line import assert_refused
from tests.support.parties import run_tool
from tests.support.servers.guarded import (
    TIMES,
    Guarded,
    bearer,
    guarded_server,
    info_refusal,
    model_info,
    trusting,
    write_tokens,
)
from tests.support.waiting import PATIENCE, eventually
from tests.support.wire.requests import Metadata, WireStream, connection, open_request, step_request

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
SERVICE = "stip.v1.InferenceService"
ALICE = "alice-token-of-this-test"
ALICE_NEXT = "alice-next-token-of-this-test"
BOB = "bob-token-of-this-test"
TOKENS = f"alice {ALICE}\nalice {ALICE_NEXT}\nbob {BOB}\n"
ROWS = np.ones((3, 60), np.float16)
REVOCATIONS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


@pytest.fixture(scope="module")
def server(talking_bundles: Path, folder: Path) -> Iterator[Guarded]:
    path = write_tokens(folder / "tokens", TOKENS)
    with guarded_server(talking_bundles / "server", folder, "--token-file", path) as server:
        yield server


@pytest.fixture
def channel(server: Guarded) -> Iterator[grpc.Channel]:
    with connection(server.address) as channel:
        yield channel


@pytest.fixture
def tokens(server: Guarded, channel: grpc.Channel, folder: Path) -> Iterator[Path]:
    """The server's token file, for a test to change."""
    del server
    yield folder / "tokens"
    write_tokens(folder / "tokens", TOKENS)
    for token in (ALICE, ALICE_NEXT, BOB):
        eventually(lambda token=token: lets_in(channel, token))


def lets_in(channel: grpc.Channel, token: str) -> bool:
    try:
        return bool(model_info(channel, bearer(token)).key_id)
    except grpc.RpcError as error:
        if error.code() is not UNAUTHENTICATED:
            raise
        return False


CALLERS: dict[str, tuple[Metadata, str]] = {
    "none": ((), "TOKEN_MISSING"),
    "empty": ((("authorization", ""),), "TOKEN_MISSING"),
    "no token": ((("authorization", "Bearer "),), "TOKEN_MISSING"),
    "no scheme": ((("authorization", ALICE),), "TOKEN_MISSING"),
    "another scheme": ((("authorization", f"Basic {ALICE}"),), "TOKEN_MISSING"),
    "another header": ((("x-token", ALICE),), "TOKEN_MISSING"),
    "binary header": ((("authorization-bin", f"Bearer {ALICE}".encode()),), "TOKEN_MISSING"),
    "two tokens": ((*bearer(ALICE), *bearer(BOB)), "TOKEN_MISSING"),
    "wrong": (bearer("nobody-has-this-token"), "TOKEN_UNKNOWN"),
    "another case": (bearer(ALICE.upper()), "TOKEN_UNKNOWN"),
    "beginning": (bearer(ALICE[:-1]), "TOKEN_UNKNOWN"),
    "two in one": (bearer(f"{ALICE}, Bearer {BOB}"), "TOKEN_UNKNOWN"),
    "a name": (bearer("alice"), "TOKEN_UNKNOWN"),
    "long": (bearer("x" * 6000), "TOKEN_UNKNOWN"),
}


@pytest.mark.parametrize("name", CALLERS)
def test_who_brings_no_token_of_the_file_is_told_so_before_anything_is_read(
    name: str, server: Guarded, channel: grpc.Channel, talking_manifest: Manifest
) -> None:
    metadata, reason = CALLERS[name]
    before = server.said
    for attempt in range(TIMES):
        told = info_refusal(channel, metadata)
        assert (told.code, told.reason) == (UNAUTHENTICATED, reason)
        stream = WireStream(channel, metadata=metadata)
        if attempt % 4 == 1:
            stream.send(open_request(talking_manifest), step_request(0, ROWS))
        elif attempt % 4 == 2:
            stream.send(open_request(talking_manifest, key_id="wrong"))
        elif attempt % 4 == 3:
            stream.send(b"\xff\xff\xff")
        # and nothing at all for the rest: the answer waits for no request
        told = stream.refusal()
        assert (told.code, told.reason) == (UNAUTHENTICATED, reason)
        assert ALICE not in told.message and BOB not in told.message
    load = model_info(channel, bearer(BOB)).load
    assert (load.sessions, load.kv_bytes_reserved, load.waiting_steps) == (0, 0, 0)
    eventually(lambda: server.said.removeprefix(before).count("call refused") >= 2 * TIMES)
    said = server.said.removeprefix(before)
    assert said.count(f"reason={reason}") == 2 * TIMES
    assert said.count("call refused") == 2 * TIMES


def test_health_and_reflection_answer_without_a_token_and_model_info_does_not(
    channel: grpc.Channel,
) -> None:
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert SERVICE in ProtoReflectionDescriptorDatabase(channel).get_services()
    assert info_refusal(channel).reason == "TOKEN_MISSING"


@pytest.mark.parametrize("token", [None, "nobody-has-this-token"])
def test_the_client_says_which_token_to_give(
    token: str | None, server: Guarded, talking_bundles: Path, tmp_path: Path
) -> None:
    hint = "give the token that the server's operator" if token is None else "the token given is"
    with Client(server.address, talking_bundles / "client", token=token) as client:
        for call in (client.model_info, client.session):
            with pytest.raises(UnauthenticatedError) as caught:
                call()
            assert hint in str(caught.value.hint)
    path = tmp_path / "token"
    options = () if token is None else ("--token-file", write_tokens(path, token))
    done = run_tool(
        *(
            "stip_client",
            "generate",
            "--server",
            server.address,
            "--bundle",
            talking_bundles / "client",
        ),
        *("--prompt", "w1", *options),
    )
    assert_refused(done, "token", hint=hint)
    assert token is None or token not in done.stderr


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "parked"])
def test_another_identity_can_neither_resume_nor_fork_nor_close_a_session(
    attached: bool, channel: grpc.Channel, talking_manifest: Manifest
) -> None:
    owner = WireStream(channel, metadata=bearer(ALICE), deadline=PATIENCE * 2)
    session_id = (
        owner.send(open_request(talking_manifest), step_request(0, ROWS)).opened().session_id
    )
    owner.result()
    if not attached:
        owner.break_off()
    nobodys = bytes(16)
    for _ in range(TIMES):
        told = []
        for each in (session_id, nobodys):
            for guess in ({"resume_session_id": each}, {"fork": ForkPoint(session_id=each)}):
                thief = WireStream(channel, metadata=bearer(BOB))
                told.append(thief.send(open_request(talking_manifest, **guess)).refusal())
        assert told[0].code is grpc.StatusCode.NOT_FOUND
        assert told[0].reason == "SESSION_GONE"
        # that there is such a session does not show
        assert told.count(told[0]) == len(told)
    if attached:
        assert owner.send(step_request(3, ROWS)).result().length == 6
        owner.close()
    else:
        # another token of the same name is the same identity
        with WireStream(channel, metadata=bearer(ALICE_NEXT)) as resumed:
            resumed.send(open_request(talking_manifest, resume_session_id=session_id))
            assert resumed.opened().length == 3
    assert model_info(channel, bearer(BOB)).load.sessions == 0


def test_a_changed_token_file_is_noticed_within_a_second() -> None:
    assert server_module.MAINTENANCE_INTERVAL <= 1.0


def test_a_removed_token_ends_its_streams_and_no_others(
    tokens: Path, channel: grpc.Channel, talking_manifest: Manifest
) -> None:
    other = WireStream(channel, metadata=bearer(BOB), deadline=PATIENCE * 10)
    other.send(open_request(talking_manifest), step_request(0, ROWS)).opened()
    assert other.result().length == 3
    for turn in range(REVOCATIONS):
        revoked, kept = ((ALICE, ALICE_NEXT), (ALICE_NEXT, ALICE))[turn % 2]
        streams = [WireStream(channel, metadata=bearer(revoked)) for _ in range(TIMES // 2)]
        sessions = []
        for stream in streams:
            sessions.append(stream.send(open_request(talking_manifest)).opened().session_id)
            stream.send(step_request(0, ROWS)).result()
        # these never send a request
        streams += [WireStream(channel, metadata=bearer(revoked)) for _ in range(TIMES // 2)]
        write_tokens(tokens, TOKENS.replace(f"alice {revoked}\n", ""))
        for stream in streams:
            told = stream.refusal()
            assert told.code is UNAUTHENTICATED
            # some of those that send nothing may begin only after the change
            assert told.reason in ("TOKEN_REVOKED", "TOKEN_UNKNOWN")
            assert told.reason == "TOKEN_REVOKED" or stream not in streams[: TIMES // 2]
        assert info_refusal(channel, bearer(revoked)).reason == "TOKEN_UNKNOWN"
        for session_id in sessions:  # which the identity still owns
            thief = WireStream(channel, metadata=bearer(revoked))
            thief.send(open_request(talking_manifest, resume_session_id=session_id))
            assert thief.refusal().reason == "TOKEN_UNKNOWN"
            with WireStream(channel, metadata=bearer(kept)) as resumed:
                resumed.send(open_request(talking_manifest, resume_session_id=session_id))
                assert resumed.opened().length == 3
        write_tokens(tokens, TOKENS)
        eventually(lambda token=revoked: lets_in(channel, token))
    assert other.send(step_request(3, ROWS)).result().length == 6
    other.close()


def test_a_client_whose_token_was_removed_holds_no_session_by_not_reading(
    talking_bundles: Path, tmp_path: Path, talking_manifest: Manifest
) -> None:
    everything = LogitsRequest(rows=LogitsRows.LOGITS_ROWS_ALL, dtype=DataType.DATA_TYPE_FLOAT32)
    rows = np.ones((1500, 60), np.float16)
    path = write_tokens(tmp_path / "tokens", TOKENS)
    arguments = ("--token-file", path, "--session-ttl", 1)
    with (
        guarded_server(talking_bundles / "server", tmp_path, *arguments) as server,
        connection(server.address) as channel,
        connection(server.address) as other,
    ):
        stream = WireStream(channel, metadata=bearer(ALICE), deadline=PATIENCE * 4)
        stream.send(open_request(talking_manifest)).opened()
        # more than gRPC sends ahead of a reader
        stream.send(*(step_request(start, rows, logits=everything) for start in (0, 1500)))
        sleep(2)  # it is not idle, whatever its time to live
        assert model_info(other, bearer(BOB)).load.sessions == 1
        write_tokens(path, f"bob {BOB}\n")
        eventually(lambda: model_info(other, bearer(BOB)).load.sessions == 0)
        assert stream.refusal().reason == "TOKEN_REVOKED"


def test_a_new_token_is_taken_up(tokens: Path, channel: grpc.Channel) -> None:
    carol = "carol-token-of-this-test"
    assert not lets_in(channel, carol)
    write_tokens(tokens, f"{TOKENS}carol {carol}\n")
    eventually(lambda: lets_in(channel, carol))
    assert lets_in(channel, ALICE)


def test_a_token_that_moves_to_another_name_loses_the_first_ones_sessions(
    tokens: Path, channel: grpc.Channel, talking_manifest: Manifest
) -> None:
    stream = WireStream(channel, metadata=bearer(ALICE)).send(open_request(talking_manifest))
    session_id = stream.opened().session_id
    write_tokens(tokens, TOKENS.replace(f"alice {ALICE}\n", f"bob {ALICE}\n"))
    assert stream.refusal().reason == "TOKEN_REVOKED"
    again = open_request(talking_manifest, resume_session_id=session_id)
    thief = WireStream(channel, metadata=bearer(ALICE)).send(again)
    assert thief.refusal().reason == "SESSION_GONE"
    with WireStream(channel, metadata=bearer(ALICE_NEXT)) as owner:
        owner.send(again).opened()


@pytest.mark.parametrize(
    "content",
    [b"", b"\n# nobody\n", TOKENS.encode() + b"carol", b"\xff\xfe", None],
    ids=["empty", "nobody", "cut short", "no text", "missing"],
)
def test_an_empty_or_damaged_file_keeps_the_old_tokens(
    content: bytes | None,
    tokens: Path,
    server: Guarded,
    channel: grpc.Channel,
    talking_manifest: Manifest,
) -> None:
    before = server.said
    with WireStream(channel, metadata=bearer(ALICE), deadline=PATIENCE * 2) as stream:
        stream.send(open_request(talking_manifest), step_request(0, ROWS)).opened()
        stream.result()
        if content is None:
            tokens.unlink()
        else:
            write_tokens(tokens, content)
        eventually(lambda: "the tokens read before stay valid" in server.said[len(before) :])
        assert all(lets_in(channel, token) for token in (ALICE, ALICE_NEXT, BOB))
        assert stream.send(step_request(3, ROWS)).result().length == 6


def test_with_client_certificates_and_tokens_both_are_needed_and_the_token_is_the_identity(
    talking_bundles: Path, tmp_path: Path, talking_manifest: Manifest
) -> None:
    authority, clients = Authority(tmp_path / "ca"), Authority(tmp_path / "clients", "clients")
    pair, mallory = authority.server(), clients.client("mallory")
    path = write_tokens(tmp_path / "tokens", TOKENS)
    arguments = ("--tls-cert", pair.cert, "--tls-key", pair.key, "--token-file", path)
    arguments += ("--client-ca", clients.certificate)
    with ExitStack() as stack:
        server = stack.enter_context(
            guarded_server(talking_bundles / "server", tmp_path, *arguments)
        )
        ca = authority.certificate
        both, bare = (
            stack.enter_context(connection(server.address, trusting(ca, client=client)))
            for client in (mallory, None)
        )
        for _ in range(TIMES):
            assert model_info(both, bearer(ALICE)).key_id == talking_manifest.key_id
            assert info_refusal(both).reason == "TOKEN_MISSING"
            assert info_refusal(both, bearer("nobody-has-this-token")).reason == "TOKEN_UNKNOWN"
            assert info_refusal(bare, bearer(ALICE)).code is grpc.StatusCode.UNAVAILABLE
        told = WireStream(both, metadata=bearer(ALICE)).send(
            open_request(talking_manifest, key_id="x")
        )
        assert told.refusal().reason == "WRONG_KEY"
        eventually(lambda: "identity=token:alice" in server.said)
        assert "mallory" not in server.said


def test_an_identity_without_a_token_left_keeps_no_room_from_others(
    talking_bundles: Path, tmp_path: Path, talking_manifest: Manifest
) -> None:
    path = write_tokens(tmp_path / "tokens", f"alice {ALICE}\n")
    arguments = ("--token-file", path, "--max-sessions", 2)
    with (
        guarded_server(talking_bundles / "server", tmp_path, *arguments) as server,
        connection(server.address) as channel,
    ):
        parked = WireStream(channel, metadata=bearer(ALICE)).send(open_request(talking_manifest))
        parked.opened()
        parked.break_off()
        held = WireStream(channel, metadata=bearer(ALICE)).send(open_request(talking_manifest))
        held.opened()
        write_tokens(path, f"bob {BOB}\n")
        assert held.refusal().reason == "TOKEN_REVOKED"
        eventually(lambda: lets_in(channel, BOB))
        eventually(lambda: model_info(channel, bearer(BOB)).load.sessions == 0)
