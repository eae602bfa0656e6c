"""The results of `stip-client bench`: figures, as a table and as JSON."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from stip.v1.inference_pb2 import GetModelInfoResponse
from stip_client import __version__
from stip_client.cli.reply_timing import ReplyTiming, rates, shown_bytes
from stip_model.bundle.modes import head_name, scheme_name
from stip_model.bundle.weight_types import data_type_name

Round = Sequence[ReplyTiming]  # replies generated at once


@dataclass(frozen=True)
class Figures:
    """The figures of some concurrent sessions over all repetitions.

    first_token and gap (between tokens) are medians in seconds. tokens_per_second is the rate of
    one session after its first token; total_tokens_per_second that of all sessions from start to
    end. Bytes and round trips count from the first token on.
    """

    sessions: int
    first_token: float
    first_token_p95: float
    gap: float
    gap_p95: float
    tokens_per_second: float
    total_tokens_per_second: float
    bytes_up_per_token: float
    bytes_down_per_token: float
    tokens_per_round_trip: float


def figures(rounds: Sequence[Round]) -> Figures:
    """The figures of rounds with the same number of sessions and two tokens a reply or more."""
    replies = [reply for each in rounds for reply in each]
    firsts = [reply.arrivals[0] for reply in replies]
    gaps = [gap for reply in replies for gap in reply.gaps]
    found = rates(replies)
    return Figures(
        sessions=len(rounds[0]),
        first_token=median(firsts),
        first_token_p95=float(np.percentile(firsts, 95)),
        gap=median(gaps),
        gap_p95=float(np.percentile(gaps, 95)),
        tokens_per_second=found.tokens_per_second or 0.0,
        total_tokens_per_second=median(_total_rate(each) for each in rounds),
        bytes_up_per_token=found.bytes_up or 0.0,
        bytes_down_per_token=found.bytes_down or 0.0,
        tokens_per_round_trip=found.tokens_per_round_trip or 0.0,
    )


def _total_rate(replies: Round) -> float:
    start = min(reply.started for reply in replies)
    end = max(reply.started + reply.arrivals[-1] for reply in replies)
    return sum(reply.tokens for reply in replies) / (end - start)


_COLUMNS = (
    ("sessions", ""),
    ("first token", "ms"),
    ("gap median", "ms"),
    ("gap p95", "ms"),
    ("a session", "tokens/s"),
    ("total", "tokens/s"),
    ("up", "a token"),
    ("down", "a token"),
    ("round trip", "tokens"),
)


def table_head() -> str:
    """The two lines above the rows."""
    return "\n".join("".join(f"{name:>12}" for name in names) for names in zip(*_COLUMNS))  # noqa: B905


def table_row(found: Figures) -> str:
    """One line of the table."""
    cells = (
        f"{found.sessions}",
        f"{found.first_token * 1e3:.1f}",
        f"{found.gap * 1e3:.2f}",
        f"{found.gap_p95 * 1e3:.2f}",
        f"{found.tokens_per_second:.1f}",
        f"{found.total_tokens_per_second:.1f}",
        shown_bytes(found.bytes_up_per_token),
        shown_bytes(found.bytes_down_per_token),
        f"{found.tokens_per_round_trip:.2f}",
    )
    return "".join(f"{cell:>12}" for cell in cells)


def report(
    server: str, info: GetModelInfoResponse, options: dict[str, Any], found: Sequence[Figures]
) -> dict[str, Any]:
    """Everything, for a file."""
    model = info.model
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "client": {
            "version": __version__,
            "machine": {  # this one; nothing is known about the server's
                "system": platform.platform(),
                "cpu": _cpu(),
                "cores": os.cpu_count(),
                "python": platform.python_version(),
            },
        },
        "server": {
            "address": server,
            "version": info.server_version,
            "model": {
                "model_type": model.model_type,
                "num_hidden_layers": model.num_hidden_layers,
                "hidden_size": model.hidden_size,
                "vocab_size": model.vocab_size,
            },
            "bundle_id": info.bundle_id,
            "dtype": data_type_name(info.dtype),
            "compute_dtype": data_type_name(info.compute_dtype),
            "scheme": scheme_name(info.scheme),
            "head": head_name(info.head),
        },
        "options": options,
        "figures": [asdict(each) for each in found],
    }


def title(info: GetModelInfoResponse) -> str:
    """One line about what was measured."""
    dtype = data_type_name(info.compute_dtype)
    model = info.model
    return (
        f"{model.model_type}, {model.num_hidden_layers} layers of {model.hidden_size}, {dtype}, "
        f"server {info.server_version}"
    )


def _cpu() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
