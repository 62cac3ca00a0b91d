"""A stand-in for the API server of Kubernetes, over TLS on loopback: TokenReview and RBAC."""

import json
import ssl
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

ACCOUNT = "system:serviceaccount:shop:pages"
OWN_TOKEN = "of-the-pod"


@dataclass
class Known:
    """A token that the API server knows: whose it is, for whom it was made, and until when."""

    username: str = ACCOUNT
    groups: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ("https://kubernetes.default.svc",)
    lasts: float = 3_600.0


class ApiServer:
    """Answers as Kubernetes does: ``tokens`` it knows, ``bindings`` of the server's namespace."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.answering = threading.Event()
        self.folder = folder
        self.reset()
        authority = trustme.CA()
        folder.mkdir(exist_ok=True)
        authority.cert_pem.write_to_path(str(folder / "ca.crt"))
        (folder / "namespace").write_text("features\n")
        (folder / "token").write_text(OWN_TOKEN + "\n")
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self, None)

            def do_POST(self) -> None:
                size = int(self.headers["content-length"])
                server.answer(self, json.loads(self.rfile.read(size)))

            def log_message(self, *_: Any) -> None:
                pass

        self._handler = Handler
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self._context)
        self.port = 0
        self.listen()

    def listen(self) -> None:
        """Accept connections, at the port that was first chosen."""
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        self.server.daemon_threads = True
        self.server.socket = self._context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        """Know nobody, and answer at once and truly."""
        self.tokens: dict[str, Known] = {}
        self.bindings: list[dict[str, Any]] = []
        self.cluster_bindings: list[dict[str, Any]] = []
        self.own_tokens = {OWN_TOKEN}
        # What is answered instead of the truth, by the path's last part.
        self.status: dict[str, int] = {}
        self.broken: dict[str, bytes] = {}
        self.pause_between_bytes = 0.0
        self.knows_audiences = True
        self.answering.set()

    def answer(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        """Write one response."""
        name = handler.path.rpartition("/")[2]
        self.asked.append(name)
        self.answering.wait(20)
        known = handler.headers.get("authorization") in {f"Bearer {t}" for t in self.own_tokens}
        status = self.status.get(name, 200 if known else 401)
        found = self.broken.get(name) or json.dumps(self._object(name, body)).encode()
        handler.send_response(status)
        handler.send_header("content-length", str(len(found)))
        handler.end_headers()
        if not self.pause_between_bytes:
            handler.wfile.write(found)
            return
        for byte in found:
            time.sleep(self.pause_between_bytes)
            handler.wfile.write(bytes([byte]))

    def bind(self, role: str, *, to: str = "pages", of: str = "shop") -> None:
        """Give a role to a service account."""
        subject = {"kind": "ServiceAccount", "name": to, "namespace": of}
        self.bindings.append(binding(role, subject))

    def close(self) -> None:
        """Stop; connections are refused from here on."""
        self.answering.set()
        self.server.shutdown()
        self.server.server_close()

    def _object(self, name: str, body: Any) -> dict[str, Any]:
        if name == "rolebindings":
            return {"items": self.bindings}
        if name == "clusterrolebindings":
            return {"items": self.cluster_bindings}
        spec = body["spec"]
        known = self.tokens.get(spec["token"])
        asked = spec.get("audiences")
        if known is None or known.lasts < 0:
            return {"status": {"user": {}, "error": "invalid bearer token"}}
        if asked and self.knows_audiences and not set(asked) & set(known.audiences):
            return {"status": {"user": {}, "error": "token audiences is invalid"}}
        status: dict[str, Any] = {
            "authenticated": True,
            "user": {"username": known.username, "groups": list(known.groups)},
        }
        if asked and self.knows_audiences:
            status["audiences"] = sorted(set(asked) & set(known.audiences))
        return {"status": status}


def binding(role: str, *subjects: dict[str, str]) -> dict[str, Any]:
    """A RoleBinding, as far as it is read."""
    return {"metadata": {"name": role}, "roleRef": {"name": role}, "subjects": list(subjects)}
