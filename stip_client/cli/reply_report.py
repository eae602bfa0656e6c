"""What `stip-client generate` tells of a reply besides its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from stip_client.cli.reply_measurement import Measurement, rates, shown_bytes
from stip_client.errors import ClientError
from stip_client.session.generation import Piece


def as_json(
    pieces: Sequence[Piece],
    measurement: Measurement,
    prompt_tokens: int,
    seconds: float,
    error: ClientError | None,
) -> dict[str, object]:
    """Everything as one object; what came before an error, with an `error` that says which."""
    first = measurement.first_token
    report: dict[str, object] = {
        "text": "".join(piece.text for piece in pieces),
        "token_ids": [piece.token_id for piece in pieces],
        "logprobs": [round(piece.logprob, 6) for piece in pieces],
        "finish_reason": pieces[-1].finish_reason if pieces else None,
        "prompt_tokens": prompt_tokens,
        "seconds_to_first_token": None if first is None else round(first, 6),
        "seconds": round(seconds, 6),
        "received": list(pieces[0].received) if pieces else [],
        "steps": [
            {
                "rows": step.rows,
                "drafted": step.drafted,
                "client_seconds": round(step.client, 6),
                "wire_seconds": round(step.wire, 6),
                "queue_seconds": round(step.queue, 6),
                "compute_seconds": round(step.compute, 6),
                "bytes_up": step.bytes_up,
                "bytes_down": step.bytes_down,
            }
            for step in measurement.steps
        ],
    }
    if error is not None:
        report["error"] = str(error)
    return report


def print_profile(measurement: Measurement, file: TextIO) -> None:
    """A line a step: where its time went, and its bytes."""
    titles = ("client", "wire", "queue", "compute", "up", "down")
    print(f"{'step':>5}{'rows':>6}" + "".join(f"{each:>9}" for each in titles), file=file)
    print(" " * 11 + f"{'ms':>9}" * 4 + f"{'bytes':>9}" * 2, file=file)
    for number, step in enumerate(measurement.steps):
        times = (step.client, step.wire, step.queue, step.compute)
        columns = "".join(f"{seconds * 1e3:9.2f}" for seconds in times)
        sizes = f"{step.bytes_up:>9}{step.bytes_down:>9}"
        print(f"{number:>5}{step.rows:>6}{columns}{sizes}", file=file)


def summary(pieces: Sequence[Piece], measurement: Measurement, prompt_tokens: int) -> str:
    """One line on a reply of at least one token."""
    text = (
        f"{prompt_tokens} prompt tokens, first token after {measurement.arrivals[0] * 1e3:.0f} ms"
    )
    found = rates([measurement])
    if found.tokens_per_second is not None:
        text += (
            f"; {measurement.tokens} tokens in {measurement.round_trips} round trips, "
            f"{found.tokens_per_second:.1f} tokens/s, {shown_bytes(found.bytes_up or 0)} up and "
            f"{shown_bytes(found.bytes_down or 0)} down a token"
        )
    return f"{text}; stopped by {pieces[-1].finish_reason}"
