"""One small HTTP server per process: `/metrics` (Prometheus text), `/healthz`, `/readyz`, and JSON views.

It runs in a thread of its own, so a busy main loop does not delay a probe; the checks it is given must not block.
"""

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

Check = Callable[[], str]
"""Returns an empty string when all is well, else one line that says what is not."""
View = Callable[[], object]
"""Returns something JSON can hold."""


class HealthServer:
    """Serves on *host*:*port* from construction to `close()`; port 0 takes a free one (see `port`).

    Raises:
        OSError: the address cannot be had.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        healthy: Check = lambda: "",
        ready: Check = lambda: "",
        views: Mapping[str, View] | None = None,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        pages: dict[str, Callable[[], tuple[int, str, bytes]]] = {
            "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
            "/healthz": lambda: _verdict(healthy()),
            "/readyz": lambda: _verdict(healthy() or ready()),
        }
        for path, view in (views or {}).items():
            pages[path] = lambda view=view: (200, "application/json", json.dumps(view()).encode())  # type: ignore[misc]  # mypy cannot type the default

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                page = pages.get(self.path.partition("?")[0])
                status, kind, body = page() if page else (404, "text/plain", b"no such page\n")
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes come every few seconds; they are not worth a line."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _verdict(problem: str) -> tuple[int, str, bytes]:
    return (503, "text/plain", f"{problem}\n".encode()) if problem else (200, "text/plain", b"ok\n")
