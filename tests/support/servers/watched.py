"""A server process whose log, metrics and memory a test reads while it runs."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep

import psutil
from prometheus_client.parser import text_string_to_metric_families

from stip.v1.inference_pb2 import GetModelInfoRequest, Load
from stip.v1.inference_pb2_grpc import InferenceServiceStub
from tests.support.parties import Server, server_process
from tests.support.servers.failpoints import faulty_program
from tests.support.waiting import PATIENCE
from tests.support.wire.requests import connection

SETTLING = 0.2
ERRORS = re.compile(r"Traceback|Exception ignored|exception was never retrieved| (ERROR|CRITICAL) ")
OWN_ERRORS = re.compile(r"(ERROR|CRITICAL) stip_server|/stip_server/|Exception ignored")


@dataclass
class Watched:
    """A running server, its log file and the address of its metrics."""

    server: Server
    log_file: Path
    metrics_url: str

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def alive(self) -> bool:
        return self.server.process.poll() is None

    @property
    def log(self) -> str:
        return settled(self.log_file)

    @property
    def rss(self) -> float:
        """Resident memory in MiB."""
        return float(psutil.Process(self.server.process.pid).memory_info().rss) / 2**20

    def metric(self, name: str, **labels: str) -> float:
        """The value of a sample now."""
        with urllib.request.urlopen(self.metrics_url, timeout=PATIENCE) as answer:
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        raise AssertionError(f"there is no metric {name} {labels}")

    def load(self) -> Load:
        with connection(self.address) as channel:
            stub = InferenceServiceStub(channel)
            return stub.GetModelInfo(GetModelInfoRequest(), timeout=PATIENCE).load

    def stop(self) -> None:
        """End it with SIGTERM; it must exit with 0."""
        self.server.process.terminate()
        assert self.server.process.wait(PATIENCE) == 0, self.log

    def assert_no_errors(self, *, of_grpc: bool = True) -> None:
        """Nothing in the log is an error or a traceback; what gRPC itself says may be left out."""
        pattern = ERRORS if of_grpc else OWN_ERRORS
        found = [line for line in self.log.splitlines() if pattern.search(line)]
        assert not found, found[:5]


@contextmanager
def watched_server(
    bundle: Path, folder: Path, *arguments: object, faults: Sequence[str] = ()
) -> Iterator[Watched]:
    """A server that logs to a file in `folder`; killed afterwards if it still runs.

    `faults` are those of failpoints.py.
    """
    log_file = folder / "server.log"
    arguments = ("--metrics-port", 0, *arguments)
    program = faulty_program(*faults) if faults else ("stip_server",)
    with (
        log_file.open("w") as stderr,
        server_process(bundle, *arguments, program=program, stderr=stderr) as server,
    ):
        found = re.search(r"metrics on ([^\s\"]+)", log_file.read_text())
        assert found is not None
        yield Watched(server, log_file, found[1])


def settled(log: Path) -> str:
    """What a server has logged. A thread of its own writes it, a little later."""
    size = -1
    while size != log.stat().st_size:
        size = log.stat().st_size
        sleep(SETTLING)
    return log.read_text(encoding="utf-8", errors="backslashreplace")
