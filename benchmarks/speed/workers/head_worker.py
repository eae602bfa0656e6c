"""A process that opens a client bundle with a head and makes logits of final hidden states.

Resident memory is read after the imports; the pages of the head's memory map are not counted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import psutil

from stip_client.bundle.client_bundle import ClientBundle

WARM_UPS = 3


def main() -> None:
    """Print {"milliseconds": {rows: [...]}, "private_bytes": N}, null where the system does not
    tell. The arguments are the bundle, the repetitions and the numbers of rows."""
    folder, repeats, *counts = sys.argv[1:]
    process = psutil.Process()
    before = process.memory_info()
    bundle = ClientBundle(Path(folder))
    if bundle.head is None:
        raise SystemExit("the bundle has no head")
    milliseconds: dict[str, list[float]] = {}
    for rows in map(int, counts):
        states = np.random.default_rng(0).standard_normal((rows, bundle.embeddings.hidden_size))
        taken = []
        for _ in range(WARM_UPS + int(repeats)):
            started = perf_counter()
            bundle.head.logits(states.astype(np.float16))
            taken.append((perf_counter() - started) * 1e3)
        milliseconds[str(rows)] = taken[WARM_UPS:]
    after = process.memory_info()
    private = None
    if sys.platform == "linux":
        private = (after.rss - after.shared) - (before.rss - before.shared)
    print(json.dumps({"milliseconds": milliseconds, "private_bytes": private}))


if __name__ == "__main__":
    main()
