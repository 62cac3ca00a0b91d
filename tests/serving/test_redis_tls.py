"""Redis over TLS: an authority of the user's own, and a server that asks who comes."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from feast import FeatureStore

from extensions.errors import SkewlessError
from extensions.serving.settings import Settings
from tests.served import serving
from tests.serving.test_faults import Proxy

RANKING = {"userId": 1, "itemIds": [1, 2, 3], "context": {"requestHour": 21}}


class TlsProxy(Proxy):
    """As `Proxy`, but who comes must speak TLS and show a certificate of the authority."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.context = context
        super().__init__(port)

    def _accept(self) -> None:
        while True:
            try:
                bare, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(bare,), daemon=True).start()

    def _serve(self, bare: socket.socket) -> None:
        try:
            inner = self.context.wrap_socket(bare, server_side=True)
        except OSError:
            bare.close()
            return
        with socket.create_connection(("127.0.0.1", self.target)) as outer:
            back = threading.Thread(target=self._pump, args=(outer, inner), daemon=True)
            back.start()
            self._pump(inner, outer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's certificate; a client's certificate and key."""
    made, found = trustme.CA(), tmp_path_factory.mktemp("authority")
    made.cert_pem.write_to_path(found / "ca.pem")
    client = made.issue_cert("worker@skewless.example")
    client.cert_chain_pems[0].write_to_path(found / "client.pem")
    client.private_key_pem.write_to_path(found / "client.key")
    server = made.issue_cert("127.0.0.1", "localhost")
    server.cert_chain_pems[0].write_to_path(found / "server.pem")
    server.private_key_pem.write_to_path(found / "server.key")
    return found


@pytest.fixture(scope="module")
def proxy(redis_url: str, folder: Path) -> Iterator[TlsProxy]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    made = TlsProxy(int(redis_url.rpartition(":")[2].partition("/")[0]), context)
    yield made
    made.listening.close()


def served(store: FeatureStore, repo: Path, proxy: TlsProxy, options: str) -> Iterator[str]:
    settings = store.config.online_store
    before = settings.connection_string
    rest = before.partition(",")[2]
    settings.connection_string = f"127.0.0.1:{proxy.port},{rest},ssl=true{options}"
    own, store._provider = store._provider, None
    try:
        yield from serving(Settings(repo=repo, poll=0.2), store)
    finally:
        settings.connection_string, store._provider = before, own


def test_with_the_authority_and_a_certificate(
    feast_store: FeatureStore, repo_root: Path, proxy: TlsProxy, folder: Path
) -> None:
    options = f",ssl_ca_certs={folder}/ca.pem"
    options += f",ssl_certfile={folder}/client.pem,ssl_keyfile={folder}/client.key"
    for url in served(feast_store, repo_root, proxy, options):
        with httpx.Client(base_url=url, timeout=10) as http:
            assert http.get("/v1/features/user/1").status_code == 200
            asked = http.post("/v1/features/rank?include=meta", json=RANKING)
            near = asked.json()["meta"]["item_stats"]["near"]
            assert "generation" in near, near  # the follower's connection is over TLS, too


def test_a_file_that_is_not_there_is_one_sentence(
    feast_store: FeatureStore, repo_root: Path, proxy: TlsProxy, folder: Path
) -> None:
    with pytest.raises(SkewlessError, match=r"No such file.*ssl_ca_certs"):
        next(served(feast_store, repo_root, proxy, f",ssl_ca_certs={folder}/nothing.pem"))


@pytest.mark.parametrize("lacks", ["authority", "certificate"])
def test_without_them_it_is_not_ready_and_says_503(
    feast_store: FeatureStore, repo_root: Path, proxy: TlsProxy, folder: Path, lacks: str
) -> None:
    options = "" if lacks == "authority" else f",ssl_ca_certs={folder}/ca.pem"
    for url in served(feast_store, repo_root, proxy, options):
        with httpx.Client(base_url=url, timeout=10) as http:
            time.sleep(0.5)
            answer = http.get("/v1/features/user/1")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert http.get("/ready").status_code == 503
