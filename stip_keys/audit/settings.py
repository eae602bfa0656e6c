"""How much an audit runs. `stip-keys audit --help` shows these defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AuditSettings:
    """`seeds`: choices of prompts. `conversations`: prompts sent for each seed, at most.

    `reply_tokens`: tokens of a reply, at most. `time_limit`: seconds for one run of an attack that
    searches.
    """

    seeds: int = 3
    conversations: int = 4
    reply_tokens: int = 16
    time_limit: float = 300
