"""Serves the metrics over HTTP, to GET /metrics alone, from threads of its own."""

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
# a connection that sends no request holds a thread for no longer
IDLE_SECONDS = 10.0
# how soon close() is noticed
POLL_SECONDS = 0.1


class MetricsServer:
    """A running endpoint; `port` is the one it listens on."""

    def __init__(self, server: _Server) -> None:
        self.port: int = server.server_address[1]
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, args=(POLL_SECONDS,), name="stip-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening, free the port and end the thread; blocks for POLL_SECONDS at most."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def serve_metrics(metrics: Metrics, host: str, port: int) -> MetricsServer:
    """Answer http://HOST:PORT/metrics until the server is closed. Port 0 takes a free one.

    Raises StartError where the address cannot be had.
    """
    try:
        return MetricsServer(_Server(host, port, metrics.registry))
    except OSError as error:
        raise StartError(
            f"cannot serve metrics on {host}, port {port}: {error.strerror or error}",
            hint="is the port taken? port 0 takes a free one",
        ) from error


# Not http.server.HTTPServer: it asks the DNS for the host's full name, which can take seconds.
class _Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True  # as after a restart, while old connections linger
    daemon_threads = True  # a scrape under way does not keep the process alive

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, address = found[0]
        self.registry = registry
        super().__init__((str(address[0]), int(address[1])), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - inherited
        # the library prints it to stderr, past the log's format
        log.debug("a scrape was cut off", exc_info=True)


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
            # Prometheus must hear of it: a connection closed in silence looks like a network fault
            log.exception("the metrics could not be gathered")
            self.send_error(500)
            return
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def version_string(self) -> str:
        return "stip-server"  # rather than the versions of Python and its library

    def log_message(self, format: str, *arguments: object) -> None:
        log.debug(format, *arguments)
