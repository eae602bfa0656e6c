"""Gateways as processes, as a user starts them, and plain HTTP to them."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from openai import OpenAI, Stream
from openai.types import Completion

from tests.support.waiting import PATIENCE


@dataclass
class Gateway:
    """A running gateway. `url` is what applications take as their base URL."""

    process: subprocess.Popen[str]
    url: str
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=PATIENCE)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own."""
        connection = self.connection()
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def stop(self, signum: int) -> int:
        """Send it a signal; its exit status."""
        self.process.send_signal(signum)
        return self.process.wait(PATIENCE)


@dataclass(frozen=True)
class Answer:
    """Status, headers and body of a response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object, all of it there."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return dict(error)


@contextmanager
def gateway_process(
    server: str, bundle: Path, folder: Path, *arguments: object, **options: Any
) -> Iterator[Gateway]:
    """A gateway on a free port that logs to a file in `folder`; killed if it still runs."""
    command = [sys.executable, "-m", "stip_client", "serve", "--server", server]
    command += ["--bundle", str(bundle), "--port", "0", *map(str, arguments)]
    log_file = folder / "gateway.log"
    with log_file.open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, **options
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), log_file.read_text()
        yield Gateway(process, line.removeprefix("listening on ").strip(), log_file)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def long_stream(client: OpenAI) -> Stream[Completion]:
    """A completion of the talking model that has begun, too long to end while a test runs."""
    stream = client.completions.create(
        model=client.models.list().data[0].id,
        prompt="w5 w6",
        max_tokens=50_000,
        stream=True,
    )
    next(stream)
    return stream
