"""Stops the engine of another process while a test looks at it, and lets it go on."""

from __future__ import annotations

from pathlib import Path


class Brake:
    """The file of the faults `pause=` and `stall=` (failpoints.py). It is off at first."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "brake"

    @property
    def pause(self) -> str:
        """The fault that stops all iterations, with signs of life."""
        return f"pause={self._file}"

    def stall(self, rows: int) -> str:
        """The fault that stops an iteration with a step of `rows` rows, without a sign of life."""
        return f"stall={rows}:{self._file}"

    def press(self, after_rows: float = 0) -> None:
        """Stop the engine; with `pause`, once it has computed so many rows since its start."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{after_rows:.0f}")
        new.replace(self._file)

    def release(self) -> None:
        """Let the engine go on."""
        self._file.unlink(missing_ok=True)
