"""The HTTP page for machines: /metrics and /healthz, on loopback.

Knows neither what the numbers nor what the reasons mean. (Imports are absolute: the standard library keeps its `http`.)
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import socket
import socketserver
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from detectd.config.endpoint import join_address
from detectd.errors import ConfigError
from detectd.monitor.exposition import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 16
MAX_CONNECTION_S = 10.0  # Prometheus' own default for a scrape
JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"


class MetricsServer:
    """Serves until stopped, from threads of its own.

    Parameters
    ----------
    page
        Returns the metrics page.
    health
        Returns the reasons why the service is not well; none means it is.

    Raises
    ------
    ConfigError
        The address cannot be bound; the message names `metrics.bind`.
    """

    def __init__(self, host: str, port: int, page: Callable[[], bytes], health: Callable[[], Sequence[str]]) -> None:
        try:
            self._server = _Server(host, port, page, health)
        except OSError as error:
            why = "in use by another program" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
            raise ConfigError(
                f'metrics.bind = "{join_address(host, port)}" is {why}; accepted: a free loopback address'
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port as bound: never port 0."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    @property
    def url(self) -> str:
        return f"http://{join_address(*self.address)}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection; a second call does nothing."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    """A thread per connection, of which neither the number nor the life is without bound."""

    # socketserver's own classes, not http.server's: those look the host's name up, which may hang.
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # with the usual 5, a burst of connections waits for TCP to try again

    def __init__(self, host: str, port: int, page: Callable[[], bytes], health: Callable[[], Sequence[str]]) -> None:
        self.page = page
        self.health = health
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                oldest = next(iter(self._open))  # a client that got stuck, not the one that just came
                del self._open[oldest]
                _cut(oldest)
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called several times a second: cut what has taken too long, however busily it drips."""
        oldest = time.monotonic() - MAX_CONNECTION_S
        with self._lock:
            for connection, since in self._open.items():
                if since < oldest:
                    _cut(connection)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        with self._lock:
            for connection in self._open:
                _cut(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # the base class's form
        logger.debug("connection of %s ended early: %r", client_address, sys.exception())


def _cut(connection: socket.socket) -> None:
    """Wake the thread that waits on this connection; it closes the rest."""
    with contextlib.suppress(OSError):  # the client may have gone already
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    timeout = MAX_CONNECTION_S
    server: _Server
    server_version = "detectd"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(HTTPStatus.OK, CONTENT_TYPE, self.server.page)
        elif path == "/healthz":
            self._answer_health()
        else:
            self._send(HTTPStatus.NOT_FOUND, TEXT_TYPE, b"not found; there are /metrics and /healthz\n")

    do_HEAD = do_GET  # noqa: N815  # the base class looks for this name

    def _answer_health(self) -> None:
        try:
            reasons = list(self.server.health())
        except Exception:
            logger.exception("health check failed")
            reasons = ["the health check itself failed; see the log"]
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        body = {"status": "unhealthy" if reasons else "ok", "reasons": reasons}
        self._send(status, JSON_TYPE, json.dumps(body).encode() + b"\n")

    def _answer(self, status: HTTPStatus, kind: str, content: Callable[[], bytes]) -> None:
        try:
            body = content()
        except Exception:
            logger.exception("metrics page failed")
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, TEXT_TYPE, b"the page could not be made; see the log\n")
            return
        self._send(status, kind, body)

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        logger.debug(format, *args)
