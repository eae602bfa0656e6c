"""The iterations of a server's engine, in a file with a line of JSON for each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# rows from which a step counts as a prompt
PROMPT_ROWS = 17


@dataclass(frozen=True)
class TracedChunk:
    """The rows of one session in an iteration, of a step of `step_rows`; how many tokens they were
    to follow, and how many the session held."""

    session: str
    position: int
    rows: int
    step_rows: int
    held: int

    @property
    def is_token(self) -> bool:
        return self.step_rows == 1

    @property
    def is_prompt(self) -> bool:
        return self.step_rows >= PROMPT_ROWS

    @property
    def is_part(self) -> bool:
        return self.rows < self.step_rows

    @property
    def rolls_back(self) -> bool:
        return self.position < self.held


class Trace:
    """Written in the server's process, read in the test's."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, runnable: Any) -> None:
        """Append an iteration: the engine's chunks with their caches."""
        chunks = [
            TracedChunk(
                chunk.step.session_id.hex(),
                chunk.position,
                chunk.num_rows,
                chunk.step.num_rows,
                cache.length,
            )
            for chunk, cache in runnable
        ]
        with self._path.open("a") as file:
            file.write(json.dumps([asdict(chunk) for chunk in chunks]) + "\n")

    def read(self) -> list[list[TracedChunk]]:
        """Every iteration so far."""
        lines = self._path.read_text().splitlines()
        return [[TracedChunk(**chunk) for chunk in json.loads(line)] for line in lines]
