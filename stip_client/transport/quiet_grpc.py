"""Silences gRPC's own log lines in a command line, which tells errors itself. Import this first.

gRPC reads its verbosity once, when it is imported. A user who has set one gets it.
"""

from __future__ import annotations

import os

VERBOSITY = "GRPC_VERBOSITY"

if VERBOSITY not in os.environ:
    os.environ[VERBOSITY] = "NONE"
    import grpc  # noqa: F401

    # the processes that a command starts, such as the demo's server, decide for themselves
    del os.environ[VERBOSITY]
