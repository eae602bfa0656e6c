"""Serves the metrics over HTTP at GET /metrics, on its own threads."""

from __future__ import annotations

import logging
import socket
import threading
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from stip_server.errors import StartError
from stip_server.observe.metrics import Metrics

log = logging.getLogger(__name__)

PATH = "/metrics"
# a connection without a request is closed after this time
IDLE_SECONDS = 10.0
# how long close() can take
POLL_SECONDS = 0.1


class MetricsServer:
    """A running endpoint, which listens on `port`."""

    def __init__(self, server: _Server) -> None:
        self.port: int = server.server_address[1]
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, args=(POLL_SECONDS,), name="stip-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening, free the port and end the thread. Blocks at most POLL_SECONDS."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def serve_metrics(metrics: Metrics, host: str, port: int) -> MetricsServer:
    """Answer http://HOST:PORT/metrics until the endpoint is closed. Port 0 takes a free port.

    Raises StartError if the address is not available.
    """
    try:
        return MetricsServer(_Server(host, port, metrics.registry))
    except OSError as error:
        raise StartError(
            f"cannot serve metrics on {host}, port {port}: {error.strerror or error}",
            hint="is the port taken? port 0 takes a free one",
        ) from error


# Not http.server.HTTPServer: it looks up the host's full name in DNS, which can take seconds.
class _Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True  # so that a restart can reuse the port at once
    daemon_threads = True  # a running scrape does not keep the process alive

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, address = found[0]
        self.registry = registry
        super().__init__((str(address[0]), int(address[1])), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - inherited
        # socketserver would print it to stderr, not to the log
        log.debug("a scrape was interrupted", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(404, explain=f"the metrics are at {PATH}")
            return
        try:
            text = generate_latest(self.server.registry)
        except Exception:
            # A connection closed without an answer would look like a network fault.
            log.exception("the metrics could not be gathered")
            self.send_error(500)
            return
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def version_string(self) -> str:
        return "stip-server"  # not the versions of Python and its library

    def log_message(self, format: str, *arguments: object) -> None:
        log.debug(format, *arguments)
