"""Regenerates the stubs into a temporary folder and compares them with the committed ones."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

COMMITTED = Path("protos")


def main(protos: list[str]) -> int:
    """Print every stub that differs; 1 if any does."""
    with tempfile.TemporaryDirectory() as folder:
        common = ["protoc", f"-I{COMMITTED}"]
        messages = [f"--python_out={folder}", f"--pyi_out={folder}"]
        services = [name for name in protos if "service " in Path(name).read_text()]
        if protoc.main([*common, *messages, *protos]) or protoc.main(
            [*common, f"--grpc_python_out={folder}", *services]
        ):
            return 1
        fresh = {path.relative_to(folder): path for path in Path(folder).rglob("*.py*")}
        committed = {
            path.relative_to(COMMITTED): path
            for path in COMMITTED.rglob("*_pb2*.py*")
            if "__pycache__" not in path.parts
        }
        wrong = sorted(
            str(name)
            for name in fresh.keys() | committed.keys()
            if name not in fresh
            or name not in committed
            or fresh[name].read_bytes() != committed[name].read_bytes()
        )
    for name in wrong:
        print(f"{COMMITTED / name} is not what the .proto files generate: run make generate")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
