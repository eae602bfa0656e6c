"""A client to be killed.

    python -m tests.support.servers.prompting_client ADDRESS BUNDLE ROWS.npy STEP_ROWS

Opens a session, prints its id, sends the rows in steps, and waits for the answers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tests.support.waiting import LONG_PATIENCE
from tests.support.wire.requests import (
    WireStream,
    connection,
    open_request,
    read_manifest,
    step_request,
)


def main(address: str, bundle: str, file: str, step_rows: str) -> None:
    """Returns when every step is answered."""
    rows, size = np.load(file), int(step_rows)
    manifest = read_manifest(Path(bundle))
    with connection(address) as channel:
        stream = WireStream(channel, deadline=LONG_PATIENCE)
        stream.send(open_request(manifest, max_length=len(rows)))
        print(stream.opened().session_id.hex(), flush=True)
        starts = range(0, len(rows), size)
        stream.send(*(step_request(start, rows[start : start + size]) for start in starts))
        for _ in starts:
            stream.result()


if __name__ == "__main__":
    main(*sys.argv[1:])
