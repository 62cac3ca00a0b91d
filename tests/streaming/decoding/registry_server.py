"""A schema registry for the tests that speaks Confluent's HTTP API on loopback."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class RegistryServer:
    """``schemas`` by number, ``versions`` by (subject, version); ``status``: answered to all."""

    def __init__(self) -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.versions: dict[tuple[str, str], dict[str, Any]] = {}
        self.status = 200
        self.requests: list[tuple[str, str | None]] = []
        self.url = ""

    def register(self, number: int, schema: object, **more: Any) -> None:
        self.schemas[number] = {"schema": json.dumps(schema), **more}

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        if self.status != 200:
            return self.status, {"error_code": self.status * 100}
        parts = path.strip("/").split("/")
        found = None
        if parts[:2] == ["schemas", "ids"]:
            found = self.schemas.get(int(parts[2]))
        elif parts[0] == "subjects":
            found = self.versions.get((parts[1], parts[3]))
        return (200, found) if found else (404, {"error_code": 40403, "message": "not found"})


@contextmanager
def serving(registry: RegistryServer, port: int = 0) -> Iterator[RegistryServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            registry.requests.append((self.path, self.headers.get("Authorization")))
            status, found = registry.answer(self.path)
            body = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    registry.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
