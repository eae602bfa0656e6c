"""One enum lists the reasons of errors; every other place that names them agrees with it."""

from __future__ import annotations

import re
from pathlib import Path

import stip_client.errors
import stip_server
from benchmarks.soak.statuses import MESSAGE_TOO_LARGE, documented
from stip.v1.errors_pb2 import ErrorReason
from stip_server.errors import STATUS_CODES, reason_name

PROTO = Path(__file__).parents[2] / "protos/stip/v1/errors.proto"
REASONS = set(ErrorReason.values()) - {ErrorReason.ERROR_REASON_UNSPECIFIED}
PAIRS = {(code.name, reason_name(reason)) for reason, code in STATUS_CODES.items()}


def test_every_reason_has_a_status() -> None:
    assert set(STATUS_CODES) == REASONS


def test_the_specification_lists_the_same_statuses() -> None:
    assert documented() - {MESSAGE_TOO_LARGE} == PAIRS


def test_the_comments_of_the_enum_name_the_same_statuses() -> None:
    comments = re.findall(r"// ([A-Z_]+): .*\n +ERROR_REASON_(\w+) = ", PROTO.read_text())
    assert len(comments) == len(REASONS)
    assert set(comments) == PAIRS


def test_the_server_uses_every_reason() -> None:
    table = Path(stip_server.__file__).parent / "errors.py"
    sources = [path for path in table.parent.rglob("*.py") if path != table]
    text = "\n".join(path.read_text() for path in sources)
    assert set(re.findall(r"ErrorReason\.(ERROR_REASON_\w+)", text)) == {
        ErrorReason.Name(reason) for reason in REASONS
    }


def test_the_client_has_an_error_for_every_status() -> None:
    codes = {code for code in STATUS_CODES.values() if code.name != "INTERNAL"}
    assert codes <= set(stip_client.errors._BY_CODE)
