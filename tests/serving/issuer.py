"""An issuer of tokens on loopback: discovery document, keys, and tokens signed with them."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm


class Issuer:
    """As Keycloak would answer; ``away`` holds every answer back until it is cleared."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.other_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        # Keys by the name that tokens give; by path, what is said instead of the truth.
        self.keys = {"one": self.key}
        self.broken: dict[str, bytes] = {}
        self.asked = 0
        self.answering = threading.Event()
        self.answering.set()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                issuer.answering.wait(20)
                document = json.dumps(issuer.document(self.path)).encode()
                body = issuer.broken.get(self.path, document)
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def document(self, path: str) -> dict[str, Any]:
        if path == "/keys":
            return {"keys": [
                {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True),
                 "kid": kid, "use": "sig", "alg": "RS256"}
                for kid, key in self.keys.items()
            ]}  # fmt: skip
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "token_endpoint": f"{self.url}/token",
            "authorization_endpoint": f"{self.url}/authorize",
        }

    def token(self, *roles: str, name: str = "ann", lasts: float = 60, **more: Any) -> str:
        key, kid = more.pop("key", self.key), more.pop("kid", "one")
        claims = {
            "preferred_username": name,
            "resource_access": {"skewless": {"roles": list(roles)}},
            "exp": time.time() + lasts,
            "iss": self.url,
            **more,
        }
        return jwt.encode(claims, key, "RS256", headers={"kid": kid})

    def close(self) -> None:
        self.answering.set()
        self.server.shutdown()
        self.server.server_close()
