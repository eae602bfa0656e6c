"""A process that opens a client bundle, embeds some tokens and prints by how much it grew.

Resident memory is read after the imports, which any client pays, and after the embedding. It counts
the pages of the memory-mapped table that were touched; the kernel maps up to 2 MiB around each row
when the file lies in its cache in pages that large, and takes them back when memory is short.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil

from stip_client.bundle.client_bundle import ClientBundle

TOKENS = 20


def main() -> None:
    """Print {"growth_bytes": N, "private_bytes": N}; the second is the part that is no file's,
    null where the system does not tell."""
    process = psutil.Process()
    before = process.memory_info()
    bundle = ClientBundle(Path(sys.argv[1]))
    stride = bundle.embeddings.vocab_size // TOKENS
    # from all over the table: neighbours would share pages
    bundle.masked_embeddings(range(0, TOKENS * stride, stride))
    after = process.memory_info()
    growth = after.rss - before.rss
    private = growth - (after.shared - before.shared) if sys.platform == "linux" else None
    print(json.dumps({"growth_bytes": growth, "private_bytes": private}))


if __name__ == "__main__":
    main()
