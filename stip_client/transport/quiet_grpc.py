"""Silences gRPC's log lines in a command line, which reports errors itself. Import this first.

gRPC reads its verbosity once, when it is imported. A value that the user has set is kept.
"""

from __future__ import annotations

import os

VERBOSITY = "GRPC_VERBOSITY"

if VERBOSITY not in os.environ:
    os.environ[VERBOSITY] = "NONE"
    import grpc  # noqa: F401

    # child processes, such as the demo's server, keep the default
    del os.environ[VERBOSITY]
