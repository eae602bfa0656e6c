"""Log lines as they arrive on stderr, from our code, from grpc.aio and from hostile callers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import grpc
import mlx.core as mx
import numpy as np
import pytest

from stip_server.observe.logs import configure_logging, event, session_label

LOG = logging.getLogger("stip_server.rpc.stream")
RECORD = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) [\w.]+ ")

# what a caller may send as its key_id or name, and what must not reach a terminal or a log shipper
HOSTILE = (
    "a\n2026-11-23T20:40:00.123Z INFO stip_server.rpc.stream session opened identity=token:root",
    "a\r\nb",
    "\x1b[2J\x1b]0;owned\x07",
    "\x9b31m",
    "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg",
    "\u202etxet",
    "zero\u200bwidth\ufeff",
    "\ud800",
    "\x00\x7f",
)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # so that configure_logging does not close what pytest has put there
    root.handlers[:] = []
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    # not splitlines, which also splits at what must have been escaped
    *whole, rest = capsys.readouterr().err.split("\n")
    assert rest == ""
    return whole


def raise_and_log(message: str) -> None:
    try:
        raise ValueError(message)
    except ValueError:
        event(LOG, logging.ERROR, "it failed", exc_info=True, session="ab12cd34")


# -- text ----------------------------------------------------------------------------------------


def test_text_is_one_line_of_time_level_logger_message_and_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("info", "text")
    before = datetime.now(UTC)
    event(LOG, logging.INFO, "session opened", session="ab12cd34", identity="token:alice", n=4096)
    after = datetime.now(UTC)
    (line,) = lines(capsys)
    time, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    logged = datetime.fromisoformat(time.replace("Z", "+00:00"))
    assert before - timedelta(milliseconds=1) <= logged <= after
    assert rest == (
        "INFO stip_server.rpc.stream session opened session=ab12cd34 identity=token:alice n=4096"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("two words", 'v="two words"'),
        ("", 'v=""'),
        ("a=b", 'v="a=b"'),
        ('say "hi"', r'v="say \"hi\""'),
        ("back\\slash", r'v="back\\slash"'),
        ("a\nb", r'v="a\nb"'),
        ("a\\nb", r'v="a\\nb"'),
        ("ipv6:[::1]:5000", "v=ipv6:[::1]:5000"),
        ("Grüße", "v=Grüße"),
        (True, "v=true"),
        (None, "v=null"),
        (0.25, "v=0.25"),
        (float("nan"), "v=nan"),
    ],
)
def test_values_are_quoted_where_needed(
    capsys: pytest.CaptureFixture[str], value: str | float | bool | None, text: str
) -> None:
    configure_logging("info", "text")
    event(LOG, logging.INFO, "m", v=value)
    (line,) = lines(capsys)
    assert line.endswith(f" m {text}")


def test_a_traceback_follows_its_record_in_indented_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("info", "text")
    raise_and_log("no luck")
    first, *rest = lines(capsys)
    assert first.endswith("it failed session=ab12cd34")
    assert rest[0] == "  Traceback (most recent call last):"
    assert rest[-1] == "  ValueError: no luck"
    assert all(line.startswith("  ") for line in rest)


# -- json ----------------------------------------------------------------------------------------


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    event(
        LOG,
        logging.WARNING,
        "session opened",
        identity="Grüße",
        max_length=4096,
        seconds=0.5,
        resumed=False,
        fork=None,
        ratio=float("inf"),
    )
    (line,) = lines(capsys)
    entry = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert entry == {
        "level": "WARNING",
        "logger": "stip_server.rpc.stream",
        "message": "session opened",
        "identity": "Grüße",
        "max_length": 4096,
        "seconds": 0.5,
        "resumed": False,
        "fork": None,
        "ratio": "inf",
    }


def test_json_holds_the_exception_as_a_string(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    raise_and_log("no\nluck")
    (line,) = lines(capsys)
    exception = json.loads(line)["exception"]
    assert exception.startswith("Traceback (most recent call last):\n")
    assert exception.endswith("ValueError: no\nluck")


# -- what callers send ---------------------------------------------------------------------------


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("format", ["text", "json"])
def test_a_hostile_value_stays_in_its_line_and_in_its_field(
    capsys: pytest.CaptureFixture[str], format: str, hostile: str
) -> None:
    configure_logging("info", format)
    event(LOG, logging.INFO, "refused", key_id=hostile, peer="ipv4:127.0.0.1:1")
    (line,) = lines(capsys)
    assert line.isprintable()
    if format == "json":
        assert json.loads(line)["key_id"] == hostile
    else:
        assert re.search(r' refused key_id=\S+ peer=| refused key_id="[^"]*" peer=', line)
        assert " identity=token:root" not in re.sub(r'"[^"]*"', "", line)


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("format", ["text", "json"])
def test_a_hostile_message_of_another_library_stays_in_its_line(
    capsys: pytest.CaptureFixture[str], format: str, hostile: str
) -> None:
    configure_logging("info", format)
    logging.getLogger("other").info("got %s", hostile)
    (line,) = lines(capsys)
    assert line.isprintable()


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_exception_forges_no_record(
    capsys: pytest.CaptureFixture[str], hostile: str
) -> None:
    configure_logging("info", "text")
    raise_and_log(hostile)
    printed = lines(capsys)
    assert all(line.isprintable() for line in printed)
    assert [bool(RECORD.match(line)) for line in printed].count(True) == 1


# -- what must never be logged -------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        b"\x01" * 16,
        bytearray(4),
        memoryview(b"1234"),
        np.zeros(3, np.float16),
        np.zeros((), np.float32),
        np.float32(1),
        mx.zeros(3),
        [0.25, 0.5],
        (1, 2),
        {"token": "secret"},
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_bytes_arrays_and_containers_are_refused_as_fields(
    capsys: pytest.CaptureFixture[str], value: object, level: int
) -> None:
    configure_logging("info", "text")
    with pytest.raises(TypeError, match="'hidden_states' is "):
        event(LOG, level, "step", hidden_states=value)  # type: ignore[arg-type]
    assert lines(capsys) == []


@pytest.mark.parametrize("name", ["time", "level", "logger", "message", "exception"])
def test_a_field_cannot_replace_a_part_of_the_record(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        event(LOG, logging.INFO, "m", **{name: "x"})


def test_a_session_is_named_by_a_hash_of_its_id() -> None:
    session_id = bytes(range(16))
    label = session_label(session_id)
    assert label == hashlib.sha256(session_id).hexdigest()[:8]
    assert len(label) == 8
    assert label not in session_id.hex()


# -- which records, and whose --------------------------------------------------------------------


def test_records_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", "text")
    event(LOG, logging.INFO, "one")
    event(LOG, logging.WARNING, "two")
    (line,) = lines(capsys)
    assert line.endswith(" two")


def test_configuring_again_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "text")
    configure_logging("info", "json")
    event(LOG, logging.INFO, "once")
    (line,) = lines(capsys)
    assert json.loads(line)["message"] == "once"


def test_unknown_levels_and_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        configure_logging("loud", "text")
    with pytest.raises(ValueError, match="xml"):
        configure_logging("info", "xml")


def test_a_record_names_the_line_that_logged_it(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger().addHandler(caplog.handler)
    event(LOG, logging.ERROR, "here")
    assert caplog.records[0].filename == "test_logs.py"


def test_warnings_are_records(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    warnings.warn("odd\nthing", UserWarning, stacklevel=1)
    (line,) = lines(capsys)
    entry = json.loads(line)
    assert entry["logger"] == "py.warnings"
    assert "odd\nthing" in entry["message"]


def test_grpc_aio_logs_through_the_same_formatter(capfd: pytest.CaptureFixture[str]) -> None:
    """capfd: what the library writes past sys.stderr would show as well."""
    configure_logging("info", "json")

    async def fail(_: bytes, __: object) -> bytes:
        raise ValueError("a fault\nof ours")

    async def call() -> None:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(fail)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Service", {"Fail": handler}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary("/test.Service/Fail")(b"")
        await server.stop(0)

    asyncio.run(call())
    entries = [json.loads(line) for line in lines(capfd)]
    (failed,) = [entry for entry in entries if "test.Service/Fail" in entry["message"]]
    assert failed["logger"] == "grpc._cython.cygrpc"
    assert failed["exception"].endswith("ValueError: a fault\nof ours")


def test_asyncio_logs_through_the_same_formatter(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")

    async def forget_an_exception() -> None:
        asyncio.get_running_loop().create_future().set_exception(ValueError("nobody asked"))

    asyncio.run(forget_an_exception())
    (line,) = lines(capsys)
    entry = json.loads(line)
    assert entry["logger"] == "asyncio"
    assert "nobody asked" in entry["exception"]


def test_standard_output_stays_free_of_records() -> None:
    """It holds the address the server listens on, which scripts read."""
    code = (
        "import logging; from stip_server.observe.logs import configure_logging, event;"
        "configure_logging('info', 'text'); event(logging.getLogger('a'), logging.INFO, 'm', n=1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.endswith(" INFO a m n=1\n")
